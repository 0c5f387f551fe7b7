"""A line chart in braille dots: several curves, round ticks, gaps, a logarithmic axis, zoom that follows the tail.

Each curve has a colour, a mark and a line pattern of its own, so that it is told apart without colour too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from services import formats
from widgets.plotting import Dots, Scale, labels
from widgets.series import Point, Series

MARKS = "●■▲◆▼★"
_NARROWEST = 12
_FEW_POINTS = 12  # so few are marked one by one
_SMOOTHED_POINTS = 40


class LineChart(Widget):
    """Draws ``Series``. Call ``show`` for other curves and ``refresh`` after points were appended.

    ``log_y``: logarithmic y axis (values ≤ 0 are gaps). ``smoothing``: weight of the past in a moving average, 0 = off.
    The whole curve is shown and follows its end; ``zoom`` keeps following it with a fixed width, until ``pan`` or
    the mouse wheel moves away from the end. ``reset`` shows all again.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chart--axis",
        "chart--legend",
        "chart--empty",
        *(f"chart--series-{i}" for i in range(1, 7)),
    }
    DEFAULT_CSS = """
    LineChart { height: 1fr; min-height: 3; }
    LineChart > .chart--axis { color: $foreground 60%; }
    LineChart > .chart--legend { color: $foreground; }
    LineChart > .chart--empty { color: $foreground 60%; }
    LineChart > .chart--series-1 { color: $primary; }
    LineChart > .chart--series-2 { color: $warning; }
    LineChart > .chart--series-3 { color: $success; }
    LineChart > .chart--series-4 { color: $error; }
    LineChart > .chart--series-5 { color: $secondary; }
    LineChart > .chart--series-6 { color: $accent; }
    """

    log_y = reactive(False)
    smoothing = reactive(0.0)

    def __init__(
        self, *, unit: str = "step", empty: str = "No points yet.", id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.unit = unit
        self.empty = empty
        self._series: tuple[Series, ...] = ()
        self._slots: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._width: float | None = None
        self._end: float | None = None
        self._drawn: tuple[object, list[Strip]] | None = None

    def show(self, series: Iterable[Series], slots: Mapping[str, int] | None = None) -> None:
        """Draw these curves from now on; nothing happens where nothing changed.

        ``slots`` names each curve and fixes its colour and mark (0, 1, …), for those that others show as well. Without
        it a curve goes by its own name and keeps its colour and mark for as long as it is among those shown.
        """
        self._series = tuple(series)
        if slots is None:
            self._names = tuple(one.name for one in self._series)
            self._slots = {name: slot for name, slot in self._slots.items() if name in self._names}
            for name in self._names:
                if name not in self._slots:
                    self._slots[name] = min(set(range(len(self._names))) - set(self._slots.values()))
        else:
            self._names, self._slots = tuple(slots), dict(slots)
        if self._drawn is None or self._drawn[0] != self._key():
            self.refresh()

    def mark(self, slot: int) -> tuple[str, Style]:
        """The mark and colour of the curves of ``slot``, for what speaks of them elsewhere."""
        return MARKS[slot % len(MARKS)], Style(color=self._series_style(slot).color, bold=True)

    # The part of x in view

    def extent(self) -> tuple[float, float] | None:
        """Smallest and largest x of all curves; None without points."""
        filled = [s.xs for s in self._series if s.xs]
        return (min(x[0] for x in filled), max(x[-1] for x in filled)) if filled else None

    def view(self) -> tuple[float, float]:
        """The x range in view."""
        first, last = self.extent() or (0.0, 1.0)
        if self._width is None:
            return first, last
        end = last if self._end is None else min(max(self._end, first + self._width), last)
        return max(end - self._width, first), end

    @property
    def following(self) -> bool:
        """Whether new points come into view by themselves."""
        return self._end is None

    def zoom(self, factor: float, *, at: float | None = None) -> None:
        """Show ``factor`` times as much of x as now, keeping x = ``at`` in place (default: the right end)."""
        extent = self.extent()
        if extent is None:
            return
        low, high = self.view()
        width, whole = (high - low) * factor, extent[1] - extent[0]
        if width >= whole:
            self.reset()
        elif width > whole * 1e-6:
            self._width = width
            if at is not None and high > low:
                end = at + (high - at) * factor
                self._end = None if end >= extent[1] else end
            self.refresh()

    def pan(self, share: float) -> None:
        """Move the view by ``share`` of its width; at the right end it follows again."""
        extent = self.extent()
        if extent is None or self._width is None:
            return
        end = self.view()[1] + share * self._width
        self._end = None if end >= extent[1] else max(end, extent[0] + self._width)
        self.refresh()

    def reset(self) -> None:
        """Show everything and follow the end."""
        self._width = self._end = None
        self.refresh()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in around the pointer."""
        self._wheel(event, 0.8)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out around the pointer."""
        self._wheel(event, 1.25)

    def _wheel(self, event: events.MouseEvent, factor: float) -> None:
        event.stop()
        low, high = self.view()
        self.zoom(factor, at=low + (high - low) * min(event.x / max(self.size.width, 1), 1.0))

    # Drawing

    def notify_style_update(self) -> None:
        """Colours changed: nothing drawn before is of use."""
        self._drawn = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Row ``y`` of the chart; all rows are drawn together, once for a given state."""
        key = self._key()
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self._draw(self.size))
        rows = self._drawn[1]
        return rows[y] if y < len(rows) else Strip.blank(self.size.width, self.rich_style)

    def _key(self) -> object:
        """All that the drawing depends on."""
        return (
            self.size, self.log_y, self.smoothing, self._width, self._end, self.unit, self.empty,
            self._names, tuple(self._slots.values()), tuple((id(s), s.version) for s in self._series),
        )  # fmt: skip

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"chart--{name}")

    def _series_style(self, slot: int) -> Style:
        return self._style(f"series-{slot % len(MARKS) + 1}")

    def _draw(self, size: Size) -> list[Strip]:
        if size.width < 1 or size.height < 1:
            return []
        if self.extent() is None:
            return self._draw_empty(size)
        rows = [self._legend(size.width)]
        if size.height >= 2:
            rows += self._plot(size.width, size.height - 1)
        return rows

    def _draw_empty(self, size: Size) -> list[Strip]:
        blank = Strip.blank(size.width, self.rich_style)
        text = self.empty[: size.width]
        indent = Segment(" " * ((size.width - len(text)) // 2), self.rich_style)
        line = Strip([indent, Segment(text, self._style("empty"))]).adjust_cell_length(size.width, self.rich_style)
        return [line if y == size.height // 2 else blank for y in range(size.height)]

    def _legend(self, width: int) -> Strip:
        parts: list[Segment] = []
        for name, one in zip(self._names, self._series, strict=True):
            if len(one) or one is self._series[0]:
                slot = self._slots[name]
                parts.append(Segment(f"{MARKS[slot % len(MARKS)]} ", self._series_style(slot)))
                parts.append(Segment(f"{_printable(name)} {formats.number(one.last)}  ", self._style("legend")))
        notes = [n for n, on in (("log y", self.log_y), (f"EMA {self.smoothing:g}", self.smoothing > 0)) if on]
        if self._width is not None:
            low, high = self.view()
            held = "" if self.following else " held"
            notes.append(f"{formats.count(low)}–{formats.count(high)}{held}")
        right = Segment(" · ".join(notes), self._style("axis"))
        free = width - sum(cell_len(p.text) for p in parts) - cell_len(right.text)
        if free >= 0:
            parts += [Segment(" " * free, self.rich_style), right]
        return Strip(parts).adjust_cell_length(width, self.rich_style)

    def _plot(self, width: int, height: int) -> list[Strip]:
        with_x = height >= 5
        rows = height - 2 if with_x else height
        low, high = self.view()
        pieces = {s: s.segments(low, high, 2 * width, self._weight(s)) for s in self._series}
        y_scale = Scale.around((y for parts in pieces.values() for p in parts for _, y in p), log=self.log_y)
        ticks = y_scale.ticks(max(rows // 2, 1))
        names = labels(ticks)
        gutter = max((len(n) for n in names), default=0) + 2
        if width - gutter < _NARROWEST:
            gutter, ticks, names = 0, [], []
        dots = Dots(width - gutter, rows)
        x_scale = Scale(low, high) if high > low else Scale.around([low])
        for name, one in zip(self._names, self._series, strict=True):
            self._curve(dots, pieces[one], x_scale, y_scale, self._slots[name])
        at_row = {_row(y_scale.at(t), rows): n for t, n in zip(ticks, names, strict=True)}
        strips = [self._plot_row(dots, row, gutter, at_row.get(row)) for row in range(rows)]
        return strips + (self._x_axis(x_scale, gutter, dots.columns) if with_x else [])

    def _weight(self, one: Series) -> float:
        """Few points are drawn as they are: an average of them would lag far behind."""
        return self.smoothing if len(one) >= _SMOOTHED_POINTS else 0.0

    def _curve(self, dots: Dots, pieces: list[list[Point]], x_scale: Scale, y_scale: Scale, slot: int) -> None:
        points = list[tuple[float, float]]()
        for piece in pieces:
            before: tuple[float, float] | None = None
            for x, y in piece:
                up = y_scale.at(y)
                if up is None:
                    before = None
                    continue
                across = min(max(x_scale.at(x) or 0.0, -1e6), 1e6)
                here = (across * (dots.width - 1), (1 - up) * (dots.height - 1))
                if before is None:
                    dots.line(*here, *here, slot)
                else:
                    dots.line(*before, *here, slot, dashed=slot % 2 == 1)
                before = here
                if 0 <= across <= 1:
                    points.append(here)
        mark = MARKS[slot % len(MARKS)]
        for point in points if len(points) <= _FEW_POINTS else points[-1:]:
            dots.mark(*point, mark, slot)

    def _plot_row(self, dots: Dots, row: int, gutter: int, label: str | None) -> Strip:
        segments: list[Segment] = []
        if gutter:
            edge = f"{label or '':>{gutter - 2}} {'┤' if label else '│'}"
            segments.append(Segment(edge, self._style("axis")))
        for owner, cells in groupby(dots.cells(row), key=lambda cell: cell[1]):
            style = self.rich_style if owner < 0 else self._series_style(owner)
            segments.append(Segment("".join(text for text, _ in cells), style))
        return Strip(segments, gutter + dots.columns)

    def _x_axis(self, scale: Scale, gutter: int, columns: int) -> list[Strip]:
        axis = ["─"] * columns
        text = [" "] * (gutter + columns)
        ticks = scale.ticks(max(columns // 12, 1))
        free_from = 0
        if gutter > len(self.unit):
            text[gutter - 1 - len(self.unit) : gutter - 1] = self.unit
            free_from = gutter
        for tick, name in zip(ticks, labels(ticks), strict=True):
            column = round((scale.at(tick) or 0.0) * (columns - 1))
            axis[column] = "┬"
            start = min(max(gutter + column - len(name) // 2, 0), gutter + columns - len(name))
            if start >= free_from:
                text[start : start + len(name)] = name
                free_from = start + len(name) + 1
        corner = " " * (gutter - 1) + "└" if gutter else ""
        style, width = self._style("axis"), gutter + columns
        return [Strip([Segment(line[:width], style)], width) for line in (corner + "".join(axis), "".join(text))]


def _row(share: float | None, rows: int) -> int:
    return round((1 - (share or 0.0)) * (4 * rows - 1)) // 4


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in text)
