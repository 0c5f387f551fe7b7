"""Scales, round ticks and a canvas of braille dots: the arithmetic under the charts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from services import formats

# Bit of the dot at (column, row) of a braille cell, two columns of four rows.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True)
class Scale:
    """Maps ``low``..``high`` to 0..1. With ``log``, of positive values, by their decimal logarithm."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, log: bool = False) -> Scale:
        """A scale holding all ``values`` (with ``log``: the positive ones), with room where they are all the same."""
        usable = [v for v in values if not log or v > 0]
        if not usable:
            return cls(1.0, 10.0, log) if log else cls(0.0, 1.0)
        low, high = min(usable), max(usable)
        if log:
            return cls(low, high, True) if high / 1.02 > low else cls(max(low / 2, 5e-324), min(high * 2, 1e308), True)
        room = max(abs(low), abs(high)) * 1e-9
        if high / 2 - low / 2 > max(room, 1e-12) / 2:
            return cls(low, high)
        pad = abs(low) * 0.1 or 1.0
        return cls(max(low - max(pad, 1e-9), -1e308), min(high + max(pad, 1e-9), 1e308))

    def at(self, value: float) -> float | None:
        """Where ``value`` lies, 0 at ``low`` and 1 at ``high``; None for what a logarithm can't show."""
        if self.log:
            if value <= 0:
                return None
            low, span = math.log10(self.low), math.log10(self.high) - math.log10(self.low)
            return (math.log10(value) - low) / span if span else 0.5
        span = self.high / 2 - self.low / 2  # halves: the whole difference of two huge floats overflows
        return (value / 2 - self.low / 2) / span if span else 0.5

    def ticks(self, most: int) -> list[float]:
        """At most ``most`` round values within the scale, ascending."""
        most = max(most, 1)
        return self._decades(most) if self.log else self._steps(most)

    def _steps(self, most: int) -> list[float]:
        span = self.high / 2 - self.low / 2
        rough = span / max(most, 1) * 2
        if not 1e-290 < rough < 1e290:  # a step would be 0 or infinite
            return []
        power = 10.0 ** math.floor(math.log10(rough))
        for factor in (1, 2, 5, 10, 20, 50):
            step = factor * power
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                return [k * step for k in range(first, last + 1)]
        return []

    def _decades(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
            ticks = [f * 10.0**e for e in range(max(first, -307), min(last, 307) + 1) for f in factors]
            ticks = [t for t in ticks if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]
            if len(ticks) <= most:
                break
        if len(ticks) < 2 <= most and self.high / self.low < 10:
            linear = Scale(self.low, self.high).ticks(most)
            ticks = [t for t in linear if t > 0] or ticks
        return ticks[:: max(1, -(-len(ticks) // most))]


def labels(ticks: list[float]) -> list[str]:
    """Each tick as a person reads it, with just the digits that tell neighbours apart."""
    return [_label(t, _nearest_gap(ticks, i)) for i, t in enumerate(ticks)]


def _nearest_gap(ticks: list[float], i: int) -> float:
    gaps = [abs(ticks[i] - ticks[j]) for j in (i - 1, i + 1) if 0 <= j < len(ticks) and ticks[j] != ticks[i]]
    return min(gaps) if gaps else abs(ticks[i]) / 1000


def _label(tick: float, step: float) -> str:
    if tick == 0 or abs(tick) < step * 1e-6:
        return "0"
    digits = max(1, math.floor(math.log10(abs(tick))) - math.floor(math.log10(step) + 1e-9) + 1) if step > 0 else 4
    if abs(tick) >= 1e6 or abs(tick) < 1e-4:
        return f"{tick:.{min(digits, 4)}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return formats.number(tick, min(digits, 8))


class Dots:
    """A canvas of ``columns`` x ``rows`` cells, each two dots wide and four high; (0, 0) is the dot at the top left."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.width, self.height = 2 * columns, 4 * rows
        self.bits = [[0] * columns for _ in range(rows)]
        self.owner = [[-1] * columns for _ in range(rows)]
        self.marks: dict[tuple[int, int], str] = {}

    def span(self, x: int, top: int, bottom: int, owner: int) -> None:
        """A vertical line at dot column ``x`` from dot row ``top`` to ``bottom``, cut to the canvas."""
        if not 0 <= x < self.width or bottom < 0 or top >= self.height:
            return
        cell, column = x // 2, _BITS[x % 2]
        for y in range(max(top, 0), min(bottom, self.height - 1) + 1):
            row = y // 4
            self.bits[row][cell] |= column[y % 4]
            self.owner[row][cell] = owner

    def line(self, x0: float, y0: float, x1: float, y1: float, owner: int, *, dashed: bool = False) -> None:
        """A line between two points in dots, x0 ≤ x1; parts outside the canvas are left out."""
        left, right = round(x0), round(x1)
        if right <= left:
            self.span(left, round(min(y0, y1)), round(max(y0, y1)), owner)
            return
        slope = (y1 - y0) / (x1 - x0)
        for x in range(max(left, 0), min(right, self.width - 1) + 1):
            if dashed and x % 4 > 1:
                continue
            a, b = y0 + slope * (max(x - 0.5, x0) - x0), y0 + slope * (min(x + 0.5, x1) - x0)
            self.span(x, round(min(a, b)), round(max(a, b)), owner)

    def mark(self, x: float, y: float, mark: str, owner: int) -> None:
        """Put the character ``mark`` on the cell that holds the dot (x, y)."""
        column, row = round(x) // 2, round(y) // 4
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.marks[row, column] = mark
            self.owner[row][column] = owner

    def cells(self, row: int) -> Iterable[tuple[str, int]]:
        """The characters of a row, each with its owner; -1 and a space where nothing was drawn."""
        for column, (bits, owner) in enumerate(zip(self.bits[row], self.owner[row], strict=True)):
            yield self.marks.get((row, column)) or (chr(0x2800 + bits) if bits else " "), owner
