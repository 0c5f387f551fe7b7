"""What was cleaned, freed, restored and purged, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from services import formats
from services.storage.reclaim import Event
from widgets.line_list import Cell, Column, LineList, cut, visible

WHAT = {
    "trashed": "→ trash",
    "freed": "✓ freed",
    "restored": "← restored",
    "purged": "✓ purged",
    "recovered": "↻ recovered",
}


class EventRow(msgspec.Struct, frozen=True):
    """One event; ``key`` tells it from the others."""

    key: str
    event: Event


class EventList(LineList[EventRow]):
    """One line an event: when, what, how much, what the disk really got."""

    COLUMNS: ClassVar = (
        Column("at", "When", 16),
        Column("what", "What", 11),
        Column("size", "Size", 9, right=True),
        Column("disk", "Disk got", 9, right=True, least=20, rank=1),
        Column("files", "Files", 9, right=True, least=20, rank=2),
        Column("scope", "Of what", 0),
    )

    def show(self, events: Sequence[Event], now: float) -> None:
        """Draw these events."""
        self.show_rows([EventRow(f"{e.at}:{e.what}:{e.batch}:{i}", e) for i, e in _numbered(events)], now=now)

    def cell(self, row: EventRow, column: str, width: int) -> Cell:
        event = row.event
        match column:
            case "at":
                return Cell(formats.moment(event.at), "quiet")
            case "what":
                return Cell(WHAT[event.what], "good" if event.what in ("freed", "purged") else "")
            case "size":
                return Cell(formats.size(event.bytes))
            case "disk":
                return Cell(formats.size(event.disk_freed_bytes) if event.what in ("freed", "purged") else "", "quiet")
            case "files":
                return Cell(formats.count(event.files), "quiet")
        return Cell(cut(visible(event.scope), width))


def _numbered(events: Sequence[Event]) -> list[tuple[int, Event]]:
    """Numbers from the oldest on, so that a new event leaves the others' as they are."""
    return [(len(events) - i, event) for i, event in enumerate(events)]
