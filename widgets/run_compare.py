"""Marked runs side by side: a row each, with the mark of its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.widgets import DataTable


class RunCompare(DataTable[Text]):
    """Results first, then the settings that differ, those in italics; arrow keys scroll what does not fit."""

    DEFAULT_CSS = """
    RunCompare { height: 1fr; background: $background; scrollbar-size: 1 1; }
    RunCompare > .datatable--fixed { background: $background; color: $foreground; }
    """

    def __init__(self, **names: Any) -> None:
        super().__init__(cursor_type="none", cell_padding=1, **names)
        self._shown: object = None

    def show(
        self,
        results: Sequence[str],
        settings: Sequence[str],
        rows: Sequence[tuple[str, Sequence[str]]],
        marks: Mapping[str, tuple[str, Style]],
    ) -> None:
        """Draw these rows (run's id, cells), each led by its entry of ``marks``; the same again draws nothing."""
        state = (tuple(results), tuple(settings), tuple((id, tuple(cells)) for id, cells in rows), tuple(marks.items()))
        if state == self._shown:
            return
        self._shown = state
        column = self.scroll_x
        self.clear(columns=True)
        self.fixed_columns = 1
        self.add_column("run")
        for name in results:
            self.add_column(name)
        for name in settings:
            self.add_column(Text(name.replace("_", " "), style="italic"))
        for id, cells in rows:
            mark, style = marks.get(id, (" ", Style()))
            label = Text.assemble((mark, style), " ", id.rpartition("-")[2])
            self.add_row(label, *map(Text, cells), key=id)
        self.scroll_to(x=column, animate=False)
