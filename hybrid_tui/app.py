"""The panel's app: it wires screens, keys, palette, themes and dialogs together, and does nothing itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App
from textual.screen import Screen

from hybrid_tui import keymap
from hybrid_tui.screens import PLACES, Place
from hybrid_tui.screens.base import Report, Then
from services.context import Context, Plan, Progress
from services.errors import HybridError
from services.workspace import Workspace
from widgets.dialogs import Confirm, Message
from widgets.header import HeaderFacts, PanelHeader

_HERE = Path(__file__).resolve().parent
# In a checkout assets/ lies beside the package, in a wheel inside it.
ASSETS = next(folder for folder in (_HERE / "assets", _HERE.parent / "assets") if folder.is_dir())


def _maker(place: Place) -> Callable[[], Screen[Any]]:
    return lambda: place.make()


class HybridApp(App[None]):
    """The panel over ``workspace``. After ``run()``, pass ``return_code`` on to ``sys.exit``."""

    TITLE = "hybrid-tui"
    CSS_PATH = ASSETS / "hybrid.tcss"
    MODES: ClassVar = {place.name: _maker(place) for place in PLACES}
    DEFAULT_MODE = "overview"
    BINDINGS = keymap.bindings("app")

    def __init__(self, workspace: Workspace, read_only: bool = False) -> None:
        super().__init__()
        if self.no_color:
            os.environ["NO_COLOR"] = "1"  # Textual takes it out; children of the panel must still see it
        self.workspace = workspace
        self.read_only = read_only
        self.header_facts = HeaderFacts(
            workspace=workspace.root.name or str(workspace.root),
            store="plain folder",
            places=tuple((place.key, place.name, place.title) for place in PLACES),
            read_only=read_only,
        )

    def context(self, report: Report = lambda _: None, *, yes: bool = False) -> Context:
        """What a service action gets from the panel."""
        return Context(self.workspace, report=report, read_only=self.read_only, yes=yes)

    def action_go(self, name: str) -> None:
        """Show the screen called ``name``."""
        try:
            self.switch_mode(name)
        except Exception as error:
            self.show_crash(error)

    def toast(self, error: HybridError) -> None:
        """Show an error that a person can act on."""
        self.notify(f"{error}\n{error.hint}".strip(), severity="error", markup=False, timeout=8)

    def show_crash(self, error: BaseException) -> None:
        """Show an error that nobody expected: a dialog with its cause and the next step."""
        self.push_screen(
            Message("Something went wrong", f"{type(error).__name__}: {error}", keys=keymap.bindings("dialog"))
        )

    async def confirm(self, plan: Plan) -> bool:
        """Ask for a yes to ``plan``; call from a worker."""
        lines = list(plan.steps)
        return bool(
            await self.push_screen_wait(
                Confirm(f"{plan.action}?", plan.summary, lines, keys=keymap.bindings("dialog"))
            )
        )

    def ask_action(self, name: str, values: Mapping[str, Any] | None = None, then: Then | None = None) -> None:
        """Ask for an action's parameters in a form (``values`` filled in) and run it."""
        raise HybridError("not yet")
