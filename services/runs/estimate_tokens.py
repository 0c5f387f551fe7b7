"""How many tokens a dataset is: counted with the model's own tokenizer, else reckoned from words and said so."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.data import prompts, store
from services.data.types import DatasetInfo, Row, Split

MOST_ROWS = 20_000  # of a split; a larger one is counted on as many, evenly taken
_CHUNK = 20  # batches' worth of rows that the trainer sorts by length together
PER_WORD = 1.4  # tokens a word of English with usual tokenizers, when there is none to count with


class Tokens(msgspec.Struct, frozen=True):
    """``train`` and ``test``: tokens of these splits; ``labels`` of the training tokens are predicted.

    ``longest`` is of training rows, cut at the run's max_length; ``cut`` rows are longer. ``counted`` has the tokens of
    each training row that was looked at and how many of them are predicted; it stands for ``factor`` rows. ``source``
    says how they were counted.
    """

    train: int
    test: int
    labels: int
    longest: int
    cut: int
    rows: int
    source: str
    counted: tuple[tuple[int, int], ...] = ()
    factor: float = 1.0


class Batches(msgspec.Struct, frozen=True):
    """The batches of a pass: how many, of how many ``sizes``, and the most that one of them has of each: real tokens,
    positions with the shorter rows filled up, pairs of positions that attention weighs, labels."""

    count: int
    sizes: int
    tokens: int
    positions: int
    pairs: int
    labels: int


def batches(tokens: Tokens, *, rows: int, most: int, seed: int) -> Batches:
    """The first pass's batches of at most ``rows`` rows and ``most`` tokens, cut as the trainer cuts them."""
    order = list(tokens.counted)
    random.Random(f"{seed}/0").shuffle(order)
    cut: list[list[tuple[int, int]]] = []
    for start in range(0, len(order), _CHUNK * rows):
        used = most + 1  # a chunk begins with a batch of its own
        for row in sorted(order[start : start + _CHUNK * rows]):
            if used + row[0] > most or len(cut[-1]) == rows:
                cut.append([])
                used = 0
            cut[-1].append(row)
            used += row[0]
    sizes = [(len(batch), batch[-1][0]) for batch in cut]  # the longest comes last
    real = [sum(length for length, _ in batch) for batch in cut]
    return Batches(
        count=max(1, math.ceil(len(cut) * tokens.factor)),
        sizes=len(set(real)),
        tokens=max(real, default=1),
        positions=max((count * longest for count, longest in sizes), default=1),
        pairs=max((count * longest**2 for count, longest in sizes), default=1),
        labels=max((sum(labels for _, labels in batch) for batch in cut), default=1),
    )


def count(model: Path, data: Path, info: DatasetInfo, *, max_length: int, head: bool, encoder: bool = False) -> Tokens:
    """Count the training and test rows as the trainer reads them. ``head``: a classification head, one label a row;
    that of an ``encoder`` reads the text without the dataset's prompt.

    Raises BadInput when the dataset's files are missing or damaged.
    """
    backend = _backend(model)
    train, factor = _rows(data, info, "train")
    test, test_factor = _rows(data, info, "test")
    lengths, labels = _lengths(backend, info, train, head, encoder)
    tested, _ = _lengths(backend, info, test, head, encoder)
    kept = [min(length, max_length) for length in lengths]
    how = "counted with the model's tokenizer" if backend is not None else f"{PER_WORD} for each word, not counted"
    if factor > 1:
        how += f", on {len(train):,} rows of {info.counts['train']:,}"
    return Tokens(
        train=round(sum(kept) * factor),
        test=round(sum(min(length, max_length) for length in tested) * test_factor),
        labels=round(sum(labels) * factor),
        longest=max(kept, default=0),
        cut=round(sum(length > max_length for length in lengths) * factor),
        rows=info.counts.get("train", len(train)),
        source=how,
        counted=tuple(zip(kept, labels, strict=True)),
        factor=factor,
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


def _lengths(
    backend: Any, info: DatasetInfo, rows: Sequence[Row], head: bool, encoder: bool
) -> tuple[list[int], list[int]]:
    """Tokens of each row with its end, and how many of them are predicted."""
    if head and encoder:
        return [length + 2 for length in _sizes(backend, [row.text.strip() for row in rows])], [1] * len(rows)
    asked = [_asked(info, row) for row in rows]
    answers = [prompts.completion(row.answer, classify=info.task == "classify") for row in rows]
    begin = 1 if backend is not None and backend.encode("").ids else 0  # what some tokenizers put before every text
    before, after = [begin + size for size in _sizes(backend, asked)], _sizes(backend, answers)
    if head:
        return before, [1] * len(rows)
    return [a + b + 1 for a, b in zip(before, after, strict=True)], [b + 1 for b in after]


def _asked(info: DatasetInfo, row: Row) -> str:
    if not row.messages:
        return prompts.render(info.prompt, row.text)
    return "".join(f"<|{turn.role}|>\n{turn.content}\n" for turn in row.messages[:-1])  # about what a template adds


def _sizes(backend: Any, texts: Sequence[str]) -> list[int]:
    if backend is None:
        return [round(len(text.split()) * PER_WORD) for text in texts]
    return [len(encoded.ids) for encoded in backend.encode_batch(list(texts), add_special_tokens=False)]
