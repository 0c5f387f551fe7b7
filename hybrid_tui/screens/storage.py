"""What fills the disk and how it is freed: budgets above, below one of six views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from textual.app import ComposeResult
from textual.content import Content
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.widgets import Static

from hybrid_tui import keymap
from hybrid_tui.actions import ACTIONS
from hybrid_tui.screens.base import PanelScreen
from hybrid_tui.storage.clean import CleanView
from hybrid_tui.storage.cleaner import Cleaner
from hybrid_tui.storage.explore import ExploreView
from hybrid_tui.storage.packages import PackagesView
from hybrid_tui.storage.trash import HistoryView, TrashView
from hybrid_tui.storage.upkeep import UpkeepView
from hybrid_tui.storage.view import StorageView
from services import formats
from services.errors import HybridError
from widgets.gauge import Gauge, Reading
from widgets.line_list import LineList
from widgets.status import Section
from widgets.tabs_line import TabsLine

if TYPE_CHECKING:
    from services.storage.types import DiskUsage
    from services.storage.upkeep.types import Forecast

DISK_SECONDS = 10.0
VIEWS = (CleanView, ExploreView, PackagesView, TrashView, HistoryView, UpkeepView)


class StorageScreen(PanelScreen):
    """Gauges above, the views' names, the view that is open, and a line for work that goes on."""

    NAME = "storage"
    BINDINGS = keymap.bindings("storage")
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    DEFAULT_CSS = """
    StorageScreen #disk { height: auto; border-subtitle-color: $text-muted; }
    StorageScreen #disk > Gauge { width: 1fr; }
    StorageScreen #storage-work { display: none; height: 1; padding: 0 2; color: $primary; text-style: bold; }
    StorageScreen #storage-work { text-wrap: nowrap; text-overflow: ellipsis; }
    StorageScreen #storage-work.-some { display: block; }
    StorageScreen.-short .view--facts { margin-top: 0; }
    StorageScreen.-short #cuda-words { margin-bottom: 0; max-height: 2; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.cleaner = Cleaner(self)
        self._view: StorageView | None = None
        self._began = False

    def body(self) -> ComposeResult:
        yield Section("Disk", Gauge("Used", id="used"), Gauge("Free", id="free"), Gauge("Caches", id="cached"),
                      id="disk", loading="Reading the disk…")  # fmt: skip
        keys = {view.NAME: keymap.shown_key(f"storage.{view.NAME}", self.panel.keys) for view in VIEWS}
        yield TabsLine(tuple((view.NAME, keys[view.NAME], view.TITLE) for view in VIEWS))
        for view in VIEWS:
            yield view()
        yield Static(id="storage-work")

    def on_mount(self) -> None:
        self._turn_to(self.query_one(VIEWS[0]))  # so that its keys hold from the first moment

    def first_shown(self) -> None:
        """Read the disk and open the view in front."""
        self._read_disk()
        self._read_forecast()
        self.every(DISK_SECONDS, self._read_disk)
        self._began = True
        self._front.open_view()

    def shown(self) -> None:
        for view in self.query(StorageView):
            view.screen_shown()

    def hidden(self) -> None:
        if self.app.current_mode == self.NAME:
            return  # only a dialog lies over it
        self.cleaner.left()
        for view in self.query(StorageView):
            view.screen_hidden()

    # Views

    def action_view(self, name: str) -> None:
        """Open the view ``name``."""
        view = self.query_one(f"#{name}", StorageView)
        if view is not self._view:
            self._turn_to(view)
            if self._began:
                view.open_view()

    def _turn_to(self, view: StorageView) -> None:
        if self._view:
            self._view.remove_class("-front")
        self._view = view
        view.add_class("-front")
        self.query_one(TabsLine).current = view.NAME
        self.refresh_bindings()

    @property
    def _front(self) -> StorageView:
        return self._view or self.query_one(VIEWS[0])

    def action_turn(self, by: int) -> None:
        """Open the next view, or the one before."""
        names = [view.NAME for view in VIEWS]
        self.action_view(names[(names.index(self._front.NAME) + by) % len(names)])

    def on_tabs_line_chosen(self, event: TabsLine.Chosen) -> None:
        """The same by mouse."""
        self.action_view(event.name)

    def explore(self, path: str, *, select_in_parent: bool = False) -> None:
        """Go to the folder ``path`` in the explorer, or to the folder it lies in, the cursor on it."""
        view = self.query_one(ExploreView)
        view.go(path, select_in_parent=select_in_parent)
        self.action_view(view.NAME)

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A view's key is offered while that view is open."""
        if action == "do":
            return self._view is not None and hasattr(self._view, f"do_{parameters[0]}")
        return super().check_action(action, parameters)

    async def run_action(self, action: str, namespaces: Mapping[str, DOMNode] | None = None) -> None:
        """From the palette: a key of another view opens that view first."""
        if action.startswith("do('"):
            name = "do_" + action[4:-2]
            if not hasattr(self._view, name):
                self.action_view(next(view.NAME for view in VIEWS if hasattr(view, name)))
        await super().run_action(action, namespaces)

    def action_do(self, name: str) -> None:
        """A key of the view that is open."""
        getattr(self._front, f"do_{name}")()

    def on_line_list_opened(self, event: LineList.Opened) -> None:
        """A double click."""
        self._front.opened(event.row)

    def action_undo(self) -> None:
        """Bring back what was cleaned last; in the trash, what is under the cursor; a task's mark is taken back."""
        if isinstance(self._front, UpkeepView):
            self._front.take_back()
            return
        self.cleaner.undo(self._front.chosen if isinstance(self._front, TrashView) else "")

    def action_free(self) -> None:
        """Delete for good what was cleaned last; in the trash, what is under the cursor."""
        self.cleaner.free(self._front.chosen if isinstance(self._front, TrashView) else "")

    def action_rescan(self) -> None:
        """Read the disk and this view again."""
        self._read_disk()
        self._read_forecast()
        if self._front.ACTION in ACTIONS:
            self._front.reload()

    def action_stop(self) -> None:
        """Stop the work, or else what the view reads."""
        if not self.cleaner.stop():
            self._front.halt()

    # What the views and the cleaner tell

    def say(self, text: str, severity: Literal["information", "warning"] = "information") -> None:
        """A note in the corner."""
        self.notify(text, severity=severity, markup=False, timeout=8)

    def show_work(self, text: str) -> None:
        """What is being done, "" when nothing is."""
        try:
            line = self.query_one("#storage-work", Static)
        except NoMatches:
            return  # the panel is closing
        line.update(Content(text))
        line.set_class(bool(text), "-some")

    def changed(self) -> None:
        """Something was cleaned, restored or freed."""
        if not self.is_attached:
            return
        self._read_disk()
        for view in self.query(StorageView):
            view.changed()

    # Gauges

    def draw_caches(self, used: int, budget: int) -> None:
        """What all caches hold, against their budget."""
        self.query_one("#cached", Gauge).reading = Reading.of_budget(used, budget)

    def _read_disk(self) -> None:
        self.load("storage.usage", then=self._draw_disk, failed=self._disk_failed)

    def _draw_disk(self, disk: DiskUsage) -> None:
        self.query_one("#used", Gauge).reading = Reading.of_budget(disk.used_bytes, disk.budget_bytes)
        self.query_one("#free", Gauge).reading = Reading.of_reserve(disk.free_bytes, disk.min_free_bytes)
        section = self.query_one("#disk", Section)
        section.retitle(f"Disk of {formats.size(disk.total_bytes)}")
        section.ready()

    def _disk_failed(self, error: HybridError) -> None:
        self.query_one("#disk", Section).error(str(error), error.hint)

    def _read_forecast(self) -> None:
        if "storage.forecast" in ACTIONS:
            self.load("storage.forecast", then=self._draw_forecast, failed=lambda _: None)

    def _draw_forecast(self, forecast: Forecast) -> None:
        known = forecast.state != "few"  # samples; that there is nothing to say yet is no news
        self.query_one("#disk", Section).border_subtitle = Content(forecast.sentence) if known else ""
