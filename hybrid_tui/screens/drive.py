"""The store: its folders, the transfers to and from it, where it is and how much room it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.widgets import Static

from hybrid_tui import keymap
from hybrid_tui.actions import ACTIONS
from hybrid_tui.screens.base import PanelScreen
from hybrid_tui.transfers.files import FilesView
from hybrid_tui.transfers.mover import Mover
from hybrid_tui.transfers.queue import QueueView, news
from hybrid_tui.transfers.view import DriveView
from services import formats
from services.errors import HybridError
from widgets.line_list import LineList, visible
from widgets.tabs_line import TabsLine

if TYPE_CHECKING:
    from services.drive.auth.actions import DriveStatus
    from services.drive.store import StoreStatus
    from services.transfers.types import Transfers

TICK_SECONDS = 0.5
VIEWS = (FilesView, QueueView)


class DriveScreen(PanelScreen):
    """A line for the store, then files and transfers: one above the other where there is room, else one of them."""

    NAME = "drive"
    BINDINGS = keymap.bindings("drive")
    AUTO_FOCUS = ""
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]  # noqa: RUF012
    DEFAULT_CSS = """
    DriveScreen #drive-store, DriveScreen #drive-work { height: 1; padding: 0 1; }
    DriveScreen #drive-store, DriveScreen #drive-work { text-wrap: nowrap; text-overflow: ellipsis; }
    DriveScreen #drive-store.-trouble { color: $text-warning; }
    DriveScreen #drive-work { display: none; color: $primary; text-style: bold; }
    DriveScreen #drive-work.-some { display: block; }
    DriveView { height: 1fr; display: none; }
    DriveView.-front { display: block; }
    DriveScreen.-tall DriveView { display: block; }
    DriveView > Section { height: 1fr; }
    DriveView .drive--state { height: 1; padding: 0 2; color: $text-muted; }
    DriveView .drive--state { text-wrap: nowrap; text-overflow: ellipsis; }
    DriveView #transfer-facts { height: 6; margin-top: 1; }
    DriveScreen.-short #transfer-facts { margin-top: 0; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.mover = Mover(self)
        self._view: DriveView | None = None
        self._wanted = ""  # to be fetched as soon as the screen is there
        self._began = False
        self._signed_in = False
        self._facts: list[str] = []  # the store's line, as the store and the account tell it
        self._account: list[str] = []
        self._problem = ""

    def body(self) -> ComposeResult:
        yield Static(id="drive-store")
        yield TabsLine(self._tabs(0))
        for view in VIEWS:
            yield view()
        yield Static(id="drive-work")

    def _tabs(self, under_way: int) -> tuple[tuple[str, str, str], ...]:
        keys = {view.NAME: keymap.shown_key(f"drive.{view.NAME}", self.panel.keys) for view in VIEWS}
        more = {QueueView.NAME: f" ({under_way} under way)" if under_way else ""}
        return tuple((view.NAME, keys[view.NAME], view.TITLE + more.get(view.NAME, "")) for view in VIEWS)

    def on_mount(self) -> None:
        self._turn_to(self.query_one(FilesView))  # so that its keys hold from the first moment

    def first_shown(self) -> None:
        """Read everything; the queue is looked at while the screen is in front."""
        self._began = True
        self._read_store()
        self.query_one(FilesView).open_folder("")
        self.query_one(QueueView).reload()
        self.every(TICK_SECONDS, self.query_one(QueueView).tick)
        self._front.take_focus()
        if self._wanted:
            self.mover.pull(self._wanted)
            self._wanted = ""

    def shown(self) -> None:
        """Whatever was open in front may have changed the queue."""
        if self._began:
            self.query_one(QueueView).reload()

    def fetch(self, reference: str) -> None:
        """From another screen: ask to pull this version."""
        if self._began:
            self.mover.pull(reference)
        else:
            self._wanted = reference

    # Views

    def action_view(self, name: str) -> None:
        """Turn to the view ``name``."""
        self._turn_to(self.query_one(f"#{name}", DriveView))
        self._front.take_focus()

    def _turn_to(self, view: DriveView) -> None:
        if self._view is view:
            return
        if self._view:
            self._view.remove_class("-front")
        self._view = view
        view.add_class("-front")
        self.query_one(TabsLine).current = view.NAME
        self.refresh_bindings()

    @property
    def _front(self) -> DriveView:
        return self._view or self.query_one(FilesView)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The keys are those of the half that has the focus."""
        super().on_descendant_focus(event)
        for view in self.query(DriveView):
            if view in event.widget.ancestors:
                self._turn_to(view)

    def on_tabs_line_chosen(self, event: TabsLine.Chosen) -> None:
        """The same by mouse."""
        self.action_view(event.name)

    def on_line_list_opened(self, event: LineList.Opened) -> None:
        """A double click."""
        self._front.opened(event.row)

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A half's key is offered while it has the focus; signing in while Google Drive is not signed in to."""
        if action == "do":
            return self._view is not None and hasattr(self._view, f"do_{parameters[0]}")
        if action == "sign_in":
            return self._on_drive and not self._signed_in and "drive.login" in ACTIONS
        return super().check_action(action, parameters)

    async def run_action(self, action: str, namespaces: Mapping[str, DOMNode] | None = None) -> None:
        """From the palette: a key of the other half turns to it first."""
        if action.startswith("do('"):
            name = "do_" + action[4:-2]
            if not hasattr(self._view, name):
                self.action_view(next(view.NAME for view in VIEWS if hasattr(view, name)))
        await super().run_action(action, namespaces)

    def action_do(self, name: str) -> None:
        """A key of the half that has the focus."""
        getattr(self._front, f"do_{name}")()

    def action_refresh(self) -> None:
        """Read everything again."""
        self._read_store()
        self.query_one(FilesView).reload()
        self.query_one(QueueView).reload()

    def action_stop(self) -> None:
        """Stop comparing."""
        self.mover.stop()

    def action_sign_in(self) -> None:
        """Sign in to Google Drive."""
        from hybrid_tui.sign_in import SignInDialog

        def answered(done: bool | None) -> None:
            if done:
                self.action_refresh()

        self.app.push_screen(SignInDialog(self.panel.workspace, keys=self.dialog_keys), answered)

    # What the halves tell

    def say(self, text: str, severity: Literal["information", "warning"] = "information") -> None:
        """A note in the corner."""
        self.notify(text, severity=severity, markup=False, timeout=5)

    def show_work(self, text: str) -> None:
        """What is being done, "" when nothing is."""
        try:
            line = self.query_one("#drive-work", Static)
        except NoMatches:
            return  # the panel is closing
        line.update(Content(text))
        line.set_class(bool(text), "-some")

    def moved(self) -> None:
        """Something was queued."""
        self.query_one(QueueView).reload()

    def queue_changed(self, before: Transfers | None, now: Transfers) -> None:
        """Tell what ended, count what is under way, show what arrived in the store."""
        tabs = self.query_one(TabsLine)
        wanted = self._tabs(self.query_one(QueueView).under_way)
        if tabs.tabs != wanted:
            tabs.tabs = wanted
            tabs.refresh()
        ended = news(before, now)
        for text, bad in ended:
            self.say(text, "warning" if bad else "information")
        if ended:
            self.query_one(FilesView).reload()
            self._read_store()  # its room has changed

    # The store

    @property
    def _on_drive(self) -> bool:
        return self.panel.workspace.settings.store.kind == "drive"

    def _read_store(self) -> None:
        self.load("store.status", then=self._draw_store, failed=self._store_failed)
        if self._on_drive and "drive.status" in ACTIONS:
            self.load("drive.status", then=self._draw_account, failed=self._store_failed)

    def _draw_store(self, status: StoreStatus) -> None:
        words = [status.label]
        if status.free_bytes is not None and status.total_bytes is not None:
            words.append(f"{formats.size(status.free_bytes)} free of {formats.size(status.total_bytes)}")
        if status.reachable and not status.writable and not status.problem:
            words.append("▲ it can't be written")
        words.append(visible(status.path))
        self._facts = words
        self._problem = status.problem
        self._draw_facts(trouble=not status.writable)

    def _draw_account(self, status: DriveStatus) -> None:
        self._signed_in = True
        self.refresh_bindings()
        words = ["Google Drive", status.email or status.account, f"scope {status.scope}"]
        if status.limit_bytes is None:
            words.append(f"{formats.size(status.used_bytes)} used, no limit")
        else:
            words.append(f"{formats.size(status.used_bytes)} of {formats.size(status.limit_bytes)} used")
        if status.trash_bytes:
            words.append(f"{formats.size(status.trash_bytes)} of it in the trash")
        self._account = words
        self._draw_facts()

    def _draw_facts(self, *, trouble: bool = False) -> None:
        """What is in the way comes first; the account says more than the store does of itself."""
        told = [f"▲ {visible(self._problem)}"] if self._problem else []
        self._say_store(" · ".join([*told, *(self._account or self._facts)]), trouble=bool(self._problem) or trouble)

    def _store_failed(self, error: HybridError) -> None:
        self._signed_in, self._account = False, []
        self.refresh_bindings()
        self._say_store(f"✗ {error} {error.hint}", trouble=True)

    def _say_store(self, text: str, *, trouble: bool = False) -> None:
        line = self.query_one("#drive-store", Static)
        line.set_class(trouble, "-trouble")
        line.update(Content.assemble(("Store  ", "dim"), text))
