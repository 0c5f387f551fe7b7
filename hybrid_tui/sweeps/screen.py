"""A sweep: its trials as a table and as lines over parallel axes; keys to start, stop, go on, and register the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from hybrid_tui.sweeps.drawing import parallel
from services import formats
from services.errors import HybridError
from services.registry.types import Version
from services.sweeps.types import ENDED, OVER, Sweeps, SweepView
from widgets.dialogs import Confirm
from widgets.line_list import LineList
from widgets.parallel_chart import ParallelChart
from widgets.status import Section
from widgets.trial_list import TrialList, shown

if TYPE_CHECKING:
    from hybrid_tui.screens.training import TrainingScreen

LOOK_SECONDS = 1.0
_PHASES = {
    "running": "● running", "stopped": "▲ stopped", "finished": "✓ finished", "cancelled": "– cancelled",
    "failed": "✗ failed", "over-budget": "✗ over budget",
}  # fmt: skip


class SweepsScreen(PanelScreen):
    """One sweep at a time, the newest first; it only reads the sweep's files."""

    NAME = "sweeps"
    BINDINGS = keymap.bindings("sweeps")
    AUTO_FOCUS = "#trials"
    DEFAULT_CSS = """
    SweepsScreen #sweep-facts { height: auto; max-height: 3; padding: 0 1; }
    SweepsScreen #trials-box { height: 1fr; min-height: 6; max-height: 14; }
    SweepsScreen #axes-box { height: 1fr; min-height: 9; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: tuple[str, ...] = ()
        self.at = 0
        self.seen: SweepView | None = None

    def body(self) -> ComposeResult:
        yield Static("", id="sweep-facts")
        with Section("Trials", id="trials-box"):
            yield TrialList(id="trials")
        with Section("Settings and what came of them", id="axes-box"):
            yield ParallelChart(id="axes")

    def first_shown(self) -> None:
        """Read the list, then look at the sweep for as long as the screen is in front."""
        self.action_refresh()
        self.every(LOOK_SECONDS, self._look)

    # Reading

    def action_refresh(self) -> None:
        """Read the list of sweeps again."""
        self.load("sweep.list", then=self._listed, failed=self._failed)

    def _listed(self, found: Sweeps) -> None:
        current = self.ids[self.at] if self.ids else ""
        self.ids = tuple(line.id for line in found.sweeps)
        self.at = self.ids.index(current) if current in self.ids else 0
        if not self.ids:
            for box in ("#trials-box", "#axes-box"):
                self.query_one(box, Section).empty("No sweep yet.", "Press n to look for good settings.")
            return
        self._look(force=True)

    def _look(self, force: bool = False) -> None:
        live = self.seen is None or self.seen.phase not in ENDED
        if self.ids and (force or live):
            self.load("sweep.show", {"sweep": self.ids[self.at]}, then=self._draw, failed=self._failed)

    def _failed(self, error: HybridError) -> None:
        self.query_one("#trials-box", Section).error(str(error), error.hint)

    # Drawing

    def _draw(self, seen: SweepView) -> None:
        if not self.ids or seen.id != self.ids[self.at]:
            return
        self.seen = seen
        done = sum(t.state in OVER for t in seen.trials)
        trials, axes = self.query_one("#trials-box", Section), self.query_one("#axes-box", Section)
        self.query_one("#sweep-facts", Static).update(Content("\n".join(self._facts(seen))))
        trials.retitle(f"Trials · {done} of {seen.wanted} over")
        if not seen.trials:
            for box in (trials, axes):
                box.empty("No trial has begun yet.", seen.hint)
            return
        trials.ready()
        axes.ready()
        self.query_one(TrialList).show(seen)
        self.query_one(ParallelChart).show(*parallel(seen))

    def _facts(self, seen: SweepView) -> list[str]:
        where = f"{self.at + 1} of {len(self.ids)} · " if len(self.ids) > 1 else ""
        pruned = sum(t.state == "pruned" for t in seen.trials)
        words = [_PHASES[seen.phase], f"{seen.model} on {seen.data}", f"{pruned} pruned ({seen.pruner})"]
        if seen.cost.seconds:
            words.append(formats.duration(seen.cost.seconds))
        if seen.cost.units is not None:
            words.append(f"{formats.number(seen.cost.units)} units")
        if seen.cost.money is not None:
            words.append(f"{seen.cost.money:.2f} {seen.cost.currency}")
        lines = [f"{where}{seen.id} · {' · '.join(words)}"]
        if best := seen.best_trial:
            found = "  ".join(f"{name}={shown(value)}" for name, value in best.params.items())
            lines.append(f"★ best: trial {best.number}, {seen.metric} {formats.number(best.value)} with {found}")
        if seen.reason:
            lines.append(f"{seen.reason} {seen.hint}".strip())
        return lines

    def on_line_list_highlighted(self, event: LineList.Highlighted) -> None:
        """The trial under the cursor is drawn on top."""
        self.query_one(ParallelChart).chosen = event.row.key

    # Keys

    def action_other(self, by: int) -> None:
        """Go to an older or newer sweep."""
        to = min(max(self.at + by, 0), max(len(self.ids) - 1, 0))
        if to != self.at:
            self.at, self.seen = to, None
            self.query_one(TrialList).forget_cursor()
            self._look(force=True)

    def action_start(self) -> None:
        """Ask for a sweep's settings and start it."""
        self.panel.ask_action("sweep.start", {"model": self.panel.workspace.settings.model.base}, then=self._started)

    def _started(self, seen: SweepView) -> None:
        self.notify(f"Sweep {seen.id} goes on in the background.", markup=False)
        self.ids, self.at, self.seen = (seen.id, *self.ids), 0, None
        self.action_refresh()

    def action_cancel(self) -> None:
        """Stop the sweep, after a yes."""
        seen = self.seen
        if seen is None or seen.phase in ENDED:
            self.notify("There is no sweep to stop here.", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.load("sweep.cancel", {"sweep": seen.id}, then=lambda _: self._look(force=True))

        lines = ("Runs that go on write a checkpoint first.", "You can go on with it later (s).")
        text = f"{seen.id} has tried {len(seen.trials)} of {seen.wanted} settings."
        self.app.push_screen(Confirm("Stop this sweep?", text, lines, yes="Stop it", keys=self.dialog_keys), answered)

    def action_resume(self) -> None:
        """Go on with the sweep."""
        if self.seen is not None:
            self.load("sweep.resume", {"sweep": self.seen.id}, then=lambda _: self._look(force=True))

    def action_register(self) -> None:
        """Ask for a model's name and register the best trial's result."""
        seen = self.seen
        if seen is None or seen.best is None:
            self.notify("No trial is complete yet: there is nothing to register.", markup=False)
            return
        self.panel.ask_action("sweep.register", {"sweep": seen.id, "model": seen.data}, then=self._registered)

    def _registered(self, version: Version) -> None:
        self.notify(f"{version.id} is registered; promote it on the registry's screen.", markup=False)

    def action_open(self) -> None:
        """Show the run of the trial under the cursor on the training screen."""
        row = self.query_one(TrialList).row
        if row is not None:
            self.panel.pop_screen()
            self.panel.action_go("training")
            cast("TrainingScreen", self.app.screen).select(row.run)

    def action_close(self) -> None:
        """Back to where it was opened from."""
        self.panel.pop_screen()

    def action_keys(self) -> None:
        """Show the keys of this screen."""
        from hybrid_tui.help import help_dialog

        self.app.push_screen(help_dialog("sweeps", "Sweeps", self.panel.keys))
