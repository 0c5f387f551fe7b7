"""Training: the runs of this workspace, and the one under the cursor live, with its curves, figures and log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from msgspec import Meta
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Log
from textual.worker import Worker

from hybrid_tui import keymap
from hybrid_tui.run_feed import RunFeed
from hybrid_tui.screens.base import PanelScreen, perform
from services import formats
from services.context import Progress
from services.errors import HybridError
from services.runs.types import FINISHED, Runs, RunView
from widgets.dialogs import Confirm
from widgets.form import FormDialog
from widgets.line_chart import LineChart
from widgets.run_facts import RunFacts
from widgets.run_table import RunTable
from widgets.status import Section

if TYPE_CHECKING:
    from hybrid_tui.screens.inference import InferenceScreen

LOOK_SECONDS = 0.2  # at a live run; a finished one is looked at as seldom as the list
LIST_SECONDS = 2.0
_SMOOTHING = 0.9
_WIDTHS = [(0, "-narrow"), (110, "-wide")]
_HEIGHTS = [(0, "-short"), (34, "-tall")]


class RegisterForm(msgspec.Struct, frozen=True):
    """What to call a run's adapter in the registry."""

    model: Annotated[str, Meta(min_length=1, description="Name of the model; the run becomes its next version.")]
    note: Annotated[str, Meta(max_length=500, description="Why this version is worth keeping.")] = ""


class TrainingScreen(PanelScreen):
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
    TrainingScreen.-tall #runs-box { height: 9; }
    TrainingScreen.-tall #log-box { height: 8; }
    TrainingScreen.-wide #facts-box { width: 40; }
    """
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    VERTICAL_BREAKPOINTS = _HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self.feed: RunFeed | None = None
        self.metric = "loss"
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
            feed = self.feed
            if feed is not None:
                await self._look(feed)
            live = feed is not None and feed.view is not None and feed.view.phase not in FINISHED
            behind = feed is not None and feed.behind
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

    async def _look(self, feed: RunFeed) -> None:
        try:
            await asyncio.to_thread(feed.look)
        except HybridError as error:
            if self.feed is feed:
                self.feed = None
                self.query_one("#facts-box", Section).error(str(error), error.hint)
            return
        changed = False
        while feed.waiting and self.feed is feed:
            changed |= feed.take()
            await asyncio.sleep(0)  # a long history comes in slices, and keys in between
        late = feed.behind and monotonic() - self._drawn_at < LOOK_SECONDS
        if changed and self.feed is feed and not late:
            self._draw_run(feed)
            self._drawn_at = monotonic()

    def on_run_table_chosen(self, event: RunTable.Chosen) -> None:
        """Another run is under the cursor: follow that one."""
        self._choose(event.run)

    def _choose(self, run: str) -> None:
        if self.feed is not None and self.feed.run_dir.name == run:
            return
        view = next((v for v in self.query_one(RunTable).views if v.id == run), None)
        self.feed = RunFeed(Path(view.path)) if view else None
        self._logged = 0
        self.query_one(Log).clear()
        self.query_one(LineChart).reset()
        for box in ("#chart-box", "#facts-box", "#log-box"):
            self.query_one(box, Section).loading_state()
        self._wake.set()

    def select(self, run: str) -> None:
        """Put the cursor on ``run`` as soon as it is listed."""
        self._wanted = run
        self._listed_at = 0.0
        self._wake.set()

    # Drawing

    def _draw_list(self, found: Runs) -> None:
        box, table = self.query_one("#runs-box", Section), self.query_one(RunTable)
        table.show(found.runs)
        if not found.runs:
            box.empty("No runs yet.", "Press n to start one; example data is made if you have none.")
            for id in ("#chart-box", "#facts-box", "#log-box"):
                self.query_one(id, Section).empty("No run chosen.")
            self.feed = None
            return
        box.ready()
        box.retitle(f"Runs · {len(found.runs)}")
        if self._wanted and any(view.id == self._wanted for view in found.runs):
            table.select(self._wanted)
            self._wanted = ""
        if self.feed is None and table.chosen is not None:
            self._choose(table.chosen.id)

    def _draw_run(self, feed: RunFeed) -> None:
        view = feed.view
        if view is None:
            return
        for id in ("#chart-box", "#facts-box", "#log-box"):
            self.query_one(id, Section).ready()
        self.query_one("#facts-box", Section).retitle(view.id)
        self.query_one(RunFacts).show(view, feed.device.disk_free_bytes)
        self._draw_chart(feed)
        self._draw_log(feed)

    def _draw_chart(self, feed: RunFeed) -> None:
        chart = self.query_one(LineChart)
        live = feed.view is not None and feed.view.phase not in FINISHED
        chart.empty = "Waiting for the first figures." if live else "This run has no such figures."
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

    # Keys

    @property
    def chosen(self) -> RunView | None:
        """The run under the cursor, as fresh as it is known."""
        view = self.query_one(RunTable).chosen
        feed = self.feed
        return feed.view if feed and feed.view and view and feed.view.id == view.id else view

    def _with_run(self, what: str) -> RunView | None:
        if self.chosen is None:
            self.notify(f"There is no run to {what}; press n to start one.", markup=False)
        return self.chosen

    def action_refresh(self) -> None:
        """Read the list again, now."""
        self._listed_at = 0.0
        self._wake.set()

    def action_start(self) -> None:
        """Ask for a run's data and settings and start it."""

        async def ask() -> None:
            from hybrid_tui.start_run import ask_for_run

            try:
                params = await ask_for_run(self.panel, self._progress)
                if params is not None:
                    await perform(self.panel, "train.start", params, then=self._started, progress=self._progress)
            finally:
                self._note("")

        self.background(ask(), group="start")

    def _progress(self, progress: Progress) -> None:
        self._note(f"{progress.stage} {progress.note}".strip())

    def _note(self, text: str) -> None:
        self.query_one("#runs-box", Section).border_subtitle = Content(text)

    def _started(self, view: RunView) -> None:
        self.notify(f"Run {view.id} goes on in the background.", markup=False)
        self.select(view.id)

    def action_cancel(self) -> None:
        """Stop the run, after a yes."""
        view = self._with_run("cancel")
        if view is None:
            return
        if view.phase in FINISHED:
            self.notify(f"Run {view.id} has ended already.", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.load("train.cancel", {"run": view.id}, then=lambda _: self.action_refresh())

        title, text = "Stop this run?", f"{view.id} is at step {view.step:,}. It writes a checkpoint and stops."
        lines = ("You can resume it from there (s).",)
        self.app.push_screen(Confirm(title, text, lines, yes="Stop it", keys=self.dialog_keys), answered)

    def action_checkpoint(self) -> None:
        """Ask the run for a checkpoint now."""
        view = self._with_run("checkpoint")
        if view is None:
            return

        async def ask() -> None:
            from services.runs.local import request_checkpoint

            self.panel.context().will_write("A checkpoint")
            await asyncio.to_thread(request_checkpoint, Path(view.path))
            self.notify("A checkpoint is on its way.", markup=False)

        self.background(ask(), group="checkpoint")

    def action_resume(self) -> None:
        """Go on from the last checkpoint."""
        if view := self._with_run("resume"):
            self.load("train.resume", {"run": view.id}, then=lambda _: self.action_refresh())

    def action_delete(self) -> None:
        """Delete the run's folder; the action's plan is shown first."""
        if view := self._with_run("delete"):
            self.load("train.delete", {"run": view.id}, then=self._deleted)

    def _deleted(self, result: Any) -> None:
        self.notify(f"Run {result.id} is deleted, {formats.size(result.freed_bytes)} freed.", markup=False)
        self.feed = None
        self.action_refresh()

    def action_register(self) -> None:
        """Ask for a model's name and add the run's result as its next version."""
        view = self._with_run("register")
        if view is None:
            return
        if view.phase != "succeeded":
            self.notify(f"Run {view.id} has no result to register: it is {view.phase}.", markup=False)
            return

        def answered(words: dict[str, str] | None) -> None:
            if words:
                self.load("registry.add", {"run": view.id, **words}, then=self._registered, progress=self._progress)

        def check(words: dict[str, str]) -> str:
            return "" if words.get("model") else "The model needs a name, e.g. banking."

        form = FormDialog(
            "Register this run", RegisterForm, {"model": view.data}, intro=f"{view.id}, {_results(view)}",
            run="Register", check=check, keys=self.dialog_keys,
        )  # fmt: skip
        self.app.push_screen(form, answered)

    def _registered(self, version: Any) -> None:
        self._note("")
        self.notify(f"{version.id} is registered; promote it on the registry's screen.", markup=False)

    def action_evaluate(self) -> None:
        """Ask on what to measure the run's adapter, and show the result."""
        if view := self._with_run("evaluate"):
            self.panel.ask_action("inference.evaluate", {"model": f"run:{view.id}", "data": view.data})

    def action_talk(self) -> None:
        """Go to the inference screen with this run's adapter."""
        view = self._with_run("talk to")
        if view is None:
            return
        self.panel.action_go("inference")
        cast("InferenceScreen", self.app.screen).talk_to(f"run:{view.id}")

    # The chart

    def action_metric(self) -> None:
        """Draw the next figure that this run has."""
        if self.feed is not None:
            known = self.feed.filled_metrics()
            self.metric = known[(known.index(self.metric) + 1) % len(known)] if self.metric in known else "loss"
            self._draw_chart(self.feed)

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


def _results(view: RunView) -> str:
    accuracy = view.results.get("accuracy")
    return f"accuracy {formats.percent(accuracy)} on held-out data" if accuracy is not None else "not evaluated"
