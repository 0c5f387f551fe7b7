"""Reads a run's events as they grow. The files are the truth: a damaged line is named and skipped, nothing is fatal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from services.runs.types import Event

CHUNK = 1 << 20  # bytes read in one poll, so that a long history neither blocks nor fills memory

# A long history is read in a thread of a panel that must answer keys meanwhile: the interpreter is let go this often.
_LINES_AT_ONCE = 200
_PAUSE_S = 0.0002

_decoder = msgspec.json.Decoder(Event)


class Follower:
    """Follows the event files of ``run_dir`` from their beginning; each event comes once.

    A line still being written is left for the next poll. Lines that can't be read, torn ends of older files and
    missing numbers are in ``problems``, by file and line.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path: Path | None = None
        self._offset = 0
        self._line = 0
        self._skipping = False
        self._damaged: list[str] = []
        self._lost_lines = 0
        self._attempts: dict[int, _Sequence] = {}
        self.behind = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, in words."""
        gaps = [text for sequence in self._attempts.values() for text in sequence.problems()]
        return (*self._damaged, *gaps)

    def poll(self) -> list[Event]:
        """New events, from at most about 1 MB of the files; ``behind`` tells whether there is more at once."""
        files = sorted(self._run_dir.glob("events-*.jsonl"))
        found: list[Event] = []
        budget = CHUNK
        self.behind = False
        while files:
            if self._path is None:
                self._enter(files[0])
            later = [path for path in files if self._path is not None and path.name > self._path.name]
            taken, at_end = self._read(found, last=not later)
            budget -= taken
            if at_end and not later:
                break
            if at_end:
                self._enter(later[0])
            if budget <= 0:
                self.behind = True
                break
        return found

    def all(self) -> Iterator[Event]:
        """Every event from here to the end of what is written, in bounded memory."""
        yield from self.poll()
        while self.behind:
            yield from self.poll()

    def _enter(self, path: Path) -> None:
        self._path, self._offset, self._line, self._skipping = path, 0, 0, False

    def _read(self, found: list[Event], *, last: bool) -> tuple[int, bool]:
        """Read one chunk of the current file into ``found``: (bytes taken, whether the file is at its end)."""
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    self._damage("the file became shorter; it is read again from its beginning", line=None)
                    self._enter(self._path)
                file.seek(self._offset)
                data = file.read(CHUNK)
        except OSError as error:
            self._damage(f"can't be read ({error.strerror})", line=None)
            return 0, True
        at_end = self._offset + len(data) >= size
        complete = data.rfind(b"\n") + 1
        for line in data[:complete].split(b"\n")[:-1]:
            self._line += 1
            if self._line % _LINES_AT_ONCE == 0:
                time.sleep(_PAUSE_S)
            if self._skipping:
                self._skipping = False
            else:
                self._take(line, found)
        self._offset += complete
        self._rest(data[complete:], at_end=at_end, last=last)
        return max(complete, 1), at_end

    def _rest(self, rest: bytes, *, at_end: bool, last: bool) -> None:
        """Bytes after the last newline: a line in the making, a torn end, or no line at all."""
        if len(rest) >= CHUNK:
            if not self._skipping:
                self._damage("longer than any event")
            self._skipping = True
            self._offset += len(rest)
        elif rest and at_end and not last:
            if not self._skipping:
                self._damage("torn at the end of the file")
            self._line += 1

    def _take(self, line: bytes, found: list[Event]) -> None:
        assert self._path is not None
        try:
            event = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._damage(f"not an event ({error})", line=self._line)
            return
        if event.seq < 1 or event.attempt < 1:
            self._damage("not an event (seq and attempt count from 1)", line=self._line)
            return
        sequence = self._attempts.setdefault(event.attempt, _Sequence(event.attempt))
        if sequence.accept(event.seq, f"{self._path.name}:{self._line}", self._lost_lines):
            self._lost_lines = 0
            found.append(event)

    def _damage(self, what: str, line: int | None = -1) -> None:
        assert self._path is not None
        where = "" if line is None else f":{self._line + 1 if line < 0 else line}"
        text = f"{self._path.name}{where}: {what}"
        self._lost_lines += line is not None
        if text not in self._damaged:
            self._damaged.append(text)


def skim(history: Iterable[Event]) -> Iterator[Event]:
    """``history`` without the figures that the very next event replaces: all that a fold of it needs, far fewer."""
    held: Event | None = None
    for event in history:
        if held is not None and not _replaces(event, held):
            yield held
        held = event
    if held is not None:
        yield held


def _replaces(new: Event, old: Event) -> bool:
    return (
        new.ev == old.ev == "metric"
        and new.attempt == old.attempt
        and new.seq > old.seq
        and new.data.keys() == old.data.keys()
        and new.data.get("split") == old.data.get("split")
    )


class _Sequence:
    """Which numbers of one attempt have been seen."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._high = 0
        self._gaps: list[tuple[int, int, str]] = []  # first, last, where it was noticed ("" = explained already)

    def accept(self, seq: int, where: str, lost_lines: int) -> bool:
        """Whether ``seq`` is new. ``lost_lines`` damaged lines just before it explain a gap of as many."""
        if seq > self._high:
            if seq > self._high + 1:
                explained = seq - self._high - 1 <= lost_lines
                self._gaps.append((self._high + 1, seq - 1, "" if explained else where))
            self._high = seq
            return True
        for index, (first, last, noticed) in enumerate(self._gaps):
            if first <= seq <= last:
                rest = [(first, seq - 1, noticed), (seq + 1, last, noticed)]
                self._gaps[index : index + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                return True
        return False

    def problems(self) -> Iterator[str]:
        """A sentence for each gap that no damaged line explains."""
        for first, last, where in self._gaps:
            if where:
                which = f"event {first}" if first == last else f"events {first} to {last}"
                yield f"{where}: {which} of attempt {self._attempt} missing before this line"


def read_end(run_dir: Path, attempt: int) -> Event | None:
    """The end event in ``attempts/N/end.json``, should a full disk have kept it out of the events."""
    try:
        return _decoder.decode((run_dir / "attempts" / str(attempt) / "end.json").read_bytes().strip())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # spaces only: the attempt has not ended
