"""How many tokens a dataset is: counted with the model's own tokenizer, else reckoned from words and said so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.data import prompts, store
from services.data.types import DatasetInfo, Row, Split

MOST_ROWS = 20_000  # of a split; a larger one is counted on as many, evenly taken
PER_WORD = 1.4  # tokens a word of English with usual tokenizers, when there is none to count with


class Tokens(msgspec.Struct, frozen=True):
    """``train`` and ``test``: tokens of these splits; ``labels`` of the training tokens are predicted.

    ``mean`` and ``longest`` are of training rows, cut at the run's max_length; ``cut`` rows are longer. ``source`` says
    how they were counted.
    """

    train: int
    test: int
    labels: int
    mean: float
    longest: int
    cut: int
    rows: int
    source: str


def count(model: Path, data: Path, info: DatasetInfo, *, max_length: int, head: bool) -> Tokens:
    """Count the training and test rows as the trainer reads them. ``head``: a classification head, one label a row.

    Raises BadInput when the dataset's files are missing or damaged.
    """
    backend = _backend(model)
    train, factor = _rows(data, info, "train")
    test, test_factor = _rows(data, info, "test")
    lengths, labels = _lengths(backend, info, train, head)
    tested, _ = _lengths(backend, info, test, head)
    kept = [min(length, max_length) for length in lengths]
    how = "counted with the model's tokenizer" if backend is not None else f"{PER_WORD} for each word, not counted"
    if factor > 1:
        how += f", on {len(train):,} rows of {info.counts['train']:,}"
    return Tokens(
        train=round(sum(kept) * factor),
        test=round(sum(min(length, max_length) for length in tested) * test_factor),
        labels=round(sum(labels) * factor),
        mean=sum(kept) / max(len(kept), 1),
        longest=max(kept, default=0),
        cut=round(sum(length > max_length for length in lengths) * factor),
        rows=info.counts.get("train", len(train)),
        source=how,
    )


def _rows(data: Path, info: DatasetInfo, split: Split) -> tuple[list[Row], float]:
    """Rows of a split, at most ``MOST_ROWS`` of them, and how many each stands for."""
    rows = list(store.read_rows(data, split))
    if len(rows) <= MOST_ROWS:
        return rows, 1.0
    step = len(rows) / MOST_ROWS
    return [rows[int(i * step)] for i in range(MOST_ROWS)], step


def _backend(model: Path) -> Any:
    try:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(model / "tokenizer.json"))
        backend.no_truncation()
        backend.no_padding()
    except Exception:  # the library raises bare Exception for a missing or damaged file
        return None
    return backend


def _lengths(backend: Any, info: DatasetInfo, rows: Sequence[Row], head: bool) -> tuple[list[int], list[int]]:
    """Tokens of each row with its end, and how many of them are predicted."""
    asked = [_asked(info, row) for row in rows]
    answers = [prompts.completion(row.answer, classify=info.task == "classify") for row in rows]
    before, after = _sizes(backend, asked), _sizes(backend, answers)
    if head:
        return [length + 2 for length in before], [1] * len(rows)
    return [a + b + 1 for a, b in zip(before, after, strict=True)], [b + 1 for b in after]


def _asked(info: DatasetInfo, row: Row) -> str:
    if not row.messages:
        return prompts.render(info.prompt, row.text)
    return "".join(f"<|{turn.role}|>\n{turn.content}\n" for turn in row.messages[:-1])  # about what a template adds


def _sizes(backend: Any, texts: Sequence[str]) -> list[int]:
    if backend is None:
        return [round(len(text.split()) * PER_WORD) for text in texts]
    return [len(encoded.ids) for encoded in backend.encode_batch(list(texts), add_special_tokens=False)]
