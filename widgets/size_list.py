"""A list of things with sizes: mark, size, bar, share, files, age and name, as many as fit the width."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from services import formats
from widgets.gauge import FULL
from widgets.line_list import Cell, Column, LineList, shortened, visible

__all__ = ["SizeList", "SizeRow", "shortened", "visible"]

_BAR, _WIDE_BAR, _WIDE = 10, 20, 100
# A column is drawn when at least this many cells are left for the names.
_WITH_BAR, _WITH_OTHERS = 16, 24


class SizeRow(msgspec.Struct, frozen=True):
    """``key`` says which thing it is; ``bytes`` None means not known yet; ``share`` is of the whole, 0 to 1.

    ``quiet`` rows are drawn dimmed: nothing can be opened there. ``can_mark``: it has a box to tick.
    """

    key: str
    name: str
    bytes: int | None
    share: float | None = None
    files: int | None = None
    last_used: float | None = None
    quiet: bool = False
    can_mark: bool = False


class SizeList(LineList[SizeRow]):
    """The rows given to ``show``; those whose key is in ``marked`` are ticked."""

    def __init__(self, head: str, **names: Any) -> None:
        super().__init__(**names)
        self.head = head
        self.least_name = 0  # cells that the names get before any column but the size
        self.marked: Collection[str] = ()

    def show(
        self,
        rows: Sequence[SizeRow],
        *,
        select: str | None = None,
        now: float | None = None,
        marked: Collection[str] = (),
    ) -> None:
        """Draw these rows. The cursor goes to the row with key ``select``, or stays where a person put it."""
        self.marked = marked
        self.show_rows(rows, select=select, now=now)

    def columns(self) -> tuple[Column, ...]:
        shares = any(row.share is not None for row in self.rows)
        marks = any(row.can_mark for row in self.rows)
        dated = not self.rows or any(row.last_used is not None for row in self.rows)
        bar = _WIDE_BAR if self.size.width >= _WIDE else _BAR
        others = max(_WITH_OTHERS, self.least_name)
        return (
            *((Column("mark", "", 3, gap=1),) if marks else ()),
            Column("size", "Size", 9, right=True),
            *((Column("bar", "", bar, least=max(_WITH_BAR, self.least_name), rank=1),) if shares else ()),
            *((Column("share", "Share", 7, right=True, least=others, rank=2),) if shares else ()),
            Column("files", "Files", 10, right=True, least=others, rank=3),
            *((Column("used", "Last used", 11, right=True, least=others, rank=4),) if dated else ()),
            Column("name", self.head, 0),
        )

    def cell(self, row: SizeRow, column: str, width: int) -> Cell:
        own = "quiet" if row.quiet else ""
        match column:
            case "mark":
                return Cell(box("x" if row.key in self.marked else " ") if row.can_mark else "")
            case "size":
                return Cell("measuring" if row.bytes is None else formats.size(row.bytes), own)
            case "bar":
                return Cell(FULL * round(min(max(row.share or 0.0, 0.0), 1.0) * width), own or "bar")
            case "share":
                return Cell(formats.percent(row.share), "quiet")
            case "files":
                return Cell(formats.count(row.files), "quiet")
            case "used":
                return Cell(formats.age(row.last_used, self.now), "quiet")
        return Cell(shortened(visible(row.name), width), own)


def box(mark: str) -> str:
    """A tick box: "x" ticked, "-" in part, " " not."""
    return f"[{mark}]"
