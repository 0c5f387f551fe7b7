"""The actions data.generate, data.prepare, data.list and data.show."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context
from services.data import store
from services.data.generate import GenerateParams, generate
from services.data.prepare import PrepareParams, prepare
from services.data.types import Datasets, DatasetView, LabelCount, Row, Split

__all__ = [
    "GenerateParams",
    "ListParams",
    "PrepareParams",
    "ShowParams",
    "generate",
    "list_datasets",
    "prepare",
    "show",
]


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class ShowParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dataset, and how many rows of which split to show."""

    name: Annotated[str, Meta(description="Name of a dataset, or its folder.")]
    split: Annotated[Split, Meta(description="Split the samples are from.")] = "train"
    samples: Annotated[int, Meta(ge=0, le=1000, description="How many rows to show.")] = 8
    seed: Annotated[int, Meta(description="Another seed shows other rows.")] = 0


async def list_datasets(ctx: Context, params: ListParams) -> Datasets:
    """The workspace's datasets by name, and what in their folder can't be read."""
    return await asyncio.to_thread(store.all_datasets, ctx.workspace)


async def show(ctx: Context, params: ShowParams) -> DatasetView:
    """One dataset: its description, labels by split, lengths in words, samples. Raises BadInput when it is damaged."""
    folder = store.resolve(ctx.workspace, params.name)
    return await asyncio.to_thread(_view, folder, params)


def _view(folder: Path, params: ShowParams) -> DatasetView:
    info = store.load_info(folder)
    rows = {split: store.read_rows(folder, split) for split in store.SPLITS}
    problems = []
    if store.file_digest(folder) != info.sha256:
        problems.append(f"The split files in {folder} are not those that were stored: their SHA-256 differs.")
    shown = rows[params.split]
    if params.samples < len(shown):
        shown = random.Random(params.seed).sample(shown, params.samples)
    return DatasetView(
        info=info,
        labels=_label_counts(rows) if info.task == "classify" else (),
        words={split: _lengths(rows[split]) for split in store.SPLITS},
        samples=tuple(shown),
        bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        problems=tuple(problems),
    )


def _label_counts(rows: dict[Split, list[Row]]) -> tuple[LabelCount, ...]:
    by_split = {split: Counter(row.answer for row in rows[split]) for split in store.SPLITS}
    labels = sorted(set().union(*by_split.values()))
    return tuple(
        LabelCount(label, by_split["train"][label], by_split["val"][label], by_split["test"][label]) for label in labels
    )


def _lengths(rows: list[Row]) -> dict[str, float]:
    """Lengths of the texts in words: min, median, p95, max; empty without rows."""
    if not rows:
        return {}
    lengths = sorted(len(row.text.split()) for row in rows)
    last = len(lengths) - 1
    return {"min": lengths[0], "median": lengths[last // 2], "p95": lengths[int(0.95 * last)], "max": lengths[-1]}
