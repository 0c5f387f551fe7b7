"""One level of the store: folders and files with size and age; what can't be fetched says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from services import formats
from services.transfers.types import LevelEntry
from widgets.line_list import Cell, Column, LineList, cut, shortened, visible


class DriveRow(msgspec.Struct, frozen=True):
    """An entry; ``key`` tells a folder from a file of the same name."""

    key: str
    entry: LevelEntry


class DriveList(LineList[DriveRow]):
    """One line an entry. Names are literal."""

    COLUMNS: ClassVar = (
        Column("size", "Size", 9, right=True),
        Column("modified", "Modified", 16, least=24, rank=2),
        Column("name", "Name", 0),
        Column("skipped", "Can't be fetched", 36, least=20, rank=1),
    )

    def columns(self) -> tuple[Column, ...]:
        return self.COLUMNS if any(row.entry.skipped for row in self.rows) else self.COLUMNS[:-1]

    def show(self, entries: Sequence[LevelEntry], now: float, *, select: str | None = None) -> None:
        """Draw these entries; the cursor goes to the one called ``select``, or stays."""
        rows = [DriveRow(f"{e.kind}:{e.name}:{i}", e) for i, e in _numbered(entries)]
        chosen = next((row.key for row in rows if select is not None and row.entry.name == select), None)
        self.show_rows(rows, select=chosen, now=now)

    def cell(self, row: DriveRow, column: str, width: int) -> Cell:
        entry = row.entry
        match column:
            case "size":
                if entry.kind == "folder":
                    return Cell("folder", "quiet")
                return Cell(formats.MISSING if entry.skipped else formats.size(entry.size_bytes), "quiet")
            case "modified":
                return Cell(formats.moment(entry.modified_at) if entry.modified_at else formats.MISSING, "quiet")
            case "skipped":
                return Cell(cut(f"▲ {visible(entry.skipped)}", width) if entry.skipped else "", "warn")
        name = visible(entry.name) + "/" * (entry.kind == "folder")
        return Cell(shortened(name, width), "quiet" if entry.skipped else "")


def _numbered(entries: Sequence[LevelEntry]) -> list[tuple[int, LevelEntry]]:
    """Each entry with how often its name came before: Google Drive allows the same one twice."""
    seen: dict[str, int] = {}
    found = []
    for entry in entries:
        found.append((seen.get(entry.name, 0), entry))
        seen[entry.name] = seen.get(entry.name, 0) + 1
    return found
