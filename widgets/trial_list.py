"""The trials of a sweep, one a line: what was tried, what came of it."""

from __future__ import annotations

from typing import ClassVar

from services import formats
from services.sweeps.types import SweepView, Trial
from widgets.line_list import Cell, Column, LineList, cut, visible

SIGNS = {
    "running": "○ running", "pruning": "○ stopping", "complete": "● complete", "pruned": "× pruned",
    "failed": "! failed", "cancelled": "– cancelled",
}  # fmt: skip
_COLOURS = {"running": "bar", "pruning": "bar", "pruned": "quiet", "failed": "warn", "cancelled": "quiet"}


class TrialRow(Trial, frozen=True):
    """A trial as a row of the list."""

    @property
    def key(self) -> str:
        return str(self.number)


def shown(value: object) -> str:
    """A setting's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class TrialList(LineList[TrialRow]):
    """The best one is marked with ★; of one that was stopped the last value is shown, in brackets."""

    COLUMNS: ClassVar = (Column("what", "", 0),)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.best: int | None = None
        self.metric = ""
        self.names: tuple[str, ...] = ()

    def columns(self) -> tuple[Column, ...]:
        settings = tuple(
            Column(f"={name}", name, max(len(name), 8), right=True, least=10, rank=i + 1)
            for i, name in enumerate(self.names)
        )
        return (
            Column("number", "#", 4, right=True),
            Column("state", "Trial", 11),
            Column("value", self.metric, max(len(self.metric), 10), right=True),
            *settings,
            Column("step", "step", 6, right=True, least=10, rank=20),
            Column("what", "", 0),
        )

    def show(self, seen: SweepView) -> None:
        """Draw these trials."""
        self.best, self.metric = seen.best, seen.metric
        self.names = tuple(axis.name for axis in seen.axes)
        self.show_rows([TrialRow(*(getattr(t, f) for f in Trial.__struct_fields__)) for t in seen.trials])

    def cell(self, row: TrialRow, column: str, width: int) -> Cell:
        best = row.number == self.best
        colour = "good" if best else _COLOURS.get(row.state, "")
        if column.startswith("="):
            return Cell(shown(row.params.get(column[1:], "")), "quiet" if row.state == "pruned" else "")
        match column:
            case "number":
                return Cell(f"★{row.number}" if best else str(row.number), colour)
            case "state":
                return Cell("★ best" if best else SIGNS[row.state], colour)
            case "value":
                text = formats.number(row.value)
                return Cell(text if row.state == "complete" else f"({text})" if row.value is not None else "", colour)
            case "step":
                return Cell(formats.count(row.step) if row.step else "", "quiet")
        return Cell(cut(visible(row.reason), width), "warn" if row.state == "failed" else "quiet")
