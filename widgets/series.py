"""The points of one curve: appended as they arrive, bounded in memory, reduced to what a screen column can show."""

from __future__ import annotations

import math
import operator
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

Point = tuple[float, float]


class Series:
    """A curve with ascending x. A y that is None, NaN or infinite is a gap: the line breaks there.

    A point at or before the last x replaces everything from that x on, since a resumed run repeats the steps
    after its checkpoint. Above ``limit`` points the history is halved, keeping the smallest and the largest of every
    four neighbours, so that spikes stay and memory is bounded.
    """

    def __init__(self, name: str, *, limit: int = 100_000) -> None:
        self.name = name
        self.limit = max(limit, 8)
        self.version = 0
        self.xs: array[float] = array("d")
        self.ys: array[float] = array("d")
        self.breaks: list[int] = []
        self._gap = False
        self._weight = 0.0
        self._smooth: array[float] = array("d")

    def __len__(self) -> int:
        return len(self.xs)

    @property
    def last(self) -> float | None:
        """The last value; None before the first one and when the newest is a gap."""
        return None if self._gap or not self.ys else self.ys[-1]

    def append(self, x: float, y: float | None) -> None:
        """Add the point (x, y). A point whose x is not finite is ignored."""
        if not math.isfinite(x):
            return
        self.version += 1
        self.forget_from(x)
        if y is None or not math.isfinite(y):
            self._gap = True
            return
        if self._gap and self.xs:
            self.breaks.append(len(self.xs))
        self._gap = False
        self.xs.append(x)
        self.ys.append(y)
        if len(self.xs) > self.limit:
            self._compact()

    def extend(self, xs: Sequence[float], ys: Sequence[float | None]) -> None:
        """Add many points, as ``append`` would one by one, but far faster where they simply go on."""
        try:
            more_x, more_y = array("d", xs), array("d", ys)  # type: ignore[arg-type]
        except TypeError:  # a gap among them
            plain = False
        else:
            goes_on = not self.xs or (bool(more_x) and more_x[0] > self.xs[-1])
            rises = all(map(operator.lt, more_x, more_x[1:]))
            plain = goes_on and rises and math.isfinite(sum(more_x)) and math.isfinite(sum(more_y))
        if not plain or self._gap or len(more_x) >= self.limit // 2:
            for x, y in zip(xs, ys, strict=True):
                self.append(x, y)
            return
        self.version += len(more_x)
        self.xs.extend(more_x)
        self.ys.extend(more_y)
        if len(self.xs) > self.limit:
            self._compact()

    def copy(self) -> Series:
        """The curve as it is now, for another thread to draw."""
        new = Series(self.name, limit=self.limit)
        new.version, new._gap, new.breaks = self.version, self._gap, list(self.breaks)
        new.xs, new.ys = self.xs[:], self.ys[:]
        return new

    def forget_from(self, x: float) -> None:
        """Drop the points at ``x`` and beyond: their steps are being repeated."""
        if self.xs and x <= self.xs[-1]:
            self.version += 1
            self._cut(bisect_left(self.xs, x))

    def smoothed(self, weight: float) -> array[float]:
        """The values as an exponential moving average, ``weight`` (0 to below 1) of each coming from the past."""
        if weight <= 0:
            return self.ys
        if self._weight != weight:
            self._weight, self._smooth = weight, array("d")
        done, new = len(self._smooth), 1 - weight
        if done < len(self.ys):
            start = self._smooth[-1] if done else self.ys[0]
            added = accumulate(self.ys[done:], lambda past, y: weight * past + new * y, initial=start)
            self._smooth.extend(list(added)[1:])
        return self._smooth

    def segments(self, low: float, high: float, columns: int, weight: float = 0.0) -> list[list[Point]]:
        """The unbroken pieces of the curve over ``low`` ≤ x ≤ ``high``, with one neighbour beyond each end.

        Where a column of the ``columns`` holds many points, its first, smallest, largest and last stand for them all.
        """
        xs, ys = self.xs, self.smoothed(weight)
        start = max(bisect_left(xs, low) - 1, 0)
        stop = min(bisect_right(xs, high) + 1, len(xs))
        if stop - start <= 4 * columns or not high > low:
            bounds: Sequence[int] = range(start, stop + 1)
        else:
            bounds = self._column_bounds(low, high, columns, start, stop)
        breaks, pieces = set(self.breaks), list[list[Point]]()
        for a, b in pairwise(bounds):
            if not pieces or a in breaks:
                pieces.append([])
            pieces[-1].extend(_column(xs, ys, a, b))
        return pieces

    def _column_bounds(self, low: float, high: float, columns: int, start: int, stop: int) -> list[int]:
        width = high / columns - low / columns
        edges = (bisect_left(self.xs, low + width * i, start, stop) for i in range(1, columns))
        return sorted({start, *edges, stop})

    def _cut(self, index: int) -> None:
        del self.xs[index:]
        del self.ys[index:]
        del self._smooth[index:]
        while self.breaks and self.breaks[-1] > index:
            self.breaks.pop()
        self._gap = bool(self.breaks) and self.breaks[-1] == index
        if self._gap:
            self.breaks.pop()

    def _compact(self) -> None:
        xs, ys = self.xs, self.ys
        kept_x, kept_y, breaks = array("d"), array("d"), list[int]()
        edges = [0, *self.breaks, len(xs)]
        for begin, end in pairwise(edges):
            if begin and len(kept_x):
                breaks.append(len(kept_x))
            for i in range(begin, end, 4):
                group = ys[i : min(i + 4, end)]
                small, large = group.index(min(group)), group.index(max(group))
                first, last = (small, large) if small < large else (large, small)
                kept_x.append(xs[i + first])
                kept_y.append(group[first])
                if last != first:
                    kept_x.append(xs[i + last])
                    kept_y.append(group[last])
        if len(kept_x) > self.limit * 3 // 4:  # so many gaps that grouping kept them all: drop the oldest half
            half = len(kept_x) // 2
            kept_x, kept_y = kept_x[half:], kept_y[half:]
            breaks = [b - half for b in breaks if b > half]
        self.xs, self.ys, self.breaks, self._smooth = kept_x, kept_y, breaks, array("d")


def _column(xs: array[float], ys: array[float], a: int, b: int) -> list[Point]:
    if b - a <= 2:
        return [(xs[i], ys[i]) for i in range(a, b)]
    part = ys[a:b]
    middle = xs[(a + b) // 2]
    return [(xs[a], ys[a]), (middle, min(part)), (middle, max(part)), (xs[b - 1], ys[b - 1])]
