"""A list of things with sizes, largest first: size, bar, share, files, age and name, as many as fit the width.

Drawn line by line, so that a list that is replaced five times a second while a scan runs costs what is visible of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

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

from services import formats
from widgets.gauge import FULL

_SIZE, _BAR, _SHARE, _FILES, _USED = 9, 10, 7, 10, 11
# A column is drawn when at least this many cells are left for the names.
_WITH_BAR, _WITH_OTHERS = 16, 24


class SizeRow(msgspec.Struct, frozen=True):
    """``key`` says which thing it is; ``bytes`` None means not known yet; ``share`` is of the whole, 0 to 1.

    ``quiet`` rows are drawn dimmed: nothing can be opened there.
    """

    key: str
    name: str
    bytes: int | None
    share: float | None = None
    files: int | None = None
    last_used: float | None = None
    quiet: bool = False


def visible(name: str) -> str:
    """A file name on one line: control characters as escapes, the rest as it is."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what is left out is in the middle, nearer to the start."""
    if cell_len(text) <= width:
        return text
    if width < 4 or cell_len(text) != len(text):
        return set_cell_size(text, max(width - 1, 0)).rstrip() + "…" * (width > 0)
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


class SizeList(ScrollView, can_focus=True):
    """The rows given to ``show``, with a cursor that stays on its row once a person has moved it.

    Posts ``Highlighted`` when another row comes under the cursor, ``Opened`` on a double click; the enter key is the
    screen's.
    """

    class Highlighted(Message):
        """``row`` is now under the cursor of ``list``."""

        def __init__(self, sizes: SizeList, row: SizeRow) -> None:
            super().__init__()
            self.list = sizes
            self.row = row

    class Opened(Message):
        """A person chose ``row`` with the mouse."""

        def __init__(self, sizes: SizeList, row: SizeRow) -> None:
            super().__init__()
            self.list = sizes
            self.row = row

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "sizes--head", "sizes--bar", "sizes--quiet", "sizes--cursor", "sizes--cursor-away",
    }  # fmt: skip
    DEFAULT_CSS = """
    SizeList { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; background: $background; }
    SizeList .sizes--head { color: $text-muted; }
    SizeList .sizes--bar { color: $primary; }
    SizeList .sizes--quiet { color: $text-muted; }
    SizeList .sizes--cursor { background: $primary 35%; text-style: bold; }
    SizeList .sizes--cursor-away { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000000)", "First", show=False),
        Binding("end", "move(1000000000)", "Last", show=False),
    ]

    cursor: reactive[int] = reactive(0)

    def __init__(self, head: str, **names: Any) -> None:
        super().__init__(**names)
        self.head = head
        self.rows: tuple[SizeRow, ...] = ()
        self.now: float | None = None
        self.least_name = 0  # cells that the names get before any column but the size
        self._moved = False

    @property
    def row(self) -> SizeRow | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    def show(self, rows: Sequence[SizeRow], *, select: str | None = None, now: float | None = None) -> None:
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

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y == 0:
            return Strip(self._head(width, base), width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self.rows):
            return Strip.blank(width, base)
        return Strip(self._line(self.rows[index], index == self.cursor, width, base), width)

    def _columns(self, width: int) -> tuple[bool, bool, bool, bool, int]:
        """Which of bar, share, files and age fit, and the width of the names."""
        left = width - _SIZE - 2
        shares = any(row.share is not None for row in self.rows)
        shown: list[bool] = []
        for column, least, wanted in (
            (_BAR, _WITH_BAR, shares),
            (_SHARE, _WITH_OTHERS, shares),
            (_FILES, _WITH_OTHERS, True),
            (_USED, _WITH_OTHERS, True),
        ):
            fits = wanted and left - column - 2 >= max(least, self.least_name)
            shown.append(fits)
            left -= (column + 2) * fits
        return shown[0], shown[1], shown[2], shown[3], max(left, 0)

    def _head(self, width: int, base: Style) -> list[Segment]:
        with_bar, with_share, with_files, with_used, name = self._columns(width)
        text = f"{'Size':>{_SIZE}}  "
        text += " " * ((_BAR + 2) * with_bar)
        text += f"{'Share':>{_SHARE}}  " * with_share
        text += f"{'Files':>{_FILES}}  " * with_files
        text += f"{'Last used':>{_USED}}  " * with_used
        text += set_cell_size(self.head, name)
        return [Segment(set_cell_size(text, width), base + self._colour("sizes--head"))]

    def _line(self, row: SizeRow, under_cursor: bool, width: int, base: Style) -> list[Segment]:
        with_bar, with_share, with_files, with_used, name = self._columns(width)
        if under_cursor:
            cursor = "sizes--cursor" if self.has_focus else "sizes--cursor-away"
            base += self.get_component_rich_style(cursor)
        quiet = base + self._colour("sizes--quiet")
        own = quiet if row.quiet else base
        size = "measuring" if row.bytes is None else formats.size(row.bytes)
        segments = [Segment(f"{size:>{_SIZE}}  ", own)]
        if with_bar:
            drawn = own if row.quiet else base + self._colour("sizes--bar")
            full = FULL * round(min(max(row.share or 0.0, 0.0), 1.0) * _BAR)
            segments.append(Segment(f"{full:<{_BAR}}  ", drawn))
        text = f"{formats.percent(row.share):>{_SHARE}}  " * with_share
        text += f"{formats.count(row.files):>{_FILES}}  " * with_files
        text += f"{formats.age(row.last_used, self.now):>{_USED}}  " * with_used
        segments.append(Segment(text, quiet))
        segments.append(Segment(set_cell_size(shortened(visible(row.name), name), name), own))
        return segments

    def _colour(self, component: str) -> Style:
        """A component's text colour alone, so that the cursor's background stays."""
        return Style(color=self.get_component_rich_style(component).color)
