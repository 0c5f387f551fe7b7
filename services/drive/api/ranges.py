"""Which ranges of a file are there, and the journal that says so after a crash, with their hashes."""

from __future__ import annotations

import bisect
import contextlib
import os
from pathlib import Path

import msgspec

from services.drive.api.types import DriveFile


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The journal's first line: what is being fetched."""

    id: str
    size: int
    sha256: str
    md5: str


class Done(msgspec.Struct, frozen=True, array_like=True):
    """One range that is written: its bytes have this sha256. From 0 on it is the hash of all that came in order."""

    at: int
    end: int
    sha256: str


class Ranges:
    """Disjoint ranges, sorted, joined where they touch."""

    def __init__(self) -> None:
        self._all: list[tuple[int, int]] = []

    def add(self, at: int, end: int) -> None:
        """The bytes from ``at`` to ``end`` are there."""
        bisect.insort(self._all, (at, end))
        joined: list[tuple[int, int]] = []
        for start, stop in self._all:
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
            else:
                joined.append((start, stop))
        self._all = joined

    @property
    def have(self) -> int:
        """How many bytes are there."""
        return sum(end - at for at, end in self._all)

    @property
    def front(self) -> int:
        """Up to here there is no gap."""
        return self._all[0][1] if self._all and self._all[0][0] == 0 else 0

    def gaps(self, size: int, most: int) -> list[tuple[int, int]]:
        """What is missing of ``size`` bytes, from the start on, in ranges of at most ``most`` bytes."""
        found, at = [], 0
        for start, end in [*self._all, (size, size)]:
            while at < start:
                found.append((at, min(at + most, start)))
                at = found[-1][1]
            at = max(at, end)
        return found


class Log:
    """The journal of one download, appended to line by line: a line is there whole, or is left out when read."""

    def __init__(self, path: Path, file: DriveFile) -> None:
        assert file.size is not None
        self._path = path
        self._head = Head(file.id, file.size, file.sha256, file.md5)
        self._fd = -1

    def read(self) -> list[Done]:
        """What was noted, nothing when it is of another file."""
        try:
            lines = self._path.read_bytes().split(b"\n")
            if msgspec.json.decode(lines[0], type=Head) != self._head:
                return []
        except (OSError, msgspec.DecodeError):
            return []
        done = []
        for line in lines[1:]:
            with contextlib.suppress(msgspec.DecodeError):
                done.append(msgspec.json.decode(line, type=Done))
        return [d for d in done if 0 <= d.at < d.end <= self._head.size]

    def open(self, *, anew: bool) -> None:
        """Go on with it, or begin it ``anew``. Raises OSError."""
        if anew:
            self.forget()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if anew:
            os.write(self._fd, msgspec.json.encode(self._head) + b"\n")

    def note(self, at: int, end: int, sha256: str) -> None:
        """One more range is written. Raises OSError."""
        os.write(self._fd, msgspec.json.encode(Done(at, end, sha256)) + b"\n")

    def forget(self) -> None:
        """Remove it."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it; it stays."""
        if self._fd >= 0:
            os.close(self._fd)
