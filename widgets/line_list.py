"""A long list drawn line by line in columns, with a cursor: what it costs is what is visible of it.

A kind of list gives its columns and the text of a row's cells; rows may be replaced five times a second while a scan
runs, and there may be a hundred thousand of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

GAP = 2


class Column(msgspec.Struct, frozen=True):
    """``width`` in cells; 0 is the one column that takes what is left. ``least`` cells must be left for that one.

    Columns are fitted in the order of ``rank``; one that does not fit is left out. ``gap`` cells follow it.
    """

    name: str
    head: str
    width: int
    right: bool = False
    least: int = 0
    rank: int = 0
    gap: int = GAP


class Cell(msgspec.Struct, frozen=True):
    """A cell's text (literal) and the name of its colour: "", quiet, bar, good, warn."""

    text: str
    colour: str = ""


class KeyedRow(Protocol):
    """What a row needs: ``key`` says which thing it is."""

    @property
    def key(self) -> str: ...


R = TypeVar("R", bound=KeyedRow)


def visible(name: str) -> str:
    """A file name on one line: control characters as escapes, the rest as it is."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what is left out is at the end."""
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…" * (width > 0)


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what is left out is in the middle, nearer to the start."""
    if cell_len(text) <= width:
        return text
    if width < 4 or cell_len(text) != len(text):
        return cut(text, width)
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


class LineList(ScrollView, Generic[R], can_focus=True):
    """The rows given to ``show_rows``, with a cursor that stays on its row once a person has moved it.

    Posts ``Highlighted`` when another row comes under the cursor, ``Opened`` on a double click; all other keys are the
    screen's.
    """

    class Highlighted(Message):
        """``row`` is now under the cursor of ``list``."""

        def __init__(self, lines: LineList[Any], row: Any) -> None:
            super().__init__()
            self.list = lines
            self.row = row

    class Opened(Message):
        """A person chose ``row`` with the mouse."""

        def __init__(self, lines: LineList[Any], row: Any) -> None:
            super().__init__()
            self.list = lines
            self.row = row

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line--head", "line--bar", "line--quiet", "line--good", "line--warn", "line--cursor", "line--cursor-away",
    }  # fmt: skip
    DEFAULT_CSS = """
    LineList { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; background: $background; }
    LineList .line--head { color: $text-muted; }
    LineList .line--bar { color: $primary; }
    LineList .line--quiet { color: $text-muted; }
    LineList .line--good { color: $text-success; }
    LineList .line--warn { color: $text-warning; }
    LineList .line--cursor { background: $primary 35%; text-style: bold; }
    LineList .line--cursor-away { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000000)", "First", show=False),
        Binding("end", "move(1000000000)", "Last", show=False),
    ]
    COLUMNS: ClassVar[tuple[Column, ...]] = ()

    cursor: reactive[int] = reactive(0)

    def __init__(self, **names: Any) -> None:
        super().__init__(**names)
        self.rows: tuple[R, ...] = ()
        self.now: float | None = None
        self._moved = False

    def columns(self) -> tuple[Column, ...]:
        """The columns that are wanted now; which of them fit is worked out from the width."""
        return self.COLUMNS

    def cell(self, row: R, column: str, width: int) -> Cell:
        """What stands in a cell of ``width`` cells; cut or padded to it afterwards."""
        raise NotImplementedError

    @property
    def row(self) -> R | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    def show_rows(self, rows: Sequence[R], *, select: str | None = None, now: float | None = None) -> None:
        """Draw these rows. The cursor goes to the row with key ``select``, or stays where a person put it."""
        before = self.row
        if select is None and self._moved and before:
            select = before.key
        elif select is not None:
            self._moved = True
        self.rows = tuple(rows)
        self.now = now
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        at = next((i for i, row in enumerate(self.rows) if row.key == select), None)
        self.cursor = at if at is not None else min(self.cursor, max(len(self.rows) - 1, 0)) if self._moved else 0
        if self.row and (before is None or before.key != self.row.key):
            self.post_message(self.Highlighted(self, self.row))
        self.refresh()

    def forget_cursor(self) -> None:
        """Back to the first row: other things are shown from now on."""
        self._moved = False
        self.cursor = 0
        self.scroll_to(y=0, animate=False)

    def watch_cursor(self) -> None:
        # The header covers the first line, so the row above is made visible too.
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True)
        self.refresh()

    def action_move(self, by: int) -> None:
        """Move the cursor by ``by`` rows."""
        if not self.rows:
            return
        self._moved = True
        to = min(max(self.cursor + by, 0), len(self.rows) - 1)
        if to != self.cursor:
            self.cursor = to
            self.post_message(self.Highlighted(self, self.rows[to]))

    def action_page(self, by: int) -> None:
        """Move the cursor by ``by`` pages."""
        self.action_move(by * max(self.scrollable_content_region.height - 2, 1))

    def on_click(self, event: events.Click) -> None:
        """Choose the row; a second click opens it."""
        line = event.get_content_offset_capture(self).y
        index = self.scroll_offset.y + line - 1
        if line < 1 or index >= len(self.rows):
            return
        self.action_move(index - self.cursor)
        if event.chain == 2:
            self.post_message(self.Opened(self, self.rows[index]))

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)

    def on_focus(self) -> None:
        self.refresh()
        if self.row:
            self.post_message(self.Highlighted(self, self.row))

    def on_blur(self) -> None:
        self.refresh()

    def fitted(self, width: int) -> list[tuple[Column, int]]:
        """The columns that fit into ``width`` cells, left to right, each with its width."""
        wanted = self.columns()
        rest = next(column for column in wanted if not column.width)
        left = width - rest.gap * (rest is not wanted[-1])
        kept = {rest.name}
        for column in sorted((c for c in wanted if c.width), key=lambda c: c.rank):
            if left - column.width - column.gap >= column.least:
                kept.add(column.name)
                left -= column.width + column.gap * (column is not wanted[-1])
        shown = [column for column in wanted if column.name in kept]
        if shown[-1] is not wanted[-1] and shown[-1] is not rest:
            left += shown[-1].gap  # nothing follows it
        return [(c, c.width or max(left, 0)) for c in shown]

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y == 0:
            return Strip(self._head(width, base), width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self.rows):
            return Strip.blank(width, base)
        return Strip(self._line(self.rows[index], index == self.cursor, width, base), width)

    def _head(self, width: int, base: Style) -> list[Segment]:
        text = "".join(_fit(c.head, cells, c.right) + " " * c.gap for c, cells in self.fitted(width))
        return [Segment(set_cell_size(text, width), base + self._colour("head"))]

    def _line(self, row: R, under_cursor: bool, width: int, base: Style) -> list[Segment]:
        if under_cursor:
            base += self.get_component_rich_style("line--cursor" if self.has_focus else "line--cursor-away")
        segments: list[Segment] = []
        used = 0
        for column, cells in self.fitted(width):
            cell = self.cell(row, column.name, cells)
            style = base + self._colour(cell.colour) if cell.colour else base
            segments.append(Segment(_fit(cell.text, cells, column.right), style))
            gap = min(column.gap, width - used - cells)
            segments.append(Segment(" " * max(gap, 0), base))
            used += cells + max(gap, 0)
        segments.append(Segment(" " * max(width - used, 0), base))
        return segments

    def _colour(self, name: str) -> Style:
        """A component's text colour alone, so that the cursor's background stays."""
        return Style(color=self.get_component_rich_style(f"line--{name}").color)


def _fit(text: str, width: int, right: bool) -> str:
    if right:
        text = " " * max(width - cell_len(text), 0) + text
    return set_cell_size(text, width)
