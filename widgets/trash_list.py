"""The clean-ups that lie in the trash, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from services import formats
from services.storage.reclaim import Batch
from widgets.line_list import Cell, Column, LineList, cut, visible


class BatchRow(Batch, frozen=True):
    """A batch as a row of the list."""

    @property
    def key(self) -> str:
        return self.id


STATES = {"whole": "", "partly": "◐ partly restored", "interrupted": "▲ interrupted"}


class TrashList(LineList[BatchRow]):
    """One line a batch: when, how much, how long it is kept, what it was."""

    COLUMNS: ClassVar = (
        Column("at", "Cleaned", 11, right=True),
        Column("size", "Size", 9, right=True),
        Column("files", "Files", 9, right=True, least=24, rank=3),
        Column("expires", "Kept for", 11, right=True, least=24, rank=1),
        Column("scope", "What", 0),
        Column("state", "", 17, least=24, rank=2),
    )

    def columns(self) -> tuple[Column, ...]:
        odd = any(row.state != "whole" for row in self.rows)
        return self.COLUMNS if odd else self.COLUMNS[:-1]

    def show(self, batches: Sequence[Batch], now: float) -> None:
        """Draw these batches."""
        self.show_rows([BatchRow(*(getattr(b, f) for f in Batch.__struct_fields__)) for b in batches], now=now)

    def cell(self, row: BatchRow, column: str, width: int) -> Cell:
        match column:
            case "at":
                return Cell(formats.age(row.at, self.now))
            case "size":
                return Cell(formats.size(row.bytes))
            case "files":
                return Cell(formats.count(row.files), "quiet")
            case "expires":
                left = row.expires_at - (self.now or row.at)
                return Cell(formats.duration(left) if left > 0 else "▲ expired", "quiet" if left > 0 else "warn")
            case "state":
                return Cell(STATES[row.state], "warn")
        return Cell(cut(visible(row.scope), width))
