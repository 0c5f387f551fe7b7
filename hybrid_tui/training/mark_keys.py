"""Marked runs: their curves in one chart, their settings and results in one table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hybrid_tui.run_feed import RunFeed
from hybrid_tui.training.compare import MOST, Comparison, compare
from hybrid_tui.training.runs_screen import RunsScreen
from widgets.line_chart import LineChart
from widgets.run_compare import RunCompare
from widgets.run_table import RunTable
from widgets.status import Section


class MarkKeys(RunsScreen):
    """Mark, unmark, and the table of those that are marked."""

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take the mark away."""
        view = self.with_run("mark")
        if view is None:
            return
        if view.id in self.marked:
            self.take_mark({view.id})
        elif len(self.marked) == MOST:
            self.notify(f"{MOST} runs are marked, as many as can be told apart; x takes all marks away.", markup=False)
            return
        else:
            self.marked[view.id] = min(set(range(MOST)) - set(self.marked.values()))
            if self.feed is None or self.feed.run_dir.name != view.id:
                self.others[view.id] = RunFeed(Path(view.path))
        self.marks_changed()

    def action_unmark(self) -> None:
        """Take every mark away."""
        self.take_mark(set(self.marked))
        self.marks_changed()

    def take_mark(self, runs: set[str]) -> None:
        """Take the marks of ``runs`` away; ``marks_changed`` then shows it."""
        for run in runs:
            self.marked.pop(run, None)
            self.others.pop(run, None)

    def marks_changed(self) -> None:
        """Show who is marked now: in the list, the chart, the table."""
        self.set_class(self.comparing, "-compare")
        self.query_one(LineChart).reset()
        self.query_one(RunTable).mark({run: mark for run, (mark, _) in self._marks().items()})
        self.draw_chart()
        self.background(self.draw_comparison(), group="compare")
        self.look_now()

    def _marks(self) -> dict[str, tuple[str, Any]]:
        chart = self.query_one(LineChart)
        return {run: chart.mark(slot) for run, slot in self.marked.items()}

    async def draw_comparison(self) -> None:
        """Fill the table of the marked runs."""
        if not self.comparing:
            return
        box = self.query_one("#compare-box", Section)
        fresh = {feed.view.id: feed.view for feed in self.feeds if feed.view is not None}
        views = [view for run in self.marked if (view := fresh.get(run) or self.listed(run)) is not None]
        if not views:
            return
        found: Comparison = await asyncio.to_thread(compare, views)
        self.query_one(RunCompare).show(found.results, found.settings, found.rows, self._marks())
        box.ready()
        same = "" if found.settings else " · same settings"
        box.retitle(f"{len(views)} runs compared{same}" + "".join(f" · ▲ {text}" for text in found.problems))
