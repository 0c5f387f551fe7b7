"""The view of folders: what fills the one that is open, at this level or at any depth, and what is marked there."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from textual.app import ComposeResult
from textual.widgets import Static

from hybrid_tui.storage.level import ORDERS, Look, rows_of, state_words
from hybrid_tui.storage.view import StorageView
from services import formats
from services.context import Progress
from services.errors import HybridError
from widgets.filter_line import FilterLine
from widgets.line_list import shortened, visible
from widgets.size_list import SizeList, SizeRow
from widgets.status import Section

if TYPE_CHECKING:
    from services.storage.types import Explored, FileTypes, Largest

ROWS, LARGEST, TYPES = 2000, 200, 200
STALE_SECONDS = 300.0  # what was read longer ago by an earlier session is read again as soon as it is shown
LEAST_PATH = 40  # cells for a path, before columns other than the size
REMEMBERED = 50  # folders whose last scan is kept, so that going up shows it at once
READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "folder": ("storage.explore", {"limit": ROWS}),
    "largest": ("storage.largest", {"kind": "folders", "limit": LARGEST}),
    "files": ("storage.largest", {"kind": "files", "limit": LARGEST}),
    "types": ("storage.types", {"top": TYPES}),
}
TITLES = {"folder": "{}", "largest": "Largest below {}", "files": "Largest files below {}", "types": "Types below {}"}


class ExploreView(StorageView):
    """One folder at a time. ``_read`` is what was read of it so far, for the mode that is shown."""

    NAME, TITLE, ACTION, LIST = "explore", "Explore", "storage.explore", "folder-list"

    def __init__(self) -> None:
        super().__init__()
        self.path = ""  # the open folder
        self.marked: dict[str, int] = {}  # path → bytes, of any folder
        self._start: tuple[str, str | None] | None = None
        self._mode = "folder"
        self._look = Look()
        self._read: Explored | Largest | FileTypes | None = None
        self._kept: dict[str, tuple[Explored, float]] = {}  # last finished levels and when they were read
        self._read_mode = "folder"  # what ``_read`` is of, once it is whole
        self._reading = False
        self._again = False  # reading over what is shown
        self._first = True
        self._number = 0  # of the latest reading; what older ones still report is dropped
        self._interrupted = False
        self._select: str | None = None

    def compose(self) -> ComposeResult:
        with Section("Folders", id="folders", loading="Scanning…"):
            yield SizeList("Name", id="folder-list")
        yield FilterLine()
        yield Static(classes="view--state", id="scan-state")

    # Coming and going

    def begin(self) -> None:
        path, select = self._start or (str(self.host.panel.workspace.root), None)
        self.open_folder(path, select=select)

    def go(self, path: str, *, select_in_parent: bool = False) -> None:
        """Open ``path``, or the folder it lies in with the cursor on it."""
        wanted = (os.path.dirname(path), path) if select_in_parent else (path, None)  # noqa: PTH120
        if self._was_open:
            self.open_folder(wanted[0], select=wanted[1])
        else:
            self._start = wanted

    def screen_shown(self) -> None:
        if self._interrupted:  # by going to another screen
            self._interrupted = False
            if self._read is None or not self._read.complete:
                self._start_reading()

    def screen_hidden(self) -> None:
        if self._reading:
            self._interrupted = True
            self._cancel()

    def halt(self) -> bool:
        if not self._reading:
            return False
        self._cancel()
        if self._read is None:
            self.section.empty("The scan was stopped before it found anything.", "r scans again.")
        self._draw_state()
        return True

    def _cancel(self) -> None:
        self._number += 1
        self._reading = False
        self.host.workers.cancel_group(self.host, "storage.explore")

    # Reading

    def open_folder(self, path: str, select: str | None = None) -> None:
        """Show the folder ``path``: at once what is known of it, else scan it."""
        from services.storage import paths

        try:
            self.path = paths.shown(paths.actual(path))
        except HybridError as error:
            self.host.panel.toast(error)
            return
        self._mode = "folder"
        self._select = select
        self.query_one(FilterLine).clear_filter()
        self.query_one(SizeList).forget_cursor()
        known = self._kept.get(self.path)
        if known:
            self._cancel()
            self._read = known[0]
            self._draw()
        else:
            self._start_reading()

    def reload(self) -> None:
        """Read what is shown again, from the disk; what is shown stays until that is done."""
        self._kept.clear()
        whole = self._read is not None and self._read.complete and self._read_mode == self._mode
        self._start_reading(refresh=True, keep=whole)

    def _start_reading(self, *, refresh: bool = False, keep: bool = False) -> None:
        action, params = READINGS[self._mode]
        self._cancel()
        self._reading, self._again = True, keep
        if not keep:
            self._read = None
            self.section.loading_state("Scanning…")
        number = self._number
        self._draw_title()
        self._draw_state()
        self.host.load(
            action,
            {"path": self.path, **params} | ({"refresh": True} if refresh and self._mode != "types" else {}),
            then=partial(self._done, number),
            progress=partial(self._so_far, number),
            failed=partial(self._failed, number),
            group="storage.explore",
        )

    def _so_far(self, number: int, progress: Progress) -> None:
        if number == self._number and self._reading and not self._again and progress.partial is not None:
            self._read = progress.partial
            self._draw()

    def _done(self, number: int, read: Any) -> None:
        if number != self._number:
            return
        self._reading = False
        self._read, self._read_mode = read, self._mode
        if self._mode == "folder":
            self._kept.pop(self.path, None)
            self._kept[self.path] = (read, self.host.panel.clock() - read.age)
            while len(self._kept) > REMEMBERED:
                del self._kept[next(iter(self._kept))]
        self._draw()
        if self._first and read.age > STALE_SECONDS:
            self.reload()
        self._first = False

    def _failed(self, number: int, error: HybridError) -> None:
        if number == self._number:
            self._reading = False
            self.section.error(str(error), f"{error.hint} backspace goes up.".strip())
            self._draw_state()

    def changed(self) -> None:
        self.marked = {}
        super().changed()

    # Drawing

    def _draw(self) -> None:
        self._draw_title()
        self._draw_state()
        read = self._read
        if read is None:
            return
        rows = rows_of(read, self._look)
        if not rows:
            if read.complete:
                self._draw_nothing()
            return
        sizes = self.query_one(SizeList)
        sizes.least_name = LEAST_PATH if self._mode in ("largest", "files") else 0
        sizes.show(rows, select=self._select, now=self.host.panel.clock(), marked=self.marked)
        if self._select in {row.key for row in rows}:
            self._select = None
        was_ready = self.section.state == "ready"
        self.section.ready()
        if not was_ready:
            self.take_focus()

    def _draw_nothing(self) -> None:
        if self._look.text:
            self.section.empty(f"Nothing here has “{self._look.text}” in its name.", "esc in the filter shows all.")
        elif self._mode == "folder":
            self.section.empty("This folder is empty.", "backspace goes up.")
        else:
            what = {"largest": "folders", "files": "files", "types": "files"}[self._mode]
            self.section.empty(f"There are no {what} below.", "backspace shows what lies in this folder.")

    def _draw_title(self) -> None:
        name = TITLES[self._mode].format(self._where())
        title = shortened(visible(name), max(self.section.size.width - 20, 20))
        order = "" if self._look.order == "size" else f" · by {ORDERS[self._look.order]}"
        self.section.retitle(title + order)

    def _where(self) -> str:
        home = os.path.realpath(Path.home())
        if self.path == home or self.path.startswith(home.rstrip("/") + "/"):
            return "~" + self.path[len(home.rstrip("/")) :]
        return self.path

    def _draw_state(self) -> None:
        if self.marked:
            count = len(self.marked)
            size = formats.size(sum(self.marked.values()))
            parts = [f"marked {formats.count(count)} thing{'s' * (count != 1)} · {size}", "d cleans up, x unmarks"]
            self.tell(parts)
            return
        complete = self._read is not None and self._read.complete
        self.tell(
            state_words(self._read, self._reading, self._look, self.host.panel.clock(), self._kept.get(self.path)),
            partial=not complete and not self._reading,
        )

    def on_resize(self) -> None:
        """The title is cut to the new width."""
        if self.path:
            self.call_after_refresh(self._draw_title)

    # Keys

    def _row(self) -> SizeRow | None:
        return self.query_one(SizeList).row if self.section.state == "ready" else None

    def do_open(self) -> None:
        """Open the folder under the cursor."""
        if row := self._row():
            self.opened(row)

    def opened(self, row: Any) -> None:
        if self._mode == "types":
            self._turn("files", row.key if row.key.startswith(".") else "")
        elif not row.quiet:
            self.open_folder(row.key)
        elif self._mode == "files":
            self.go(row.key, select_in_parent=True)

    def do_up(self) -> None:
        """Go to the folder above, the cursor on the one we came from; from the large ones, back to the folder."""
        if self._mode != "folder":
            self.open_folder(self.path)
            return
        above = os.path.dirname(self.path)  # noqa: PTH120  (the path is text as the scanner writes it)
        if above != self.path:
            self.open_folder(above, select=self.path)

    def do_home(self) -> None:
        """Open the home folder, or the workspace when home is open."""
        home = str(Path.home())
        self.open_folder(str(self.host.panel.workspace.root) if self.path == os.path.realpath(home) else home)

    def do_largest(self) -> None:
        """The largest folders at any depth, and back."""
        self._turn("largest")

    def do_files(self) -> None:
        """The largest files at any depth, and back."""
        self._turn("files")

    def do_types(self) -> None:
        """Which types of files take the space, and back."""
        self._turn("types")

    def _turn(self, mode: str, text: str = "") -> None:
        from hybrid_tui.actions import ACTIONS

        action = "storage.types" if mode == "types" else "storage.largest"
        if action not in ACTIONS:
            self.host.say(f"This installation has no action {action}.")
        elif self._mode == mode:
            self.open_folder(self.path)
        else:
            self._mode = mode
            self.query_one(FilterLine).clear_filter()
            self.query_one(SizeList).forget_cursor()
            self._start_reading()
            if text:
                self.query_one(FilterLine).add_class("-open")
                self.query_one(FilterLine).value = text

    def do_sort(self) -> None:
        """The next order: size, number of files, age, name."""
        orders = list(ORDERS)
        order = orders[(orders.index(self._look.order) + 1) % len(orders)]
        self._look = msgspec.structs.replace(self._look, order=order)
        self._draw()

    def do_hidden(self) -> None:
        """Show or leave out names that begin with a dot."""
        self._look = msgspec.structs.replace(self._look, hidden=not self._look.hidden)
        self._draw()

    def do_filter(self) -> None:
        """Type what the names are to contain."""
        self.query_one(FilterLine).open()

    def on_filter_line_filtered(self, event: FilterLine.Filtered) -> None:
        """Show only what fits."""
        self._look = msgspec.structs.replace(self._look, text=event.text)
        self._draw()

    def on_filter_line_left(self) -> None:
        """Back to the list."""
        self.take_focus()

    def do_mark(self) -> None:
        """Mark what is under the cursor, or take the mark away."""
        row = self._row()
        if row is None or not row.can_mark:
            return
        if row.key in self.marked:
            del self.marked[row.key]
        else:
            self.marked[row.key] = row.bytes or 0
        sizes = self.query_one(SizeList)
        sizes.action_move(1)
        sizes.refresh()
        self._draw_state()

    def do_unmark(self) -> None:
        """Take every mark away."""
        self.marked.clear()
        self.query_one(SizeList).refresh()
        self._draw_state()

    def do_plan(self) -> None:
        """Show what cleaning up the marked things would do, and ask."""
        if self.host.cleaner.refuses():
            return
        if self.marked:
            self.host.cleaner.plan(paths=tuple(self.marked))
        else:
            self.host.say("Nothing is marked: space marks what is under the cursor.")
