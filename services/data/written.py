"""Rows that a model wrote as JSON lines: which of them are usable, and the journal that lets the work go on later.

The journal has a line for each request, with the rows it gave; a torn last line, left by a crash, is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.data import near
from services.data.types import Row
from services.errors import HybridError, Refused

_SHORTEST, _LONGEST = 8, 600  # letters of a usable text


class Asked(msgspec.Struct, frozen=True):
    """A line of the journal: request ``number``, the row it gave or why the line was ``dropped``, what it cost
    (``tokens`` written, ``seconds``)."""

    number: int
    kept: Row | None
    dropped: str
    tokens: int
    seconds: float


class Sieve:
    """Takes in lines and keeps what is JSON of the right form, of the label asked for, and new."""

    def __init__(self, examples: Iterable[Row], kept: Iterable[Row], labels: frozenset[str]) -> None:
        """``labels`` empty: rows are questions and answers, fields text and answer; else text and label."""
        self._field = "label" if labels else "answer"
        self._labels = labels
        seeds = [near.words(row.text) for row in examples]
        self._examples = near.NearIndex(near.frequencies(seeds))
        for tokens in seeds:
            self._examples.add(tokens)
        self._rows = near.NearIndex(near.frequencies(seeds))
        for row in kept:
            self._rows.add(near.words(row.text))

    def take(self, line: str, label: str, *, cut: bool = False) -> tuple[Row | None, str]:
        """The row in ``line``, from now on one that others must differ from; or None and why it is dropped.

        ``cut``: the line was not finished.
        """
        found = "cut off" if cut else self._row(line, label)
        if isinstance(found, str):
            return None, found
        self._rows.add(near.words(found.text))
        return found, ""

    def _row(self, line: str, label: str) -> Row | str:
        """The row, or why it is none."""
        try:
            value: Any = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            return "not JSON"
        if not isinstance(value, dict) or set(value) != {"text", self._field}:
            return "other fields"
        text, answer = value["text"], value[self._field]
        if not isinstance(text, str) or not isinstance(answer, str) or not answer.strip():
            return "other fields"
        text, answer = " ".join(text.split()), answer.strip()
        if self._labels and answer != label:
            return "another label"
        if not _SHORTEST <= len(text) <= _LONGEST or len(near.words(text)) < 2:
            return "too short or too long"
        tokens = near.words(text)
        if self._examples.find(tokens) is not None:
            return "repeats an example"
        if self._rows.find(tokens) is not None:
            return "repeats a row"
        return Row(text, answer)


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Nobody else writes rows in ``place`` meanwhile; a lock that ends with its process. Raises Refused when held."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(place.name + ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"Another call is writing rows for '{place.name}' now.", hint="Wait for it, or take another name=."
            ) from None
        yield


def read_journal(path: Path) -> list[Asked]:
    """The requests so far. Raises HybridError when a line before the last is damaged."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    torn = lines.pop()
    try:
        asked = [msgspec.json.decode(line, type=Asked) for line in lines]
    except msgspec.MsgspecError as error:
        raise HybridError(f"{path} is damaged: {error}.", hint="Start over with fresh=true.") from None
    if torn:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
    return asked


def append(path: Path, asked: Asked) -> None:
    """Add a request to the journal, flushed to the disk."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(asked) + b"\n")
        file.flush()
        os.fsync(file.fileno())
