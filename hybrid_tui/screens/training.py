"""Training: the runs of this workspace, and the one under the cursor live, with its curves, figures and log.

Marked runs are shown together: their curves in one chart, their settings and results in one table.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Log
from textual.worker import Worker

from hybrid_tui import keymap
from hybrid_tui.run_feed import RunFeed
from hybrid_tui.screens.base import perform
from hybrid_tui.training.chart_keys import ChartKeys
from hybrid_tui.training.mark_keys import MarkKeys
from hybrid_tui.training.run_keys import RunKeys
from services.errors import HybridError
from services.runs.types import FINISHED, Runs
from widgets.line_chart import LineChart
from widgets.run_compare import RunCompare
from widgets.run_facts import RunFacts
from widgets.run_table import RunTable
from widgets.status import Section

LOOK_SECONDS = 0.2  # at a live run; a finished one is looked at as seldom as the list
LIST_SECONDS = 2.0
BEHIND_SECONDS = 0.4  # between two drawings while a long history is still being read: keys come first
_WIDTHS = [(0, "-narrow"), (110, "-wide")]
_HEIGHTS = [(0, "-short"), (34, "-tall")]
_BOXES = ("#chart-box", "#facts-box", "#log-box")


class TrainingScreen(RunKeys, ChartKeys, MarkKeys):
    """Runs above, the chosen one below. It only reads the run's files; runs live without it."""

    NAME = "training"
    BINDINGS = keymap.bindings("training")
    AUTO_FOCUS = "#runs"
    DEFAULT_CSS = """
    TrainingScreen #runs-box { height: 6; }
    TrainingScreen #run { height: 1fr; min-height: 6; }
    TrainingScreen #chart-box { width: 1fr; height: 1fr; }
    TrainingScreen #facts-box { width: 34; height: 1fr; scrollbar-size-vertical: 1; }
    TrainingScreen #facts-scroll { height: 1fr; scrollbar-size-vertical: 1; }
    TrainingScreen #log-box { height: 4; }
    TrainingScreen #log { height: 1fr; background: $background; overflow: auto; scrollbar-size: 1 1; }
    TrainingScreen #compare-box { height: 6; display: none; }
    TrainingScreen.-tall #runs-box { height: 9; }
    TrainingScreen.-tall #log-box { height: 8; }
    TrainingScreen.-tall #compare-box { height: 10; }
    TrainingScreen.-wide #facts-box { width: 40; }
    TrainingScreen.-compare #compare-box { display: block; }
    TrainingScreen.-compare #facts-box, TrainingScreen.-compare #log-box { display: none; }
    TrainingScreen.-chart #facts-box, TrainingScreen.-chart #log-box { display: none; }
    TrainingScreen.-chart #compare-box { display: none; }
    TrainingScreen.-log #run, TrainingScreen.-log #compare-box { display: none; }
    TrainingScreen.-log #log-box { display: block; height: 1fr; }
    """
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    VERTICAL_BREAKPOINTS = _HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self._listed_at = 0.0
        self._drawn_at = 0.0
        self._stale = False  # something was read that is not drawn yet
        self._wanted = ""
        self._logged = 0
        self._wake = asyncio.Event()
        self._following: Worker[Any] | None = None

    def body(self) -> ComposeResult:
        with Section("Runs", id="runs-box"):
            yield RunTable(id="runs")
        with Horizontal(id="run"):
            with Section("Loss", id="chart-box"):
                yield LineChart(id="chart")
            with Section("Run", id="facts-box"), VerticalScroll(id="facts-scroll"):
                yield RunFacts(id="facts")
        with Section("Compared", id="compare-box"):
            yield RunCompare(id="compare")
        with Section("Log", id="log-box"):
            yield Log(id="log", max_lines=500)

    # Following

    def shown(self) -> None:
        """Look at the runs' files for as long as the screen is in front."""
        self._listed_at = 0.0
        if self._following is None or self._following.is_finished:  # a mode's first screen is told twice
            self._following = self.background(self._follow(), group="follow")

    def hidden(self) -> None:
        """Nothing is read or drawn while nobody looks."""
        if self._following is not None:
            self._following.cancel()
            self._following = None

    async def _follow(self) -> None:
        while True:
            if monotonic() - self._listed_at >= LIST_SECONDS:
                await self._list()
            changed = [await self._look(feed) for feed in self.feeds]
            feeds = self.feeds
            behind = any(feed.behind for feed in feeds)
            late = behind and monotonic() - self._drawn_at < BEHIND_SECONDS
            self._stale |= any(changed)
            if self._stale and not late:
                self._stale = False
                await self._draw()
                self._drawn_at = monotonic()
            live = any(feed.view is not None and feed.view.phase not in FINISHED for feed in feeds)
            await self._pause(0.01 if behind else LOOK_SECONDS if live else LIST_SECONDS / 2)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless something new is to be looked at."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _list(self) -> None:
        box = self.query_one("#runs-box", Section)
        try:
            await perform(self.panel, "train.list", then=self._draw_list)
        except HybridError as error:
            box.error(str(error), error.hint)
        self._listed_at = monotonic()

    async def _look(self, feed: RunFeed) -> bool:
        try:
            await asyncio.to_thread(feed.look)
        except HybridError as error:
            if self.feed is feed:
                self.feed = None
                self.query_one("#facts-box", Section).error(str(error), error.hint)
            self.others = {run: other for run, other in self.others.items() if other is not feed}
            return False
        return feed.take() and feed in self.feeds

    def on_run_table_chosen(self, event: RunTable.Chosen) -> None:
        """Another run is under the cursor: follow that one."""
        self._choose(event.run)

    def _choose(self, run: str) -> None:
        if self.feed is not None and self.feed.run_dir.name == run:
            return
        before, view = self.feed, self.listed(run)
        if before is not None and before.run_dir.name in self.marked:
            self.others[before.run_dir.name] = before
        self.feed = self.others.pop(run, None) or (RunFeed(Path(view.path)) if view else None)
        self._logged = 0
        self.query_one(Log).clear()
        boxes: tuple[str, ...] = _BOXES
        if self.comparing:
            boxes = ("#facts-box", "#log-box")  # the chart stays
        else:
            self.query_one(LineChart).reset()
        for box in boxes:
            self.query_one(box, Section).loading_state()
        self._drawn_at = 0.0
        self.look_now()
        if self.feed is not None and self.feed.view is not None:
            self._draw_run(self.feed)

    def select(self, run: str) -> None:
        """Put the cursor on ``run`` as soon as it is listed."""
        self._wanted = run
        self._listed_at = 0.0
        self.look_now()

    # Drawing

    def _draw_list(self, found: Runs) -> None:
        box, table = self.query_one("#runs-box", Section), self.query_one(RunTable)
        table.show(found.runs)
        if gone := self.marked.keys() - {view.id for view in found.runs}:
            self.take_mark(gone)
            self.marks_changed()
        if not found.runs:
            box.empty("No runs yet.", "Press n to start one; example data is made if you have none.")
            for id in _BOXES:
                self.query_one(id, Section).empty("No run chosen.")
            self.feed = None
            return
        box.ready()
        alarms = sum(view.unattached for view in found.runs)
        box.retitle(f"Runs · {len(found.runs)}" + (f" · ‼ {alarms} may bill unfollowed" if alarms else ""))
        if self._wanted and any(view.id == self._wanted for view in found.runs):
            table.select(self._wanted)
            self._wanted = ""
        if self.feed is None and table.chosen is not None:
            self._choose(table.chosen.id)

    async def _draw(self) -> None:
        if self.feed is not None:
            self._draw_run(self.feed)
        if self.comparing:
            await self.draw_comparison()

    def _draw_run(self, feed: RunFeed) -> None:
        view = feed.view
        if view is None:
            return
        for id in _BOXES:
            self.query_one(id, Section).ready()
        self.query_one("#facts-box", Section).retitle(view.id)
        self.query_one(RunFacts).show(view, feed.device)
        self.draw_chart()
        self._draw_log(feed)

    def _draw_log(self, feed: RunFeed) -> None:
        log = self.query_one(Log)
        new = feed.log_since(self._logged)
        self._logged = feed.log_lines
        if new:
            at_end = log.is_vertical_scroll_end
            log.write_lines(new, scroll_end=False)
            if at_end:  # after the layout: the box may just have come into view
                self.call_after_refresh(log.scroll_end, animate=False, x_axis=False)
        elif not log.line_count:
            self.query_one("#log-box", Section).empty("The run has written nothing yet.")

    # Keys

    def look_now(self) -> None:
        """Look at the runs' files at once."""
        self._wake.set()

    def action_refresh(self) -> None:
        """Read the list again, now."""
        self._listed_at = 0.0
        self.look_now()

    def note(self, text: str) -> None:
        """Say what is going on, at the list's edge."""
        self.query_one("#runs-box", Section).border_subtitle = Content(text)

    def deleted(self, result: Any) -> None:
        """Forget the run that is gone."""
        self.feed = None
        self.take_mark({result.id})
        self.marks_changed()
        super().deleted(result)
