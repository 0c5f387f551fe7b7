"""The kinds of what can go, each unfolding into its items, with boxes to tick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
from textual.message import Message

from services import formats
from services.storage.reclaim import Item, KindItems, Reclaimable
from widgets.line_list import Cell, Column, LineList, cut, shortened, visible
from widgets.size_list import box

LEAST_BYTES = 100_000
RISKS = {"none": "none", "low": "low", "high": "▲ high"}


class ReclaimRow(msgspec.Struct, frozen=True):
    """A kind (``item`` None) or one of its items. ``mark`` is what stands in its box, "" where there is none."""

    key: str
    kind: KindItems
    item: Item | None
    mark: str
    fold: str


class ReclaimList(LineList[ReclaimRow]):
    """Holds which kinds are unfolded and which items are marked; posts ``Marked`` when the latter changes."""

    class Marked(Message):
        """Other items are marked than before."""

    COLUMNS: ClassVar = (
        Column("mark", "", 3, gap=1),
        Column("name", "What", 0),
        Column("size", "Size", 9, right=True, gap=1),
        Column("frees", "Frees", 9, right=True, least=20, rank=1),
        Column("used", "Last used", 10, right=True, least=22, rank=3),
        Column("risk", "Risk", 6, least=22, rank=2),
        Column("by", "In use by", 22, least=36, rank=4),
    )

    def __init__(self, **names: Any) -> None:
        super().__init__(**names)
        self.found: Reclaimable | None = None
        self.marked: frozenset[str] = frozenset()
        self.unfolded: frozenset[str] = frozenset()
        self.text = ""  # only what has this in its name
        self.with_absent = False
        self.all_safe = False  # what turns up while the box is still being measured is marked as well

    # What is marked

    @property
    def marked_items(self) -> list[Item]:
        """The marked items that are there."""
        return [item for item in self._items() if item.id in self.marked]

    def toggle(self) -> None:
        """Mark what is under the cursor, or take the mark away; a kind stands for all its items."""
        row = self.row
        if row is None or not row.mark:
            return
        ids = {row.item.id} if row.item else {item.id for item in row.kind.items}
        self.all_safe = False
        self._mark(self.marked - ids if ids <= self.marked else self.marked | ids)
        self.action_move(1)

    def mark_safe(self) -> None:
        """Mark all that is safe to clean, and nothing else; what turns up while measuring goes on is marked too."""
        self.all_safe = True
        self._mark(frozenset(item.id for item in self._items() if item.suggested))

    def unmark(self) -> None:
        """Take every mark away."""
        self.all_safe = False
        self._mark(frozenset())

    def _items(self) -> Iterator[Item]:
        for kind in self.found.kinds if self.found else ():
            yield from kind.items

    def _mark(self, ids: frozenset[str]) -> None:
        self.marked = ids
        self.redraw()
        self.post_message(self.Marked())

    # What is shown

    def show(self, found: Reclaimable, now: float) -> None:
        """Draw what was found (so far); marks of what is gone are forgotten."""
        self.found = found
        there = {item.id for item in self._items()}
        marked = self.marked & there if found.complete else self.marked
        if self.all_safe:
            marked |= {item.id for item in self._items() if item.suggested}
        self.now = now
        if marked != self.marked:
            self._mark(marked)
        else:
            self.redraw()

    def fold(self) -> None:
        """Unfold the kind under the cursor, or fold it again; on an item, fold its kind."""
        row = self.row
        if row is None:
            return
        name = row.kind.kind
        self.unfolded ^= {name}
        self.redraw(select=name)

    def filter(self, text: str) -> None:
        """Show only what has ``text`` in its name."""
        self.text = text.casefold()
        self.redraw()

    def redraw(self, select: str | None = None) -> None:
        """Draw the rows as they are to be now."""
        self.show_rows(list(self._lines()), select=select, now=self.now)

    @property
    def absent(self) -> int:
        """How many kinds are not on this disk, or hold nothing."""
        return sum(not _there(kind) for kind in self.found.kinds) if self.found else 0

    def _lines(self) -> Iterator[ReclaimRow]:
        for kind in self.found.kinds if self.found else ():
            fits = self.text in f"{kind.title} {kind.kind}".casefold()
            items = [i for i in kind.items if fits or self.text in i.name.casefold()]
            if not (fits or items) or not (_there(kind) or self.with_absent):
                continue
            marked = sum(i.id in self.marked for i in kind.items)
            mark = "" if not kind.items else " " if not marked else "x" if marked == len(kind.items) else "-"
            open_now = kind.kind in self.unfolded or (self.text != "" and not fits)
            yield ReclaimRow(kind.kind, kind, None, mark, "▾" if open_now and items else "▸" if items else " ")
            for item in items if open_now else ():
                yield ReclaimRow(item.id, kind, item, "x" if item.id in self.marked else " ", "")

    def cell(self, row: ReclaimRow, column: str, width: int) -> Cell:
        of = row.item or row.kind
        own = "quiet" if not _there(row.kind) else ""
        match column:
            case "mark":
                return Cell(box(row.mark) if row.mark else "")
            case "name":
                if row.item:
                    return Cell(f"    {shortened(visible(row.item.name), max(width - 4, 0))}", own)
                return Cell(f"{row.fold} {cut(visible(row.kind.title), max(width - 2, 0))}", own)
            case "size":
                return Cell("measuring" if of.bytes is None else formats.size(of.bytes), own)
            case "frees":
                return Cell("" if of.freed_bytes is None else formats.size(of.freed_bytes), own)
            case "used":
                return Cell(formats.age(of.last_used, self.now) if of.last_used else "", "quiet")
            case "risk":
                return Cell(RISKS[of.risk], "warn" if of.risk == "high" else "quiet")
        return Cell(cut(", ".join(map(visible, _users(row))), width), "warn")


def _users(row: ReclaimRow) -> list[str]:
    items = (row.item,) if row.item else row.kind.items
    return list(dict.fromkeys(user for item in items for user in item.used_by))


def _there(kind: KindItems) -> bool:
    """Whether it holds anything worth a line: not just its own empty folders."""
    some = kind.bytes is None or kind.bytes >= LEAST_BYTES
    return kind.exists and (some or bool(kind.items) or bool(kind.problem))
