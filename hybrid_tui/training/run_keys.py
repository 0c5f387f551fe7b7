"""The keys of the training screen that do something with the run under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from hybrid_tui.actions import ACTIONS
from hybrid_tui.screens.base import perform
from hybrid_tui.training.register import register_form
from hybrid_tui.training.runs_screen import RunsScreen
from services import formats
from services.context import Progress
from services.runs.types import FINISHED, RunView
from widgets.dialogs import Confirm

if TYPE_CHECKING:
    from hybrid_tui.screens.inference import InferenceScreen


class RunKeys(RunsScreen):
    """Start, clone, cancel, checkpoint, resume, agree, register, evaluate, talk, report, notebook, delete."""

    def _progress(self, progress: Progress) -> None:
        self.note(f"{progress.stage} {progress.note}".strip())

    # Beginning

    def action_start(self) -> None:
        """Ask for a run's data and settings and start it."""
        self._ask_and_start(None)

    def action_clone(self) -> None:
        """Start another run with the settings of this one, changed as wished."""
        if view := self.with_run("clone"):
            self._ask_and_start(view)

    def _ask_and_start(self, like: RunView | None) -> None:
        async def ask() -> None:
            from hybrid_tui.start_run import ask_for_run

            try:
                params = await ask_for_run(self.panel, self._progress, like)
                if params is not None:
                    await perform(self.panel, "train.start", params, then=self._started, progress=self._progress)
            finally:
                self.note("")

        self.background(ask(), group="start")

    def _started(self, view: RunView) -> None:
        self.notify(f"Run {view.id} goes on in the background.", markup=False)
        self.select(view.id)

    # Going on

    def action_cancel(self) -> None:
        """Stop the run, after a yes."""
        view = self.with_run("cancel")
        if view is None:
            return
        if view.phase in FINISHED and not view.unattached:
            self.notify(f"Run {view.id} has ended already.", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.load("train.cancel", {"run": view.id}, then=lambda _: self.action_refresh())

        title, text = "Stop this run?", f"{view.id} is at step {view.step:,}. It writes a checkpoint and stops."
        lines = ["You can resume it from there (s)."]
        if view.target != "local":
            lines.append(f"Its machine at {view.target} is given back.")
        self.app.push_screen(Confirm(title, text, lines, yes="Stop it", keys=self.dialog_keys), answered)

    def action_checkpoint(self) -> None:
        """Ask the run for a checkpoint now."""
        if view := self.with_run("checkpoint"):
            self.load(
                "train.checkpoint",
                {"run": view.id},
                then=lambda _: self.notify("A checkpoint is on its way.", markup=False),
            )

    def action_resume(self) -> None:
        """Go on from the last checkpoint, or follow again what goes on elsewhere."""
        if view := self.with_run("resume"):
            self.load("train.resume", {"run": view.id}, then=lambda _: self.action_refresh())

    def action_agree(self) -> None:
        """Say that the consent a run waits for was given in the browser."""
        view = self.with_run("agree for")
        if view is None:
            return
        if not view.wants:
            self.notify(f"Run {view.id} waits for no consent.", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.load("train.consent", {"run": view.id}, then=lambda _: self.action_refresh())

        dialog = Confirm(
            "Have you agreed?", "The run waits until you agree in a browser at this link:", (view.wants,),
            yes="I have agreed", keys=self.dialog_keys,
        )  # fmt: skip
        self.app.push_screen(dialog, answered)

    # Results

    def action_delete(self) -> None:
        """Delete the run's folder; the action's plan is shown first."""
        if view := self.with_run("delete"):
            self.load("train.delete", {"run": view.id}, then=self.deleted)

    def deleted(self, result: Any) -> None:
        """Say what is gone."""
        self.notify(f"Run {result.id} is deleted, {formats.size(result.freed_bytes)} freed.", markup=False)
        self.action_refresh()

    def action_register(self) -> None:
        """Ask for a model's name and add the run's result as its next version."""
        view = self.with_run("register")
        if view is None:
            return
        if view.phase != "succeeded":
            self.notify(f"Run {view.id} has no result to register: it is {view.phase}.", markup=False)
            return

        def answered(words: dict[str, str] | None) -> None:
            if words:
                self.load("registry.add", {"run": view.id, **words}, then=self._registered, progress=self._progress)

        self.app.push_screen(register_form(view, self.dialog_keys), answered)

    def _registered(self, version: Any) -> None:
        self.note("")
        self.notify(f"{version.id} is registered; promote it on the registry's screen.", markup=False)

    def action_evaluate(self) -> None:
        """Ask on what to measure the run's adapter, and show the result."""
        if view := self.with_run("evaluate"):
            self.panel.ask_action("inference.evaluate", {"model": f"run:{view.id}", "data": view.data})

    def action_talk(self) -> None:
        """Go to the inference screen with this run's adapter."""
        view = self.with_run("talk to")
        if view is None:
            return
        self.panel.action_go("inference")
        cast("InferenceScreen", self.app.screen).talk_to(f"run:{view.id}")

    def action_report(self) -> None:
        """Write the run's report."""
        self._ask_about("train.report", "report on")

    def action_notebook(self) -> None:
        """Make the run's notebook and tell where it is opened."""
        self._ask_about("train.notebook", "open a notebook of")

    def action_sessions(self) -> None:
        """Show the machines of the account and which of them nobody follows."""
        self.panel.ask_action("train.sessions")

    def _ask_about(self, name: str, what: str) -> None:
        view = self.with_run(what)
        if view is not None and name in ACTIONS:
            fields = {field.name for field in msgspec.structs.fields(ACTIONS[name].parameters())}
            self.panel.ask_action(name, {"run": view.id} if "run" in fields else {})

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key whose action this installation does not have is not offered."""
        needs = {"report": "train.report", "notebook": "train.notebook", "sessions": "train.sessions"}
        return needs.get(action, "train.list") in ACTIONS
