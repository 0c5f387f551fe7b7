"""Writes a transfer's events, in the format of a run's (``services.runs.types.Event``). One writer: the worker."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from services.transfers.meter import Reading

ROTATE_BYTES = 256_000
BUSY_S = 60.0  # after so long one report a second will do
_SLOW_S = 1.0


class Journal:
    """Appends to ``events-NNNNNN.jsonl``; every attempt begins a file of its own, so that a torn line stays the last.

    Raises OSError when the disk is full at a phase or the end; figures are dropped then.
    """

    def __init__(self, folder: Path, id: str, attempt: int) -> None:
        self._folder = folder
        self._stamp = {"v": 1, "run": id, "attempt": attempt}
        self._seq = 0
        self._fd = -1
        self._size = 0
        self._began = time.monotonic()
        self._figures_at = -1.0

    def phase(self, name: str, **data: Any) -> None:
        """The transfer is "running", "retrying" or "paused" from now on."""
        self._write("phase", {"phase": name, **data}, durable=True)

    def figures(self, reading: Reading, *, last: bool = False) -> None:
        """How far it is. After the first minute at most once a second."""
        now = time.monotonic()
        if not last and now - self._began > BUSY_S and now - self._figures_at < _SLOW_S:
            return
        self._figures_at = now
        with contextlib.suppress(OSError):
            self._write("metric", msgspec.to_builtins(reading))

    def end(self, phase: str, reason: str = "", hint: str = "", **data: Any) -> None:
        """It is over: "done", "failed" or "cancelled"."""
        self._write("end", {"phase": phase, "reason": reason, "hint": hint, **data}, durable=True)

    def close(self) -> None:
        """No more events."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, ev: str, data: dict[str, Any], *, durable: bool = False) -> None:
        if self._fd < 0 or self._size >= ROTATE_BYTES:
            self._open_next()
        event = {**self._stamp, "seq": self._seq + 1, "t": round(time.time(), 3), "ev": ev, "data": data}
        line = msgspec.json.encode(event) + b"\n"
        written = os.write(self._fd, line)
        self._size += written
        if written < len(line):  # the disk is full: the rest of the line would be half an event
            os.ftruncate(self._fd, self._size - written)
            self._size -= written
            raise OSError(28, os.strerror(28), str(self._folder))
        self._seq += 1
        if durable:
            with contextlib.suppress(OSError):  # some mounts refuse it; the write itself stands
                os.fsync(self._fd)

    def _open_next(self) -> None:
        taken = (int(p.stem[7:]) for p in self._folder.glob("events-*.jsonl") if p.stem[7:].isdigit())
        path = self._folder / f"events-{max(taken, default=0) + 1:06d}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd, self._size = fd, 0
