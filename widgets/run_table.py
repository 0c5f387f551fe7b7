"""The list of runs: phase and link in words and symbols, progress, and the figure that says how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from textual.message import Message
from textual.widgets import DataTable

from services import formats
from services.runs.types import FINISHED, RunView

PHASES = {
    "queued": "◌ queued",
    "provisioning": "◌ provisioning",
    "preparing": "◔ preparing",
    "running": "▶ running",
    "stopping": "◑ stopping",
    "succeeded": "✓ succeeded",
    "failed": "✗ failed",
    "cancelled": "■ cancelled",
    "lost": "? lost",
    "over-budget": "▲ over budget",
}
LINKS = {"live": "● live", "polling": "○ delayed", "none": "– none"}
UNATTACHED = "‼ may bill"
_COLUMNS = ("mark", "state", "link", "run", "step", "loss", "accuracy", "cost", "data", "model", "started")
_TITLES = {"mark": " "}
_MOST = 500


def last_name(path: str) -> str:
    """The last part of a folder or of a model's id: what a person calls it."""
    return path.rstrip("/").rpartition("/")[2] or path


def progress(view: RunView) -> str:
    """ "412/1,000", and the share while it runs."""
    if view.total_steps is None:
        return formats.count(view.step)
    text = f"{formats.count(view.step)}/{formats.count(view.total_steps)}"
    if view.phase in FINISHED or not view.total_steps:
        return text
    return f"{text} {100 * view.step / view.total_steps:.0f} %"


def link(view: RunView) -> str:
    """Whether news of the run comes as it happens; a run elsewhere that nothing here follows is told apart."""
    return UNATTACHED if view.unattached else LINKS.get(view.link, view.link)


def cost(view: RunView) -> str:
    """What the run has cost so far: "3.1 units", "1.20 EUR"; "" where only time is known."""
    spent = view.cost
    if spent.units is not None:
        return f"{formats.number(spent.units, 3)} units"
    if spent.money is not None:
        return f"{spent.money:,.2f} {spent.currency}".strip()
    return ""


class RunTable(DataTable[Text]):
    """Runs, newest first; at most 500. Posts ``Chosen`` when another run comes under the cursor."""

    class Chosen(Message):
        """The run under the cursor is now ``run``."""

        def __init__(self, run: str) -> None:
            super().__init__()
            self.run = run

    DEFAULT_CSS = """
    RunTable { height: 1fr; background: $background; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    """

    def __init__(self, **names: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1, **names)
        self.views: tuple[RunView, ...] = ()
        self._cells: dict[str, tuple[str, ...]] = {}
        self._marks: dict[str, str] = {}

    def on_mount(self) -> None:
        for name in _COLUMNS:
            self.add_column(_TITLES.get(name, name.capitalize()), key=name, width=1 if name == "mark" else None)

    @property
    def chosen(self) -> RunView | None:
        """The run under the cursor."""
        return self.views[self.cursor_row] if 0 <= self.cursor_row < len(self.views) else None

    def mark(self, marks: Mapping[str, str]) -> None:
        """Put each run's entry of ``marks`` before it; the others have none."""
        self._marks = dict(marks)
        self.show(self.views)

    def show(self, views: Sequence[RunView]) -> None:
        """Draw these runs; only what changed is drawn anew, and the cursor stays on its run."""
        before = self.chosen
        self.views = tuple(views[:_MOST])
        cells = {view.id: (self._marks.get(view.id, " "), *_cells(view)) for view in self.views}
        if list(cells) == list(self._cells):
            for run, row in cells.items():
                self._update(run, self._cells[run], row)
        else:
            with self.prevent(DataTable.RowHighlighted):
                self.clear()
                for run, row in cells.items():
                    self.add_row(*self._styled(row), key=run)
        self._cells = cells
        keep = next((i for i, view in enumerate(self.views) if before and view.id == before.id), 0)
        if self.cursor_row != keep:
            self.move_cursor(row=keep)
        if self.views and (before is None or before.id != self.views[keep].id):
            self.post_message(self.Chosen(self.views[keep].id))

    def select(self, run: str) -> None:
        """Put the cursor on ``run``."""
        for row, view in enumerate(self.views):
            if view.id == run:
                self.move_cursor(row=row)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Pass on which run is meant."""
        event.stop()
        if event.row_key.value is not None:
            self.post_message(self.Chosen(event.row_key.value))

    def _update(self, run: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        styled = self._styled(new)
        for name, was, now, text in zip(_COLUMNS, old, new, styled, strict=True):
            if was != now:
                self.update_cell(run, name, text, update_width=len(now) > len(was))

    def _styled(self, cells: Sequence[str]) -> list[Text]:
        texts = [Text(cell) for cell in cells]
        for text in texts:  # a mark is told by its shape: its colour may be the cursor's
            if text.plain == UNATTACHED:
                text.stylize(f"bold {self.app.current_theme.error or 'red'}")
        return texts


def _cells(view: RunView) -> tuple[str, ...]:
    return (
        PHASES.get(view.phase, view.phase),
        link(view),
        view.id.rpartition("-")[2],
        progress(view),
        formats.number(view.metrics.get("loss")),
        formats.percent(view.results.get("accuracy")),
        cost(view) or ("free" if view.target == "local" else formats.MISSING),
        last_name(view.data),
        last_name(view.model),
        formats.moment(view.started_at or view.created_at),
    )
