"""How good a model is on held-out rows: classification along the tree of labels, free answers by exact match.

Base and adapter get the same prompt and the same closed set of answers, so that their figures compare.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import torch

from services.data import prompts, store
from services.data.scores import accuracy, macro_f1
from services.data.types import Row, Split
from services.errors import BadInput
from services.runs.types import TrainConfig
from services.runtime import batches
from services.runtime.classifier import Classifier, has_head, open_classifier
from services.runtime.learner import Learner, Writer, open_learner
from services.runtime.tokenizer import Tokenizer
from services.runtime.trie import Node, label_trie

BATCH_ROWS = 64
BATCH_TOKENS = 4096
ANSWER_TOKENS = 128  # longest free answer that is compared


class Evaluation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Figures on ``rows`` rows. Shares of one; ``macro_f1`` is the mean F1 over the labels that occur in answers or
    predictions (None for free answers), ``perplexity`` that of the answers' tokens (None for labels)."""

    accuracy: float
    rows: int
    seconds: float
    macro_f1: float | None = None
    perplexity: float | None = None
    stopped: bool = False

    def figures(self) -> dict[str, float]:
        """What is known, by name, for events and reports."""
        known = {"accuracy": self.accuracy, "rows": float(self.rows), "seconds": self.seconds}
        if self.macro_f1 is not None:
            known["macro_f1"] = self.macro_f1
        if self.perplexity is not None:
            known["perplexity"] = self.perplexity
        return known


Progress = Callable[[int, int, float], None]
"""Called with rows done, rows in all, accuracy so far."""


def _quiet(done: int, total: int, accuracy: float) -> None:
    return None


def _never() -> bool:
    return False


def classify(learner: Writer, readied: Sequence[Sequence[int]], trie: Node) -> list[str]:
    """The label that each prompt is answered with: at every branch of ``trie`` the likeliest token that leads on."""
    answers = [""] * len(readied)
    waiting = list(range(len(readied)))
    nodes = [trie] * len(readied)
    scorer = learner.read(readied)
    while True:
        candidates = sorted({id for node in nodes for id in node.next})
        column = {id: i for i, id in enumerate(candidates)}
        keep: list[int] = []
        ids: list[int] = []
        branching = any(len(node.next) > 1 for node in nodes)
        scores = scorer.scores(torch.tensor(candidates, device=learner.device)) if branching else None
        for row, node in enumerate(nodes):
            allowed = list(node.next)
            best = 0
            if scores is not None and len(allowed) > 1:
                best = int(scores[row, [column[id] for id in allowed]].argmax())
            nodes[row] = node.next[allowed[best]]
            label = nodes[row].only()
            if label is None:
                keep.append(row)
                ids.append(allowed[best])
            else:
                answers[waiting[row]] = label
        if not keep:
            return answers
        scorer.advance(keep, ids)
        nodes = [nodes[row] for row in keep]
        waiting = [waiting[row] for row in keep]


def answer(learner: Writer, readied: Sequence[Sequence[int]], stop: frozenset[int], most: int) -> list[list[int]]:
    """The likeliest continuation of each prompt, token by token, without the id in ``stop`` that ends it."""
    written: list[list[int]] = [[] for _ in readied]
    waiting = list(range(len(readied)))
    scorer = learner.read(readied)
    for _ in range(most):
        best = scorer.scores(None).argmax(dim=-1).tolist()
        keep = [row for row, id in enumerate(best) if id not in stop]
        for row in keep:
            written[waiting[row]].append(best[row])
        if not keep:
            break
        scorer.advance(keep, [best[row] for row in keep])
        waiting = [waiting[row] for row in keep]
    return written


def _portions(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by length, cut into batches of bounded rows and padded size."""
    portions: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        fits = portions and len(portions[-1]) < BATCH_ROWS and (len(portions[-1]) + 1) * lengths[index] <= BATCH_TOKENS
        if fits:
            portions[-1].append(index)
        else:
            portions.append([index])
    return portions


def evaluate(
    learner: Learner,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    labels: Sequence[str],
    template: str,
    *,
    max_length: int = 512,
    progress: Progress = _quiet,
    stopped: Callable[[], bool] = _never,
) -> Evaluation:
    """Accuracy on ``rows``; ``labels`` empty means free answers, compared after trimming white space.

    When ``stopped`` says so the figures are those of the rows done so far.
    Raises BadInput when there are no rows or the template does not fit ``max_length``.
    """
    if not rows:
        raise BadInput("There are no rows to evaluate on.", hint="Look at the dataset: hybrid-tui --run data.show")
    started = time.monotonic()
    head = learner if isinstance(learner, Classifier) else None
    if head:
        readied = [batches.head_ids(tokenizer, template, row.text, max_length) for row in rows]
    else:
        readied = [batches.asked_ids(tokenizer, template, row, max_length, classify=bool(labels)) for row in rows]
    if any(found is None for found in readied):
        raise BadInput(f"The prompt's template alone is longer than {max_length} tokens.")
    known = [found for found in readied if found is not None]
    name = _namer(learner, tokenizer, labels)
    truth: list[str] = []
    predicted: list[str] = []
    done: list[Row] = []
    was_stopped = False
    for portion in _portions([len(found) for found in known]):
        if was_stopped := stopped():
            break
        predicted += name([known[i] for i in portion], [rows[i] for i in portion])
        done += [rows[i] for i in portion]
        truth += [rows[i].answer if labels else rows[i].answer.strip() for i in portion]
        progress(len(done), len(rows), accuracy(truth, predicted))
    perplexity = None if labels or not done else answer_perplexity(learner, tokenizer, done, template, max_length)
    return Evaluation(
        accuracy=accuracy(truth, predicted),
        rows=len(done),
        seconds=time.monotonic() - started,
        macro_f1=macro_f1(truth, predicted) if labels else None,
        perplexity=perplexity,
        stopped=was_stopped,
    )


def _namer(
    learner: Learner, tokenizer: Tokenizer, labels: Sequence[str]
) -> Callable[[Sequence[Sequence[int]], Sequence[Row]], list[str]]:
    """How ``learner`` answers several readied rows: by its head, along the tree of labels, or in free words."""
    if isinstance(learner, Classifier):
        return lambda chosen, _: [learner.labels[i] for i in learner.scores(chosen).argmax(dim=-1).tolist()]
    writer = cast(Writer, learner)
    if labels:
        trie = label_trie(tokenizer, labels)
        return lambda chosen, _: classify(writer, chosen, trie)

    def write(chosen: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[str]:
        most = _longest_answer(tokenizer, rows)
        return [tokenizer.decode(ids).strip() for ids in answer(writer, chosen, tokenizer.stop_ids, most)]

    return write


@torch.no_grad()
def mean_loss(
    learner: Learner,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    labels: Sequence[str],
    template: str,
    config: TrainConfig,
) -> tuple[float, int]:
    """Sum of the cross-entropies of what is learned of ``rows``, and how many labels that are."""
    length = config.max_length
    if isinstance(learner, Classifier):
        examples, _, _ = batches.encode_labelled(tokenizer, template, rows, learner.labels, max_length=length)
    else:
        examples, _, _ = batches.encode(tokenizer, template, rows, classify=bool(labels), max_length=length)
    total, count = 0.0, 0
    for batch in batches.epoch_batches(examples, epoch=0, seed=0, batch_rows=BATCH_ROWS, batch_tokens=BATCH_TOKENS):
        total += float(learner.loss(batch.examples, training=False))
        count += batch.labels
    return total, count


def _longest_answer(tokenizer: Tokenizer, rows: Sequence[Row]) -> int:
    """Tokens after which a longer answer can't be equal any more."""
    return min(
        max(len(tokenizer.encode(prompts.completion(r.answer, classify=False))) for r in rows) + 1, ANSWER_TOKENS
    )


@torch.no_grad()
def answer_perplexity(
    learner: Learner, tokenizer: Tokenizer, rows: Sequence[Row], template: str, max_length: int
) -> float | None:
    """exp of the mean cross-entropy of the answers' tokens; None when no row fits ``max_length``."""
    examples, _, _ = batches.encode(tokenizer, template, rows, classify=False, max_length=max_length)
    total, count = 0.0, 0
    for batch in batches.epoch_batches(examples, epoch=0, seed=0, batch_rows=BATCH_ROWS, batch_tokens=BATCH_TOKENS):
        total += float(learner.loss(batch.examples, training=False))
        count += batch.labels
    return math.exp(min(total / count, 700.0)) if count else None


def sample(rows: Sequence[Row], limit: int) -> list[Row]:
    """``limit`` of ``rows`` (0: all), always the same ones, spread over the file: files are often sorted by label."""
    if not limit or limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]


def evaluate_dataset(
    model: str,
    adapter: Path | None,
    data: Path,
    *,
    split: Split = "test",
    limit: int = 0,
    dtype: str = "auto",
    progress: Progress = _quiet,
    stopped: Callable[[], bool] = _never,
) -> Evaluation:
    """Open a model (with an adapter) and evaluate it on ``limit`` rows (0: all) of a prepared dataset's split.

    Raises BadInput or HybridError as ``open_learner`` and ``evaluate`` do.
    """
    info = store.load_info(data)
    rows = store.read_rows(data, split)
    learner = _opened(model, adapter, dtype)
    labels = info.labels if info.task == "classify" else ()
    tokenizer = Tokenizer(learner.folder)
    chosen = sample(rows, limit)
    return evaluate(learner, tokenizer, chosen, labels, info.prompt, progress=progress, stopped=stopped)


def _opened(model: str, adapter: Path | None, dtype: str) -> Learner:
    """The model with its adapter; with its head where the adapter, or the fully trained model, has one."""
    result = adapter or Path(model)
    if not has_head(result):
        return open_learner(model, dtype, adapter)
    return cast(Learner, open_classifier(model, result, dtype))
