"""How far a transfer is: bytes of each file and in all, a smoothed rate, the time that is left.

A store may tell more about the line than bytes that arrived: an attribute ``stats`` with any of ``retries``,
``sent_bytes``, ``received_bytes`` and ``last_trouble`` (``services.drive.api.types.Stats`` is one).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from services.drive.store import Store
from services.transfers.types import FileProgress

REPORT_S = 0.25  # four reports a second at most
_SMOOTH_S = 4.0  # over about so many seconds the rate is averaged
_MOST_FILES = 12  # files on their way that one report names


class Line(msgspec.Struct, frozen=True):
    """What the store says of its line since the transfer began."""

    retries: int = 0
    moved_bytes: int | None = None
    trouble: str = ""


class Reading(msgspec.Struct, frozen=True):
    """A transfer now. ``moved_bytes`` went over the line in this attempt, what had to be sent twice counted twice."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    moved_bytes: int
    rate: float | None
    eta_s: float | None
    retries: int
    trouble: str
    files: tuple[FileProgress, ...]


class Meter:
    """Hears of bytes (``hear``) and tells ``report`` at most four times a second, whenever ``tick`` is called.

    ``sizes`` are the files that travel; ``total_bytes`` and ``total_files`` what the first attempt had to move: the
    difference is done already.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        report: Callable[[Reading], None],
        store: Store | None = None,
        *,
        total_bytes: int = 0,
        total_files: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sizes = dict(sizes)
        self._report = report
        self._store = store
        self._clock = clock
        self._done: dict[str, int] = {}
        self._over: set[str] = set()  # files that arrived
        self._moved = 0
        all_bytes = sum(self._sizes.values())
        self._total_bytes, self._total_files = max(total_bytes, all_bytes), max(total_files, len(self._sizes))
        self._before_bytes, self._before_files = self._total_bytes - all_bytes, self._total_files - len(self._sizes)
        self._bytes = 0
        self._rate: float | None = None
        self._changed = True
        self._told_at = -math.inf
        self._seen = (clock(), 0)
        self._first = line(store)

    def hear(self, n: int, path: str) -> None:
        """``n`` more bytes of ``path`` arrived; negative ones must be sent again."""
        before = self._done.get(path, 0)
        after = min(max(before + n, 0), self._sizes.get(path, 0))
        self._done[path] = after
        self._bytes += after - before
        self._moved += max(n, 0)
        self._changed = True
        if after >= self._sizes.get(path, 0):
            self._over.add(path)
        else:
            self._over.discard(path)

    def arrived(self, paths: Iterable[str]) -> None:
        """These files are whole at the other side."""
        for path in paths:
            self._bytes += self._sizes[path] - self._done.get(path, 0)
            self._done[path] = self._sizes[path]
            self._over.add(path)
        self._changed = True

    def tick(self, *, last: bool = False) -> None:
        """Report when something changed and the last report is old enough; ``last``: now."""
        now = self._clock()
        if not last and now - self._told_at < REPORT_S:
            return
        stalled = not self._changed and bool(self._rate) and now - self._told_at >= 1.0
        if not (self._changed or stalled or last):
            return
        self._measure(now)
        self._told_at, self._changed = now, False
        self._report(self.reading())

    def _measure(self, now: float) -> None:
        then, had = self._seen
        if (span := now - then) <= 0:
            return
        moved = self._over_the_line()
        if self._rate is None and not moved:
            return
        fresh = max(moved - had, 0) / span
        weight = 1 - math.exp(-span / _SMOOTH_S)
        self._rate = fresh if self._rate is None else self._rate + weight * (fresh - self._rate)
        self._seen = (now, moved)

    def _over_the_line(self) -> int:
        """Bytes that really travelled; what a store goes on from, left by an earlier attempt, is none of them."""
        told = line(self._store).moved_bytes
        return self._moved if told is None else told - (self._first.moved_bytes or 0)

    def reading(self) -> Reading:
        """How it stands now."""
        told = line(self._store)
        left = self._total_bytes - self._before_bytes - self._bytes
        eta = left / self._rate if self._rate and self._rate > 1 else None
        active = [p for p, n in self._done.items() if n and p not in self._over]
        return Reading(
            done_bytes=self._before_bytes + self._bytes,
            total_bytes=self._total_bytes,
            done_files=self._before_files + len(self._over),
            total_files=self._total_files,
            moved_bytes=self._over_the_line(),
            rate=self._rate,
            eta_s=eta if left else 0.0,
            retries=told.retries - self._first.retries,
            trouble=told.trouble if told.retries > self._first.retries else "",
            files=tuple(FileProgress(p, self._done[p], self._sizes[p]) for p in active[-_MOST_FILES:]),
        )


def line(store: Store | None) -> Line:
    """What the store's ``stats`` say; nothing where it has none."""
    stats = getattr(store, "stats", None)
    if stats is None:
        return Line()
    moved = getattr(stats, "sent_bytes", 0) + getattr(stats, "received_bytes", 0)
    return Line(getattr(stats, "retries", 0), moved, str(getattr(stats, "last_trouble", "")))
