"""What counting words alone achieves on a dataset: the figure a model has to beat, known before training costs time.

Multinomial naive Bayes on words and pairs of neighbouring words with add-one smoothing (Manning, Raghavan and Schütze,
Introduction to Information Retrieval, chapter 13).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context
from services.data import scores, store
from services.data.types import Row, Split
from services.errors import BadInput


class BaselineParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dataset and split."""

    name: Annotated[str, Meta(description="Name of a dataset of labels, or its folder.")]
    split: Annotated[Split, Meta(description="Split to measure on.")] = "test"


class Baseline(msgspec.Struct, frozen=True):
    """Shares of one on ``rows`` rows; ``seconds`` is counting and answering together."""

    dataset: str
    split: str
    accuracy: float
    macro_f1: float
    rows: int
    seconds: float


async def baseline(ctx: Context, params: BaselineParams) -> Baseline:
    """Train on the split "train", measure on another. Raises BadInput when the dataset's answers are no labels."""
    folder = store.resolve(ctx.workspace, params.name)
    return await asyncio.to_thread(_measure, params, folder)


def _measure(params: BaselineParams, folder: Path) -> Baseline:
    info = store.load_info(folder)
    if info.task != "classify":
        raise BadInput(f"{info.name} has free answers; the baseline counts words per label.", hint="Choose another.")
    started = time.monotonic()
    rows = store.read_rows(folder, params.split)
    classifier = NaiveBayes(store.read_rows(folder, "train"))
    predicted = [classifier.label(row.text) for row in rows]
    truth = [row.answer for row in rows]
    return Baseline(
        info.name,
        params.split,
        scores.accuracy(truth, predicted),
        scores.macro_f1(truth, predicted),
        len(rows),
        time.monotonic() - started,
    )


def _features(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", text.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


class NaiveBayes:
    """Learned from ``rows`` when made."""

    def __init__(self, rows: Sequence[Row]) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            counts[row.answer].update(_features(row.text))
        vocabulary = len(set().union(*counts.values())) if counts else 0
        self._prior = {label: math.log(n / len(rows)) for label, n in Counter(row.answer for row in rows).items()}
        self._unseen = {label: -math.log(found.total() + vocabulary) for label, found in counts.items()}
        self._gain = {label: {f: math.log(n + 1) for f, n in found.items()} for label, found in counts.items()}

    def label(self, text: str) -> str:
        """The likeliest label for ``text``; among equals the first by name."""
        features = _features(text)

        def score(label: str) -> float:
            gain = self._gain[label]
            return self._prior[label] + len(features) * self._unseen[label] + sum(gain.get(f, 0.0) for f in features)

        return max(sorted(self._prior), key=score)
