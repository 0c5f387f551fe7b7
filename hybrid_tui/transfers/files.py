"""The store's folders, level by level: open, go up, push, pull, verify, throw away."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.widgets import Static

from hybrid_tui.transfers.view import DriveView
from services import formats
from services.errors import HybridError
from widgets.drive_list import DriveList, DriveRow
from widgets.filter_line import FilterLine
from widgets.line_list import shortened, visible
from widgets.status import Section

if TYPE_CHECKING:
    from services.transfers.types import Level, LevelEntry, Trashed

REMEMBERED = 50  # levels that going up shows at once, while they are read again
MOST = 2000  # entries drawn; the state line counts the rest


class FilesView(DriveView):
    """One level at a time; ``path`` "" is the store's root."""

    NAME, TITLE, LIST = "files", "Files", "drive-list"

    def __init__(self) -> None:
        super().__init__()
        self.path = ""
        self._kept: dict[str, Level] = {}
        self._level: Level | None = None
        self._select: str | None = None
        self._text = ""

    def compose(self) -> ComposeResult:
        with Section("Files", id="drive-files", loading="Reading the store…"):
            yield DriveList(id="drive-list")
        yield FilterLine()
        yield Static(classes="drive--state")

    # Reading

    def open_folder(self, path: str, select: str | None = None) -> None:
        """Show the folder ``path``, the cursor on ``select``."""
        self.path, self._select = path, select
        self.query_one(FilterLine).clear_filter()
        self.query_one(DriveList).forget_cursor()
        known = self._kept.get(path)
        if known:
            self._draw(known)
        else:
            self._level = None
            self.section.loading_state("Reading the store…")
        self.reload()

    def reload(self) -> None:
        """Read the level again; what is shown stays meanwhile."""
        self._draw_title()
        done, failed = partial(self._done, self.path), partial(self._failed, self.path)
        self.host.load("drive.list", {"path": self.path}, then=done, failed=failed, group="drive.list")

    def _done(self, path: str, level: Level) -> None:
        self._kept.pop(path, None)
        self._kept[path] = level
        while len(self._kept) > REMEMBERED:
            del self._kept[next(iter(self._kept))]
        if path == self.path and level != self._level:
            self._draw(level)

    def _failed(self, path: str, error: HybridError) -> None:
        if path == self.path:
            self._kept.pop(path, None)
            self._level = None
            up = " backspace goes up." if path else ""
            self.section.error(str(error), f"{error.hint}{up}".strip())
            self.tell([])

    # Drawing

    def _draw(self, level: Level) -> None:
        self._level = level
        self._draw_title()
        shown = [e for e in level.entries if self._text.casefold() in e.name.casefold()]
        if not shown:
            self._draw_nothing(level)
            return
        self.query_one(DriveList).show(shown[:MOST], self.host.panel.clock(), select=self._select)
        self._select = None
        was_ready = self.section.state == "ready"
        self.section.ready()
        if not was_ready:
            self.take_focus()
        self._draw_state(level, shown)

    def _draw_nothing(self, level: Level) -> None:
        if self._text:
            self.section.empty(f"Nothing here has “{self._text}” in its name.", "esc in the filter shows all.")
        elif self.path:
            self.section.empty("This folder is empty.", "p pushes a folder here, backspace goes up.")
        else:
            self.section.empty(
                "Nothing is in the store yet.",
                "p pushes a local folder into it; a registered model (3 Registry, a) lies here as well.",
            )
        self.tell([level.store])

    def _draw_state(self, level: Level, shown: list[LevelEntry]) -> None:
        folders = sum(e.kind == "folder" for e in shown)
        files = len(shown) - folders
        skipped = sum(bool(e.skipped) for e in shown)
        self.tell(
            [
                f"{formats.count(folders)} folder{'s' * (folders != 1)}" if folders else "",
                f"{formats.count(files)} file{'s' * (files != 1)}" if files else "",
                formats.size(sum(e.size_bytes or 0 for e in shown)) if files else "",
                f"▲ {skipped} can't be fetched" if skipped else "",
                f"the first {formats.count(MOST)} are shown" if len(shown) > MOST else "",
                visible(level.place),
            ]
        )

    def _draw_title(self) -> None:
        name = visible(self.path) or "root of the store"
        self.section.retitle(f"Files · {shortened(name, max(self.section.size.width - 16, 20))}")

    # Keys

    @property
    def row(self) -> DriveRow | None:
        """What is under the cursor."""
        return self.query_one(DriveList).row if self.section.state == "ready" else None

    @property
    def chosen(self) -> str:
        """The path of what is under the cursor, else of the open folder."""
        return self._path(self.row.entry.name) if self.row else self.path

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def do_open(self) -> None:
        """Open the folder under the cursor."""
        if self.row:
            self.opened(self.row)

    def opened(self, row: Any) -> None:
        entry = row.entry
        if entry.kind == "folder":
            self.open_folder(self._path(entry.name))
        elif entry.skipped:
            self.host.say(f"{visible(entry.name)} can't be fetched: {entry.skipped}.")
        else:
            self.host.mover.pull(self._path(entry.name))

    def do_up(self) -> None:
        """The folder above, the cursor on the one we came from."""
        if self.path:
            above, _, name = self.path.rpartition("/")
            self.open_folder(above, select=name)

    def do_push(self) -> None:
        """Send a local folder into the open one."""
        self.host.mover.push(self.path)

    def do_pull(self) -> None:
        """Fetch what is under the cursor."""
        row = self.row
        if row is None:
            self.host.say("There is nothing to fetch here.")
        elif row.entry.skipped:
            self.host.say(f"{visible(row.entry.name)} can't be fetched: {row.entry.skipped}.")
        else:
            self.host.mover.pull(self._path(row.entry.name))

    def do_verify(self) -> None:
        """Compare a local folder with what is under the cursor, byte for byte."""
        if self.row:
            self.host.panel.ask_action("drive.verify", {"what": self._path(self.row.entry.name)})

    def do_trash(self) -> None:
        """Move what is under the cursor to the store's trash; asks first."""
        if self.row:
            self.host.load("drive.trash", {"path": self._path(self.row.entry.name)}, then=self._trashed)

    def _trashed(self, gone: Trashed) -> None:
        self.host.say(f"{visible(gone.path)} is in the store's trash, {formats.size(gone.freed_bytes)}.")
        self.reload()

    def do_filter(self) -> None:
        """Type what the names are to contain."""
        self.query_one(FilterLine).open()

    def on_filter_line_filtered(self, event: FilterLine.Filtered) -> None:
        """Show only what fits."""
        self._text = event.text
        if self._level:
            self._draw(self._level)

    def on_filter_line_left(self) -> None:
        """Back to the list."""
        self.take_focus()
