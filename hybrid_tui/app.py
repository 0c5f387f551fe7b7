"""The panel's app: it wires screens, keys, palette, themes and dialogs together, and does nothing itself."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import events
from textual.app import App
from textual.command import Provider
from textual.reactive import reactive
from textual.screen import Screen

from hybrid_tui import keymap, themes
from hybrid_tui.screens import PLACES, Place
from hybrid_tui.screens.base import Report, Then, Work, guarded, perform
from services import formats
from services.context import Context, Plan
from services.errors import HybridError, nearest
from services.workspace import Workspace
from widgets.header import HeaderFacts

_HERE = Path(__file__).resolve().parent
# In a checkout assets/ lies beside the package, in a wheel inside it.
ASSETS = next(folder for folder in (_HERE / "assets", _HERE.parent / "assets") if folder.is_dir())
SMALLEST = (60, 15)
_STORES = {"folder": "plain folder", "drive": "Google Drive", "bucket": "bucket"}
DISK_SECONDS = 30.0
CRASH_SECONDS = 60.0  # a timer that fails the same way again is not told again before


def _maker(place: Place) -> Callable[[], Screen[Any]]:
    return lambda: place.make()


def _commands() -> type[Provider]:
    from hybrid_tui.palette import PanelCommands

    return PanelCommands


class HybridApp(App[None]):
    """The panel over ``workspace``. After ``run()``, pass ``return_code`` on to ``sys.exit``."""

    TITLE = "hybrid-tui"
    CSS_PATH = ASSETS / "hybrid.tcss"
    MODES: ClassVar = {place.name: _maker(place) for place in PLACES}
    DEFAULT_MODE = "overview"
    BINDINGS = keymap.bindings("app")
    COMMANDS: ClassVar = {_commands}
    COMMAND_PALETTE_BINDING = ""  # the key table has the palette's keys

    header_facts: reactive[HeaderFacts | None] = reactive(None)

    def __init__(self, workspace: Workspace, read_only: bool = False) -> None:
        super().__init__()
        if self.no_color:
            os.environ["NO_COLOR"] = "1"  # Textual takes it out; children of the panel must still see it
        self.workspace = workspace
        self.read_only = read_only
        self.crashed = False
        self._crashes: dict[str, float] = {}
        self.clock: Callable[[], float] = time.time
        panel = workspace.settings.panel
        self.register_theme(themes.DARK)
        self.register_theme(themes.LIGHT)
        self.keys, self._warnings = keymap.checked(panel.keys)
        self._warnings = [*workspace.warnings, *self._warnings]
        self.set_keymap(self.keys)
        self.theme = self._known_theme(panel.theme)
        self.header_facts = HeaderFacts(
            workspace=workspace.root.name or str(workspace.root),
            store=_STORES[workspace.settings.store.kind],
            places=tuple((place.key, place.name, place.title) for place in PLACES),
            read_only=read_only,
        )

    def _known_theme(self, name: str) -> str:
        if name in self.available_themes:
            return name
        known = nearest(name, list(self.available_themes)) or "."
        self._warnings.append(f"[panel] theme: there is no theme '{name}'{known}")
        return themes.DARK.name

    def on_mount(self) -> None:
        self.call_after_refresh(self._after_first_paint)

    def _after_first_paint(self) -> None:
        gc.freeze()
        gc.enable()  # the command line switched it off for the start
        for warning in self._warnings:
            self.notify(warning, title="Settings", severity="warning", markup=False, timeout=12)
        self._read_disk()
        self.set_interval(DISK_SECONDS, self._read_disk)
        if not self.read_only:
            self._keep_runs()

    def _keep_runs(self) -> None:
        from hybrid_tui.run_keeper import RunKeeper

        self._start(partial(guarded, self, RunKeeper(self).keep, lambda _: None), "run-keeper")

    def _read_disk(self) -> None:
        work = partial(perform, self, "storage.usage", then=self._show_disk)
        # The overview shows what is wrong with it; the header just stays without a figure.
        self._start(partial(guarded, self, work, lambda _: None), "header")

    def _show_disk(self, usage: Any) -> None:
        over = bool(usage.problems)
        text = f"{formats.size(usage.free_bytes)} free" + (", over budget" if over else "")
        if self.header_facts is not None:
            self.header_facts = self.header_facts.with_disk(text, over)

    def context(self, report: Report = lambda _: None, *, yes: bool = False) -> Context:
        """What a service action gets from the panel."""
        return Context(self.workspace, report=report, read_only=self.read_only, yes=yes)

    def on_resize(self, event: events.Resize) -> None:
        from widgets.too_small import TooSmall

        small = event.size.width < SMALLEST[0] or event.size.height < SMALLEST[1]
        if small and not isinstance(self.screen, TooSmall):
            self.push_screen(TooSmall(SMALLEST))
        elif not small and isinstance(self.screen, TooSmall):
            self.pop_screen()

    def action_go(self, name: str) -> None:
        """Show the screen called ``name``."""
        try:
            self.switch_mode(name)
        except Exception as error:  # its module can't be imported, or its making failed: the others still work
            self.show_crash(error)

    def action_sweeps(self) -> None:
        """Show the sweeps, on top of the screen in front."""
        from hybrid_tui.sweeps.screen import SweepsScreen

        if not isinstance(self.screen, SweepsScreen):
            self.push_screen(SweepsScreen())

    def action_help(self) -> None:
        """Show the keys of the screen in front."""
        from hybrid_tui.help import help_dialog

        place = next(place for place in PLACES if place.name == self.current_mode)
        self.push_screen(help_dialog(place.name, place.title, self.keys))

    async def action_quit(self) -> None:
        """Leave; runs go on. The return code is 1 when something crashed meanwhile."""
        self.exit(return_code=1 if self.crashed else 0)

    def use_theme(self, name: str) -> None:
        """Change the colours."""
        self.theme = name

    def toast(self, error: HybridError) -> None:
        """Show an error that a person can act on."""
        self.notify(f"{error}\n{error.hint}".strip(), severity="error", markup=False, timeout=8)

    def show_crash(self, error: Exception) -> None:
        """Show an error that nobody expected: a dialog with its cause and the next step; the trace goes to a file."""
        from hybrid_tui.crash import crash_dialog

        seen, self._crashes[str(error)] = self._crashes.get(str(error), -math.inf), self.clock()
        self.crashed = True
        if self.clock() - seen > CRASH_SECONDS:
            self.push_screen(crash_dialog(error, None if self.read_only else self.workspace))

    async def confirm(self, plan: Plan) -> bool:
        """Ask for a yes to ``plan``; call from a worker."""
        from hybrid_tui.running import plan_dialog

        answer: bool | None = await self.push_screen_wait(plan_dialog(plan))
        return bool(answer)

    def ask_action(self, name: str, values: Mapping[str, Any] | None = None, then: Then | None = None) -> None:
        """Ask for an action's parameters in a form (``values`` filled in), run it, hand its result to ``then``.

        Without ``then`` a dialog follows the action and shows its result.
        """
        from hybrid_tui.running import ask_and_run

        self._start(partial(guarded, self, partial(ask_and_run, self, name, values or {}, then)), f"ask:{name}")

    def _start(self, work: Callable[[], Work], group: str) -> None:
        self.run_worker(work, group=group, name=group, exclusive=True, exit_on_error=False)
