"""The budgets and the team's recurrent tasks in one list: what is broken or due first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from services import formats
from services.storage.upkeep.types import Finding, Task
from widgets.line_list import Cell, Column, LineList, cut, visible

_MARKS = {
    "broken": ("▲ broken", "warn"),
    "unknown": ("? unknown", "quiet"),
    "ok": ("✓ holds", "good"),
    "overdue": ("▲ overdue", "warn"),
    "due": ("▲ due", "warn"),
    "later": ("✓ later", "good"),
    "idle": ("✓ nothing", "good"),
}


class UpkeepRow(msgspec.Struct, frozen=True):
    """A budget's ``finding`` or a ``task``; ``key`` tells it from the others."""

    key: str
    finding: Finding | None = None
    task: Task | None = None


class UpkeepList(LineList[UpkeepRow]):
    """One line a budget or task: how it stands, what it is, when it was last done."""

    COLUMNS: ClassVar = (
        Column("state", "State", 10),
        Column("name", "Budget, task", 13),
        Column("last", "Last done", 11, right=True, least=40, rank=1),
        Column("words", "", 0),
    )

    def show(self, findings: Sequence[Finding], tasks: Sequence[Task], now: float) -> None:
        """Draw these, budgets first."""
        rows = [UpkeepRow(f"budget:{f.check}", finding=f) for f in findings]
        self.show_rows([*rows, *(UpkeepRow(f"task:{t.id}", task=t) for t in tasks)], now=now)

    def cell(self, row: UpkeepRow, column: str, width: int) -> Cell:
        state: str
        if row.finding is not None:
            state, name, last, words = row.finding.level, row.finding.check, "", row.finding.sentence
        else:
            assert row.task is not None
            task = row.task
            state, name = task.state, task.id
            last = formats.age(task.last_done_at, self.now) if task.last_done_at is not None else "never"
            words = f"{task.words}: {task.title}"
        match column:
            case "state":
                return Cell(*_MARKS[state])
            case "name":
                return Cell(cut(visible(name), width))
            case "last":
                return Cell(last, "quiet")
        return Cell(cut(visible(words), width))
