"""The registry: models and their versions, what is deployed, moving aliases, and the log's history."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from services.context import Plan
from services.errors import HybridError
from services.registry.figures import compare
from services.registry.types import History, Listing, Model, Promotion, Version
from widgets.dialogs import Confirm, Message
from widgets.promote_dialog import Outlook, PromoteDialog, Wish
from widgets.status import Section
from widgets.version_facts import history_lines, version_facts
from widgets.version_table import VersionTable

if TYPE_CHECKING:
    from hybrid_tui.screens.drive import DriveScreen
    from hybrid_tui.screens.inference import InferenceScreen

LOOK_SECONDS = 5.0  # other shells and runs write to the registry too
HISTORY = 200
DEPLOYED = "deployed"
_WIDTHS = [(0, "-narrow"), (110, "-wide")]
_HEIGHTS = [(0, "-short"), (34, "-tall")]


class RegistryScreen(PanelScreen):
    """Versions above; below, the one under the cursor and the history (side by side where there is room)."""

    NAME = "registry"
    BINDINGS = keymap.bindings("registry")
    AUTO_FOCUS = "#versions"
    DEFAULT_CSS = """
    RegistryScreen #store { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RegistryScreen #problems { height: auto; padding: 0 1; color: $text-warning; display: none; }
    RegistryScreen #problems.-some { display: block; }
    RegistryScreen #versions-box { height: 8; }
    RegistryScreen.-tall #versions-box { height: 14; }
    RegistryScreen #lower { height: 1fr; }
    RegistryScreen #facts-box { width: 1fr; height: 1fr; }
    RegistryScreen #history-box { width: 1fr; height: 1fr; display: none; }
    RegistryScreen.-history #history-box { display: block; }
    RegistryScreen.-history.-narrow #facts-box { display: none; }
    RegistryScreen.-wide #history-box { display: block; }
    RegistryScreen #lower VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    RegistryScreen.-nothing #lower { display: none; }
    RegistryScreen.-nothing #versions-box { height: auto; }
    """
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    VERTICAL_BREAKPOINTS = _HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self._listing: Listing | None = None
        self._wanted = ""

    def body(self) -> ComposeResult:
        yield Static(id="store")
        yield Static(id="problems")
        with Section("Versions", id="versions-box", loading="Reading the registry…"):
            yield VersionTable(id="versions")
        with Horizontal(id="lower"):
            with Section("Version", id="facts-box"), VerticalScroll(can_focus=False):
                yield Static(id="facts")
            with Section("History", id="history-box"), VerticalScroll(id="history-scroll"):
                yield Static(id="history")

    # Reading

    def first_shown(self) -> None:
        """Look again now and then while the screen is in front."""
        self.every(LOOK_SECONDS, self.action_refresh)

    def shown(self) -> None:
        """Whatever was open in front may have changed the registry."""
        self.action_refresh()

    def action_refresh(self) -> None:
        """Read the registry again."""
        self.load("registry.list", then=self._draw, failed=self._draw_error)

    def _draw_error(self, error: HybridError) -> None:
        self._listing = None
        self.add_class("-nothing")
        self.query_one("#store", Static).update("")
        self.query_one("#problems").remove_class("-some")
        self.query_one("#versions-box", Section).error(str(error), error.hint)

    def _draw(self, listing: Listing) -> None:
        if listing == self._listing:
            return
        self._listing = listing
        self._draw_store(listing)
        box = self.query_one("#versions-box", Section)
        self.set_class(not listing.versions, "-nothing")
        if not listing.versions:
            box.border_title = "Versions"
            box.empty(
                "No model is registered yet.",
                "Train one (4 Training) and press g there, or press a to add a folder.\n"
                "From a script: hybrid-tui --run registry.add model=NAME path=DIR",
            )
            return
        box.ready()
        box.border_title = Content(f"Versions · {len(listing.versions)} of {_models(len(listing.models))}")
        table = self.query_one(VersionTable)
        table.show(listing.versions)
        if self._wanted:
            table.select(self._wanted)
            self._wanted = ""
        self.load("registry.history", {"limit": HISTORY}, then=self._draw_history, failed=self._history_failed)

    def _draw_store(self, listing: Listing) -> None:
        self.query_one("#store", Static).update(Content.assemble(("Store  ", "dim"), listing.store))
        problems = self.query_one("#problems", Static)
        problems.update(Content("\n".join(f"▲ {problem}" for problem in listing.problems)))
        problems.set_class(bool(listing.problems), "-some")

    def _draw_history(self, found: History) -> None:
        box = self.query_one("#history-box", Section)
        box.border_title = Content(f"History · {found.total} records")
        self.query_one("#history", Static).update(history_lines(found.entries))
        box.ready()

    def _history_failed(self, error: HybridError) -> None:
        self.query_one("#history-box", Section).error(str(error), error.hint)

    def on_version_table_chosen(self, event: VersionTable.Chosen) -> None:
        """Show the version that came under the cursor."""
        version = event.version
        box = self.query_one("#facts-box", Section)
        box.border_title = Content(version.id)
        facts = version_facts(version, self._deployed(version.model), self.panel.clock())
        self.query_one("#facts", Static).update(facts)
        box.ready()

    # What the keys are about

    def _chosen(self, what: str) -> Version | None:
        version = self.query_one(VersionTable).chosen if self._listing and self._listing.versions else None
        if version is None:
            self.notify(f"There is no version to {what}; press a to add one.", markup=False)
        return version

    def _model(self, name: str) -> Model | None:
        return next((m for m in self._listing.models if m.model == name), None) if self._listing else None

    def _target(self, model: str, alias: str) -> int:
        found = self._model(model)
        return found.aliases.get(alias, 0) if found else 0

    def _version(self, model: str, number: int) -> Version | None:
        versions = self._listing.versions if self._listing else ()
        return next((v for v in versions if (v.model, v.version) == (model, number)), None)

    def _deployed(self, model: str) -> Version | None:
        return self._version(model, self._target(model, DEPLOYED))

    # Keys

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Enter on a row."""
        self.action_details()

    def action_details(self) -> None:
        """Show the version whole."""
        if version := self._chosen("show"):
            text = version_facts(version, self._deployed(version.model), self.panel.clock(), whole=True)
            self.app.push_screen(Message(version.id, text, keys=self.dialog_keys))

    def action_history(self) -> None:
        """Show the history and scroll it, or go back to the versions."""
        scroll = self.query_one("#history-scroll")
        back = scroll.has_focus
        self.set_class(not back, "-history")
        (self.query_one(VersionTable) if back else scroll).focus()

    def action_add(self) -> None:
        """Ask for a folder and add it as the next version; its progress is shown."""
        chosen = self.query_one(VersionTable).chosen
        self.panel.ask_action("registry.add", {"model": chosen.model} if chosen else {})

    def action_talk(self) -> None:
        """Go to the inference screen with this version."""
        version = self._chosen("talk to")
        if version is None:
            return
        self.panel.action_go("inference")
        cast("InferenceScreen", self.app.screen).talk_to(version.id)

    def action_fetch(self) -> None:
        """Go to the Drive screen to fetch this version's files."""
        version = self._chosen("fetch")
        if version is None:
            return
        self.panel.action_go("drive")
        cast("DriveScreen", self.app.screen).fetch(version.id)

    def action_promote(self) -> None:
        """Ask which alias goes to this version, show what that means, move it."""
        version = self._chosen("promote")
        model = self._model(version.model) if version else None
        if version is None or model is None:
            return

        def answered(wish: Wish | None) -> None:
            if wish is not None:
                values = {
                    "model": version.model,
                    "version": str(version.version),
                    "to": wish.alias,
                    "expected": model.aliases.get(wish.alias, 0),  # as it was shown in the dialog
                    "note": wish.note,
                }
                self.load("registry.promote", values, then=self._moved, failed=self._not_moved)

        known = sorted({DEPLOYED, "candidate", *model.aliases} - {"latest"})
        dialog = PromoteDialog(
            f"Promote {version.id}",
            lambda alias: self._outlook(version, model, alias),
            known,
            alias="candidate" if DEPLOYED in version.aliases else DEPLOYED,
            keys=self.dialog_keys,
        )
        self.app.push_screen(dialog, answered)

    def _outlook(self, version: Version, model: Model, alias: str) -> Outlook:
        from services.registry.names import check_alias

        try:
            check_alias(alias)
        except ValueError as error:
            return Outlook("", problem=f"{error}.")
        standing = model.aliases.get(alias, 0)
        name = f"{version.model}@{alias}"
        if standing == version.version:
            return Outlook("", problem=f"{name} points to {version.version} already.")
        other = self._version(version.model, standing)
        came_from = f"from {standing} to" if standing else "points nowhere yet and goes to"
        summary = f"{name} {'moves ' if standing else ''}{came_from} {version.version}."
        lines = compare(version.metrics, other.metrics if other else None)[:6]
        lines.append("no gate is set: nothing but your look at these figures decides")
        lines.append(f"refused if somebody moves {alias} meanwhile; b takes it back")
        return Outlook(summary, tuple(lines))

    def action_rollback(self) -> None:
        """Show where the alias would go back to and ask."""
        version = self._chosen("roll back")
        if version is None:
            return
        own = [a for a in version.aliases if a != "latest"]
        alias = own[0] if len(own) == 1 else DEPLOYED
        self.background(self._ask_rollback(version.model, alias), group="rollback", failed=self._not_moved)

    async def _ask_rollback(self, model: str, alias: str) -> None:
        from services.registry.actions import RollbackParams, rollback

        params = RollbackParams(model=model, alias=alias, expected=self._target(model, alias))
        if not params.expected:
            self.notify(f"{model}@{alias} points nowhere: there is nothing to roll back.", markup=False)
            return
        plan = await rollback(replace(self.panel.context(), dry_run=True), params)
        if not isinstance(plan, Plan):
            return
        lines = [*plan.steps, f"refused if somebody moves {alias} meanwhile"]
        dialog = Confirm(f"Roll {model}@{alias} back?", plan.summary, lines, yes="Roll back", keys=self.dialog_keys)
        if await self.app.push_screen_wait(dialog):
            self.load("registry.rollback", params, then=self._moved, failed=self._not_moved)

    def _moved(self, done: Promotion) -> None:
        self._wanted = f"{done.model}@{done.version}"
        text = f"{done.model}@{done.alias} points to {done.version} now."
        self.notify(
            "\n".join([text, *done.warnings]), severity="warning" if done.warnings else "information", markup=False
        )
        self.action_refresh()

    def _not_moved(self, error: HybridError) -> None:
        self.app.push_screen(Message("Nothing was moved", str(error), error.hint, keys=self.dialog_keys))
        self.action_refresh()


def _models(n: int) -> str:
    return "1 model" if n == 1 else f"{n} models"
