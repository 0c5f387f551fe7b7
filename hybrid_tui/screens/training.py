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
from hybrid_tui.run_feed import METRICS, RunFeed
from hybrid_tui.screens.base import perform
from hybrid_tui.training.compare import MOST, Comparison, compare
from hybrid_tui.training.run_keys import RunKeys
from services.errors import HybridError
from services.runs.types import FINISHED, Runs, RunView
from widgets.line_chart import LineChart
from widgets.picker import Choice, Picker
from widgets.run_compare import RunCompare
from widgets.run_facts import RunFacts
from widgets.run_table import RunTable
from widgets.status import Section

LOOK_SECONDS = 0.2  # at a live run; a finished one is looked at as seldom as the list
LIST_SECONDS = 2.0
_SMOOTHING = 0.9
_WIDTHS = [(0, "-narrow"), (110, "-wide")]
_HEIGHTS = [(0, "-short"), (34, "-tall")]
_BOXES = ("#chart-box", "#facts-box", "#log-box")
_VIEWS = ("", "-chart", "-log")  # all; the chart large; the log large


class TrainingScreen(RunKeys):
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
        self.feed: RunFeed | None = None
        self.metric = "loss"
        self.marked: dict[str, int] = {}  # run → its colour and mark, kept for as long as it is marked
        self._others: dict[str, RunFeed] = {}  # of the marked runs that are not under the cursor
        self._listed_at = 0.0
        self._drawn_at = 0.0
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

    @property
    def feeds(self) -> list[RunFeed]:
        """Of the run under the cursor, and of the marked ones."""
        return [*([self.feed] if self.feed else []), *self._others.values()]

    async def _follow(self) -> None:
        while True:
            if monotonic() - self._listed_at >= LIST_SECONDS:
                await self._list()
            changed = [await self._look(feed) for feed in self.feeds]
            feeds = self.feeds
            behind = any(feed.behind for feed in feeds)
            late = behind and monotonic() - self._drawn_at < LOOK_SECONDS
            if any(changed) and not late:
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
            self._others = {run: other for run, other in self._others.items() if other is not feed}
            return False
        return feed.take() and feed in self.feeds

    def on_run_table_chosen(self, event: RunTable.Chosen) -> None:
        """Another run is under the cursor: follow that one."""
        self._choose(event.run)

    def _choose(self, run: str) -> None:
        if self.feed is not None and self.feed.run_dir.name == run:
            return
        before, view = self.feed, self._listed(run)
        if before is not None and before.run_dir.name in self.marked:
            self._others[before.run_dir.name] = before
        self.feed = self._others.pop(run, None) or (RunFeed(Path(view.path)) if view else None)
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
        self._wake.set()
        if self.feed is not None and self.feed.view is not None:
            self._draw_run(self.feed)

    def _listed(self, run: str) -> RunView | None:
        return next((v for v in self.query_one(RunTable).views if v.id == run), None)

    def select(self, run: str) -> None:
        """Put the cursor on ``run`` as soon as it is listed."""
        self._wanted = run
        self._listed_at = 0.0
        self._wake.set()

    # Drawing

    def _draw_list(self, found: Runs) -> None:
        box, table = self.query_one("#runs-box", Section), self.query_one(RunTable)
        table.show(found.runs)
        if gone := self.marked.keys() - {view.id for view in found.runs}:
            self._unmark(gone)
            self._marks_changed()
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
            await self._draw_comparison()

    def _draw_run(self, feed: RunFeed) -> None:
        view = feed.view
        if view is None:
            return
        for id in _BOXES:
            self.query_one(id, Section).ready()
        self.query_one("#facts-box", Section).retitle(view.id)
        self.query_one(RunFacts).show(view, feed.device)
        self._draw_chart()
        self._draw_log(feed)

    def _draw_chart(self) -> None:
        chart, feed = self.query_one(LineChart), self.feed
        live = feed is not None and feed.view is not None and feed.view.phase not in FINISHED
        chart.empty = "Waiting for the first figures." if live else "No such figures here: m shows others."
        if self.comparing:
            feeds = {feed.run_dir.name: feed for feed in self.feeds}
            known = {run.rpartition("-")[2]: (feeds[run], slot) for run, slot in self.marked.items() if run in feeds}
            curve = METRICS[self.metric][0]
            chart.show([f.curves[curve] for f, _ in known.values()], {name: slot for name, (_, slot) in known.items()})
        elif feed is not None:
            chart.show(feed.shown_curves(self.metric))
        self.query_one("#chart-box", Section).retitle(self.metric[:1].upper() + self.metric[1:])

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

    # Comparing

    @property
    def comparing(self) -> bool:
        """Whether several runs are marked."""
        return len(self.marked) > 1

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take the mark away."""
        view = self.with_run("mark")
        if view is None:
            return
        if view.id in self.marked:
            self._unmark({view.id})
        elif len(self.marked) == MOST:
            self.notify(f"{MOST} runs are marked, as many as can be told apart; x takes all marks away.", markup=False)
            return
        else:
            self.marked[view.id] = min(set(range(MOST)) - set(self.marked.values()))
            if self.feed is None or self.feed.run_dir.name != view.id:
                self._others[view.id] = RunFeed(Path(view.path))
        self._marks_changed()

    def action_unmark(self) -> None:
        """Take every mark away."""
        self._unmark(set(self.marked))
        self._marks_changed()

    def _unmark(self, runs: set[str]) -> None:
        for run in runs:
            self.marked.pop(run, None)
            self._others.pop(run, None)

    def _marks_changed(self) -> None:
        self.set_class(self.comparing, "-compare")
        self.query_one(LineChart).reset()
        self.query_one(RunTable).mark({run: mark for run, (mark, _) in self._marks().items()})
        self._draw_chart()
        self.background(self._draw_comparison(), group="compare")
        self._wake.set()

    def _marks(self) -> dict[str, tuple[str, Any]]:
        chart = self.query_one(LineChart)
        return {run: chart.mark(slot) for run, slot in self.marked.items()}

    async def _draw_comparison(self) -> None:
        if not self.comparing:
            return
        box = self.query_one("#compare-box", Section)
        fresh = {feed.view.id: feed.view for feed in self.feeds if feed.view is not None}
        views = [view for run in self.marked if (view := fresh.get(run) or self._listed(run)) is not None]
        if not views:
            return
        found: Comparison = await asyncio.to_thread(compare, views)
        self.query_one(RunCompare).show(found.results, found.settings, found.rows, self._marks())
        box.ready()
        same = "" if found.settings else " · same settings"
        box.retitle(f"{len(views)} runs compared{same}" + "".join(f" · ▲ {text}" for text in found.problems))

    # Keys

    @property
    def chosen(self) -> RunView | None:
        """The run under the cursor, as fresh as it is known."""
        view = self.query_one(RunTable).chosen
        feed = self.feed
        return feed.view if feed and feed.view and view and feed.view.id == view.id else view

    def action_refresh(self) -> None:
        """Read the list again, now."""
        self._listed_at = 0.0
        self._wake.set()

    def note(self, text: str) -> None:
        """Say what is going on, at the list's edge."""
        self.query_one("#runs-box", Section).border_subtitle = Content(text)

    def deleted(self, result: Any) -> None:
        """Forget the run that is gone."""
        self.feed = None
        self._unmark({result.id})
        self._marks_changed()
        super().deleted(result)

    # The chart

    def action_view(self) -> None:
        """All of the run; its chart alone; its log alone."""
        now = next((name for name in _VIEWS[1:] if self.has_class(name)), "")
        after = _VIEWS[(_VIEWS.index(now) + 1) % len(_VIEWS)]
        for name in _VIEWS[1:]:
            self.set_class(name == after, name)

    def filled_metrics(self) -> list[str]:
        """What can be drawn of the run, or of any of the marked ones."""
        filled = {metric for feed in self.feeds for metric in feed.filled_metrics()}
        return [metric for metric in METRICS if metric in filled]

    def action_metric(self) -> None:
        """Draw the next figure that there is."""
        known = self.filled_metrics()
        if known:
            self.draw_metric(known[(known.index(self.metric) + 1) % len(known)] if self.metric in known else "loss")

    def action_metrics(self) -> None:
        """Choose the figure to draw from a list."""
        choices = [Choice(metric, _newest(self.feed, metric)) for metric in self.filled_metrics()]

        def chosen(metric: str | None) -> None:
            if metric:
                self.draw_metric(metric)

        if choices:
            self.app.push_screen(Picker("Draw which figure?", choices, keys=self.dialog_keys), chosen)

    def draw_metric(self, metric: str) -> None:
        """Draw the figure called ``metric`` in METRICS."""
        self.metric = metric
        self._draw_chart()

    def action_log_y(self) -> None:
        """Logarithmic y axis, on or off."""
        chart = self.query_one(LineChart)
        chart.log_y = not chart.log_y

    def action_smooth(self) -> None:
        """Moving average, on or off."""
        chart = self.query_one(LineChart)
        chart.smoothing = 0.0 if chart.smoothing else _SMOOTHING

    def action_zoom(self, factor: float) -> None:
        """Show more or fewer steps."""
        self.query_one(LineChart).zoom(factor)

    def action_pan(self, share: float) -> None:
        """Move along the steps."""
        self.query_one(LineChart).pan(share)

    def action_all(self) -> None:
        """Show all steps."""
        self.query_one(LineChart).reset()


def _newest(feed: RunFeed | None, metric: str) -> str:
    """The last values of a figure's curves, in words."""
    from services import formats

    curves = feed.shown_curves(metric) if feed else []
    return ", ".join(f"{curve.name} {formats.number(curve.last)}" for curve in curves if len(curve))
