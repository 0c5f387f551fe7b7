"""What fills the disk: budgets, the known caches, and the folders of the workspace, of home or of any place opened."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from services import formats
from services.context import Progress
from services.errors import HybridError
from widgets.gauge import Gauge, Reading
from widgets.size_list import SizeList, SizeRow, shortened, visible
from widgets.status import Section

if TYPE_CHECKING:
    from services.storage.types import Cache, Caches, DiskUsage, Folder, Scan

DISK_SECONDS = 10.0
ROWS = 500
LEAST_PATH = 40  # cells for a path, before columns other than the size
REMEMBERED = 50  # folders whose last scan is kept, so that going up shows it at once


class StorageScreen(PanelScreen):
    """Gauges above; the folder that is open on the left, the caches on the right; how the scan stands below."""

    NAME = "storage"
    BINDINGS = keymap.bindings("storage")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    DEFAULT_CSS = """
    StorageScreen #disk { height: auto; }
    StorageScreen #places { height: 1fr; }
    StorageScreen #folders { width: 1fr; height: 100%; }
    StorageScreen #caches { width: 30; height: 100%; margin-left: 1; }
    StorageScreen.-wide #caches { width: 42; }
    StorageScreen #cache-list { height: auto; }
    StorageScreen #cache-facts { height: 1fr; margin-top: 1; color: $text-muted; }
    StorageScreen #scan-state { height: 1; padding: 0 2; color: $text-muted; }
    StorageScreen #scan-state { text-wrap: nowrap; text-overflow: ellipsis; }
    StorageScreen #scan-state.-partial { color: $text-warning; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._path = ""  # the open folder
        self._scan: Scan | None = None  # of the open folder, so far
        self._scans: dict[str, tuple[Scan, float]] = {}  # last finished ones and when
        self._scanning = False
        self._number = 0  # of the latest scan; what older ones still report is dropped
        self._interrupted = False
        self._select: str | None = None
        self._show_largest = False
        self._caches: Caches | None = None

    def body(self) -> ComposeResult:
        yield Section("Disk", Gauge("Used", id="used"), Gauge("Free", id="free"), Gauge("Caches", id="cached"),
                      id="disk", loading="Reading the disk…")  # fmt: skip
        with Horizontal(id="places"):
            yield Section("Folders", SizeList("Name", id="folder-list"), id="folders", loading="Scanning…")
            yield Section("Caches", SizeList("Cache", id="cache-list"), Static(id="cache-facts"), id="caches",
                          loading="Looking for caches…")  # fmt: skip
        yield Static(id="scan-state")

    def first_shown(self) -> None:
        self._read_disk()
        self._read_caches()
        self._open(str(self.panel.workspace.root))
        self.every(DISK_SECONDS, self._read_disk)

    def shown(self) -> None:
        if self._interrupted:  # by going to another screen
            self._interrupted = False
            if self._caches is None or not self._caches.complete:
                self._read_caches()
            if self._scan is None or not self._scan.complete:
                self._start_scan()

    def hidden(self) -> None:
        if self.app.current_mode == self.NAME:
            return  # only a dialog lies over it
        self._interrupted = True
        self.workers.cancel_group(self, "storage.caches")
        self.workers.cancel_group(self, "storage.scan")
        self._scanning = False
        self._number += 1

    # Keys

    def action_open(self) -> None:
        """Open what is under the cursor."""
        focused = self.focused
        if isinstance(focused, SizeList) and focused.row:
            self._enter(focused, focused.row)

    def on_size_list_opened(self, event: SizeList.Opened) -> None:
        """The same by mouse."""
        self._enter(event.list, event.row)

    def action_up(self) -> None:
        """Open the folder above, the cursor on the one we came from."""
        above = os.path.dirname(self._path)  # noqa: PTH120  (the path is text as the scanner writes it)
        if above != self._path:
            self._open(above, select=self._path)

    def action_home(self) -> None:
        """Open the home folder, or the workspace when home is open."""
        home = str(Path.home())
        self._open(str(self.panel.workspace.root) if self._path == os.path.realpath(home) else home)

    def action_largest(self) -> None:
        """Turn to the largest folders at any depth, and back."""
        self._show_largest = not self._show_largest
        self._draw_title()
        self.query_one("#folder-list", SizeList).forget_cursor()
        self._draw_folders()

    def action_rescan(self) -> None:
        """Read everything again."""
        self._read_disk()
        self._read_caches()
        self._start_scan()

    def action_stop(self) -> None:
        """Stop the scan; what it has found stays, marked as partial."""
        if self._scanning:
            self._number += 1
            self._scanning = False
            self.workers.cancel_group(self, "storage.scan")
            if self._scan is None:
                self.query_one("#folders", Section).empty(
                    "The scan was stopped before it found anything.", "r scans again."
                )
            self._draw_state()

    # The open folder

    def _enter(self, sizes: SizeList, row: SizeRow) -> None:
        if row.quiet:
            return
        if sizes.id == "cache-list":
            self._open(next(c.path for c in self._caches.caches if c.kind == row.key) if self._caches else "")
            self.query_one("#folder-list", SizeList).focus()
        else:
            self._open(row.key)

    def _open(self, path: str, select: str | None = None) -> None:
        """Show the folder ``path``: at once what is known of it, else scan it."""
        from services.storage import paths

        try:
            self._path = paths.shown(paths.actual(path))
        except HybridError as error:
            self.panel.toast(error)
            return
        self._show_largest = False
        self._draw_title()
        self._select = select
        self.query_one("#folder-list", SizeList).forget_cursor()
        known = self._scans.get(self._path)
        self._scan = known[0] if known else None
        if known:
            self.action_stop()
            self._draw_folders()
            self._draw_state()
        else:
            self._start_scan()

    def _start_scan(self) -> None:
        self._number += 1
        self._scanning = True
        self._scan = None
        self.query_one("#folders", Section).loading_state("Scanning…")
        self._draw_state()
        number = self._number
        self.load(
            "storage.scan",
            {"path": self._path, "top": ROWS},
            then=partial(self._scanned, number),
            progress=partial(self._scanned_partly, number),
            failed=partial(self._scan_failed, number),
        )

    def _scanned_partly(self, number: int, progress: Progress) -> None:
        if number == self._number and self._scanning and progress.partial is not None:
            self._scan = progress.partial
            self._draw_folders()
            self._draw_state()

    def _scanned(self, number: int, scan: Scan) -> None:
        if number != self._number:
            return
        self._scanning = False
        self._scan = scan
        self._scans.pop(self._path, None)
        self._scans[self._path] = (scan, self.panel.clock())
        while len(self._scans) > REMEMBERED:
            del self._scans[next(iter(self._scans))]
        self._draw_folders()
        self._draw_state()

    def _scan_failed(self, number: int, error: HybridError) -> None:
        if number == self._number:
            self._scanning = False
            self.query_one("#folders", Section).error(str(error), f"{error.hint} u goes up.".strip())
            self._draw_state()

    def _draw_folders(self) -> None:
        section = self.query_one("#folders", Section)
        scan = self._scan
        if scan is None:
            return
        found = scan.largest if self._show_largest else scan.folders
        if not any(row.kind != "rest" for row in found):
            if scan.complete:
                title = "There are no folders below." if self._show_largest else "This folder is empty."
                section.empty(title, "l shows what lies in it." if self._show_largest else "u goes up.")
            return
        sizes = self.query_one("#folder-list", SizeList)
        rows = [_folder_row(row, scan) for row in found if row.bytes or row.kind != "rest"]
        sizes.least_name = LEAST_PATH if self._show_largest else 0
        sizes.show(rows, select=self._select, now=self.panel.clock())
        if self._select in {row.key for row in rows}:
            self._select = None
        section.ready()
        if self.focused is None and self.is_current:
            self.call_after_refresh(sizes.focus)

    def _draw_title(self) -> None:
        section = self.query_one("#folders", Section)
        name = f"Largest below {self._where()}" if self._show_largest else self._where()
        section.border_title = Content(shortened(visible(name), max(section.size.width - 6, 20)))

    def _where(self) -> str:
        home = os.path.realpath(Path.home())
        if self._path == home or self._path.startswith(home.rstrip("/") + "/"):
            return "~" + self._path[len(home.rstrip("/")) :]
        return self._path

    def _draw_state(self) -> None:
        state = self.query_one("#scan-state", Static)
        scan = self._scan
        complete = scan is not None and scan.complete
        state.set_class(not complete and not self._scanning, "-partial")
        if scan is None:
            state.update(Content("… scanning" if self._scanning else "▲ nothing scanned"))
            return
        word = "✓ complete" if complete else "… scanning" if self._scanning else "▲ partial: stopped"
        parts = [
            word,
            formats.duration(scan.seconds),
            formats.size(scan.total_bytes),
            f"{formats.count(scan.files)} files",
            f"{formats.count(scan.unreadable_count)} unreadable",
        ]
        if scan.other_mounts:
            parts.append(f"{len(scan.other_mounts)} other disks left out")
        read = self._scans.get(self._path)
        if complete and read and self.panel.clock() - read[1] >= 10:
            parts.append(f"read {formats.age(read[1], self.panel.clock())}")
        if scan.unreadable:
            parts.append(f"first unreadable: {visible(scan.unreadable[0])}")
        state.update(Content(" · ".join(parts)))

    # Disk and caches

    def _read_disk(self) -> None:
        self.load("storage.usage", then=self._draw_disk, failed=self._disk_failed)

    def _draw_disk(self, disk: DiskUsage) -> None:
        self.query_one("#used", Gauge).reading = Reading.of_budget(disk.used_bytes, disk.budget_bytes)
        self.query_one("#free", Gauge).reading = Reading.of_reserve(disk.free_bytes, disk.min_free_bytes)
        section = self.query_one("#disk", Section)
        section.border_title = Content(f"Disk of {formats.size(disk.total_bytes)}")
        section.ready()
        if self._scan and not self._scanning:
            self._draw_state()  # its age

    def _disk_failed(self, error: HybridError) -> None:
        self.query_one("#disk", Section).error(str(error), error.hint)

    def _read_caches(self) -> None:
        self.load(
            "storage.caches", then=self._draw_caches, progress=self._draw_caches_so_far, failed=self._caches_failed
        )

    def _draw_caches_so_far(self, progress: Progress) -> None:
        if progress.partial is not None:
            self._draw_caches(progress.partial)

    def _draw_caches(self, caches: Caches) -> None:
        self._caches = caches
        reading = Reading.of_budget(caches.total_bytes, caches.budget_bytes)
        self.query_one("#cached", Gauge).reading = reading
        section = self.query_one("#caches", Section)
        rows = [SizeRow(c.kind, c.kind, c.bytes, None, c.files, c.last_used, quiet=not c.exists) for c in caches.caches]
        self.query_one("#cache-list", SizeList).show(rows, now=self.panel.clock())
        section.ready()
        self._draw_cache_facts()

    def _caches_failed(self, error: HybridError) -> None:
        self.query_one("#caches", Section).error(str(error), error.hint)

    def on_size_list_highlighted(self, event: SizeList.Highlighted) -> None:
        """Say what the cache under the cursor is."""
        if event.list.id == "cache-list":
            self._draw_cache_facts()

    def _draw_cache_facts(self) -> None:
        row = self.query_one("#cache-list", SizeList).row
        cache = next((c for c in self._caches.caches if row and c.kind == row.key), None) if self._caches else None
        if cache:
            self.query_one("#cache-facts", Static).update(_facts(cache, self.panel.clock()))

    def on_resize(self) -> None:
        """The title is cut to the new width."""
        if self._path:
            self.call_after_refresh(self._draw_title)


def _folder_row(row: Folder, scan: Scan) -> SizeRow:
    name = "(the rest)" if row.kind == "rest" else row.path.removeprefix(scan.path).lstrip("/")
    return SizeRow(
        key=row.path if row.kind != "rest" else "",
        name=name + "/" * (row.kind == "folder"),
        bytes=row.bytes,
        share=row.bytes / scan.total_bytes if scan.total_bytes else 0.0,
        files=row.files,
        last_used=row.last_used,
        quiet=row.kind != "folder",
    )


def _facts(cache: Cache, now: float) -> Content:
    parts: list[Content | str | tuple[str, str]] = [(cache.title, "bold $text")]
    if cache.problem:
        parts += ["\n", (f"▲ {cache.problem}", "$text-warning")]
    if cache.exists:
        used = formats.age(cache.last_used, now) if cache.last_used else "never"
        parts += [f"\n{cache.restore}\n", visible(cache.path), f"\n{formats.count(cache.files)} files, used {used}"]
    else:
        parts += ["\nNot on this disk: ", visible(cache.path)]
    return Content.assemble(*parts)
