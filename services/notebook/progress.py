"""One line under the cell that says how far a long transfer is."""

from __future__ import annotations

import time
from types import TracebackType

from services import formats
from services.context import Progress

_EVERY = 0.5  # seconds between two lines; the first comes after as long, so short transfers print none


class Line:
    """``title 12 MB of 90 MB``, rewritten in place. Use it as a context manager."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._done = 0
        self._last = time.monotonic()
        self._width = 0

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", flush=True)

    def report(self, progress: Progress) -> None:
        """For a Context."""
        if progress.unit == "bytes" and progress.total:
            self._show(int(progress.done), int(progress.total))

    def add(self, n: int, total: int) -> None:
        """``n`` more bytes of ``total``."""
        self._done += n
        self._show(self._done, total)

    def _show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        text = f"{self.title} {formats.size(done)} of {formats.size(total)}"
        print("\r" + text.ljust(self._width), end="", flush=True)
        self._width = max(self._width, len(text))
