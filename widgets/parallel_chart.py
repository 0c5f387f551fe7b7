"""Parallel coordinates in braille dots: one upright axis a setting and one for the metric, one line a trial.

What a trial came to is told by its sign on the axes and its line's pattern, not by colour alone: ★ best, ● complete,
○ running, × stopped early (dashed and dim), ! failed. The metric's better end is always at the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from widgets.plotting import Dots

_AXIS_OWNER = 0
_KINDS = ("axis", "faint", "plain", "live", "best", "chosen")  # by owner
_LEGEND = "★ best  ● complete  ○ running  × pruned  ! failed"


@dataclass(frozen=True)
class AxisLabels:
    """An axis: its name, and what stands at its upper and lower end."""

    name: str
    top: str
    bottom: str


@dataclass(frozen=True)
class Line:
    """A trial: where it crosses each axis (0 at the bottom, 1 at the top, None: not known yet), and what it is."""

    key: str
    places: tuple[float | None, ...]
    sign: str
    faint: bool = False
    live: bool = False
    best: bool = False


class ParallelChart(Widget):
    """Draws ``Line``s over ``AxisLabels``; ``chosen`` is the key of the line to draw on top."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"parallel--{kind}" for kind in (*_KINDS, "label")}
    DEFAULT_CSS = """
    ParallelChart { height: 1fr; min-height: 5; }
    ParallelChart > .parallel--axis { color: $foreground 60%; }
    ParallelChart > .parallel--label { color: $foreground; }
    ParallelChart > .parallel--faint { color: $foreground 35%; }
    ParallelChart > .parallel--plain { color: $primary; }
    ParallelChart > .parallel--live { color: $warning; }
    ParallelChart > .parallel--best { color: $success; text-style: bold; }
    ParallelChart > .parallel--chosen { color: $accent; text-style: bold; }
    """

    chosen = reactive("")

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._axes: tuple[AxisLabels, ...] = ()
        self._lines: tuple[Line, ...] = ()
        self._drawn: tuple[object, list[Strip]] | None = None

    def show(self, axes: Sequence[AxisLabels], lines: Sequence[Line]) -> None:
        """Draw these from now on; nothing happens where nothing changed."""
        new = (tuple(axes), tuple(lines))
        if new != (self._axes, self._lines):
            self._axes, self._lines = new
            self.refresh()

    def render_line(self, y: int) -> Strip:
        key = (self._axes, self._lines, self.chosen, self.size, self.rich_style)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self._draw())
        strips = self._drawn[1]
        return strips[y] if y < len(strips) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        rows = height - 4  # names, upper ends, lower ends, legend
        if width < 20 or rows < 2 or not self._axes:
            return []
        columns = self._columns(width)
        dots = Dots(width, rows)
        for column in columns:
            for row in range(rows):
                dots.mark(2 * column, 4 * row, "│", _AXIS_OWNER)
        for line in sorted(self._lines, key=self._order):
            self._trace(dots, columns, line)
        label = self.get_component_rich_style("parallel--label")
        axis = self.get_component_rich_style("parallel--axis")
        return [
            self._labels([a.name for a in self._axes], columns, label + Style(bold=True)),
            self._labels([a.top for a in self._axes], columns, axis),
            *(self._row(dots, row) for row in range(rows)),
            self._labels([a.bottom for a in self._axes], columns, axis),
            Strip([Segment(_LEGEND[:width].ljust(width), self.rich_style + axis)], width),
        ]

    def _columns(self, width: int) -> list[int]:
        """The cell of each axis, with room for half a label at either side."""
        edge = min(6, width // 8)
        span = width - 1 - 2 * edge
        gaps = max(len(self._axes) - 1, 1)
        return [edge + round(i * span / gaps) for i in range(len(self._axes))]

    def _order(self, line: Line) -> int:
        """What is drawn later covers what was drawn before."""
        return _KINDS.index(self._kind(line))

    def _kind(self, line: Line) -> str:
        if line.key == self.chosen:
            return "chosen"
        return "best" if line.best else "live" if line.live else "faint" if line.faint else "plain"

    def _trace(self, dots: Dots, columns: list[int], line: Line) -> None:
        owner = _KINDS.index(self._kind(line))
        points = [
            None if place is None else (2 * column, (1 - min(max(place, 0.0), 1.0)) * (dots.height - 1))
            for column, place in zip(columns, line.places, strict=True)
        ]
        for a, b in pairwise(points):
            if a is not None and b is not None:
                dots.line(a[0] + 2, a[1], b[0] - 1, b[1], owner, dashed=line.faint)
        for point in points:
            if point is not None:
                dots.mark(point[0], point[1], line.sign, owner)

    def _row(self, dots: Dots, row: int) -> Strip:
        segments = []
        for text, owner in dots.cells(row):
            style = self.rich_style
            if owner >= 0:
                style += self.get_component_rich_style(f"parallel--{_KINDS[owner]}")
            segments.append(Segment(text, style))
        return Strip(segments, dots.columns).simplify()

    def _labels(self, texts: list[str], columns: list[int], style: Style) -> Strip:
        """Each text in the middle over its axis, cut where it would meet its neighbour's."""
        width = self.size.width
        line = ""
        for index, (text, column) in enumerate(zip(texts, columns, strict=True)):
            end = width if index + 1 == len(columns) else (column + columns[index + 1]) // 2
            start = max(len(line), min(column - cell_len(text) // 2, width - cell_len(text)))
            room = max(end - start - (end != width), 0)
            shown = text if len(text) <= room else text[: max(room - 1, 0)] + "…" * (room > 0)
            line = line.ljust(start) + shown
        return Strip([Segment(line[:width].ljust(width), self.rich_style + style)], width)
