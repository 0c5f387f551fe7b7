"""The view of what can be cleaned: kinds, their items, and what is marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from hybrid_tui.actions import ACTIONS
from hybrid_tui.storage.view import StorageView
from services import formats
from services.context import Progress
from services.errors import HybridError
from widgets.filter_line import FilterLine
from widgets.line_list import visible
from widgets.reclaim_list import ReclaimList, ReclaimRow
from widgets.status import Section

if TYPE_CHECKING:
    from services.storage.reclaim import Reclaimable

GROUP = "storage.items"


class CleanView(StorageView):
    """Kinds in a list, each unfolding into its items; below, what the one under the cursor is."""

    NAME, TITLE, ACTION, LIST = "clean", "Clean", "storage.items", "reclaim"

    def __init__(self) -> None:
        super().__init__()
        self._found: Reclaimable | None = None
        self._measuring = False
        self._plan_when_done = False

    def compose(self) -> ComposeResult:
        with Section("What can be cleaned", loading="Looking for caches and leftovers…"):
            yield ReclaimList(id="reclaim")
            yield Static(classes="view--facts", id="reclaim-facts")
        yield FilterLine()
        yield Static(classes="view--state")

    # Reading

    def begin(self) -> None:
        self.reload()

    def reload(self) -> None:
        """Measure all kinds; what was shown before stays until then."""
        self._measuring = True
        if self._found is None:
            self.section.loading_state("Looking for caches and leftovers…")
        self.host.load(GROUP, then=self._done, progress=self._so_far, failed=self._failed)
        self._draw_state()

    def screen_shown(self) -> None:
        if self._was_open and not self._measuring and (self._found is None or not self._found.complete):
            self.reload()

    def screen_hidden(self) -> None:
        self.halt()

    def halt(self) -> bool:
        if not self._measuring:
            return False
        self.host.workers.cancel_group(self.host, GROUP)
        self._measuring = self._plan_when_done = False
        if self._found is None:
            self.section.empty("Stopped before anything was found.", "r looks again.")
        self._draw_state()
        return True

    def _so_far(self, progress: Progress) -> None:
        if self._measuring and progress.partial is not None:
            self._draw(progress.partial)

    def _done(self, found: Reclaimable) -> None:
        self._measuring = False
        self._draw(found)
        if self._plan_when_done:
            self._plan_when_done = False
            self.do_plan()

    def _failed(self, error: HybridError) -> None:
        self._measuring = self._plan_when_done = False
        self.failed(error)
        self._draw_state()

    # Drawing

    def _draw(self, found: Reclaimable) -> None:
        self._found = found
        self.host.draw_caches(found.cache_bytes, found.budget_bytes)
        sizes = self.query_one(ReclaimList)
        sizes.show(found, self.host.panel.clock())
        if not sizes.rows and found.complete and not sizes.text:
            self.section.empty("There is nothing to clean on this box.", ". shows what was looked for, r looks again.")
        else:
            was_ready = self.section.state == "ready"
            self.section.ready()
            if not was_ready:
                self.take_focus()
        self._draw_state()
        self._draw_facts()

    def _draw_state(self) -> None:
        found, sizes = self._found, self.query_one(ReclaimList)
        if found is None:
            self.tell(["… measuring"] if self._measuring else [])
            return
        parts: list[str] = []
        if self._measuring:
            there = [kind for kind in found.kinds if kind.exists]
            known = sum(kind.bytes is not None for kind in there)
            waits = "; the plan follows" if self._plan_when_done else ""
            parts.append(f"… measuring, {known} of {len(there)} kinds{waits}")
        elif not found.complete:
            parts.append("▲ partial: stopped")
        marked = sizes.marked_items
        if marked:
            parts.append(marked_words(sum(i.bytes for i in marked), sum(i.freed_bytes for i in marked), len(marked)))
        else:
            safe = [item for kind in found.kinds for item in kind.items if item.suggested]
            parts.append("nothing marked")
            if safe:
                parts.append(f"a marks all that is safe: {formats.size(sum(item.freed_bytes for item in safe))}")
        if sizes.absent and not marked and not sizes.with_absent:
            parts.append(f"{sizes.absent} kinds empty or not here")
        parts += found.problems[:1] if not marked else ()
        self.tell(parts, partial=not self._measuring and not found.complete)

    def on_reclaim_list_marked(self, _: ReclaimList.Marked) -> None:
        """The sum is another."""
        self._draw_state()

    def on_line_list_highlighted(self) -> None:
        """Say what is under the cursor."""
        self._draw_facts()

    def _draw_facts(self) -> None:
        row = self.query_one(ReclaimList).row
        self.query_one("#reclaim-facts", Static).update(facts(row) if row else "")

    # Keys

    def do_mark(self) -> None:
        """Mark what is under the cursor."""
        self.query_one(ReclaimList).toggle()

    def do_safe(self) -> None:
        """Mark all that is safe."""
        self.query_one(ReclaimList).mark_safe()

    def do_unmark(self) -> None:
        """Take every mark away."""
        self.query_one(ReclaimList).unmark()

    def do_open(self) -> None:
        """Unfold a kind; go to an item's place."""
        row = self.query_one(ReclaimList).row
        if row is not None:
            self.opened(row)

    def opened(self, row: Any) -> None:
        if row.item is None and row.kind.items:
            self.query_one(ReclaimList).fold()
        elif row.item is None or row.item.paths:
            places = row.item.paths if row.item else row.kind.paths
            self.host.explore(places[0], select_in_parent=row.item is not None)

    def do_filter(self) -> None:
        """Type what the names are to contain."""
        self.query_one(FilterLine).open()

    def on_filter_line_filtered(self, event: FilterLine.Filtered) -> None:
        """Show only what fits."""
        self.query_one(ReclaimList).filter(event.text)

    def on_filter_line_left(self) -> None:
        """Back to the list."""
        self.take_focus()

    def do_hidden(self) -> None:
        """Show the kinds that are not on this disk, or leave them out."""
        sizes = self.query_one(ReclaimList)
        sizes.with_absent = not sizes.with_absent
        sizes.redraw()
        if self._found:
            self._draw(self._found)

    def do_plan(self) -> None:
        """Show what would go, and ask; while the box is still being measured, afterwards."""
        sizes = self.query_one(ReclaimList)
        if self.host.cleaner.refuses():
            return
        if self._measuring or not self._was_open:
            self._plan_when_done = True
            self._draw_state()
        elif not sizes.marked_items:
            self.host.say("Nothing is marked: space marks one, a marks all that is safe.")
        else:
            # what a person marked goes into the plan, whatever its risk: the plan's dialog says it
            self.host.cleaner.plan(items=tuple(item.id for item in sizes.marked_items), risk="high")

    def changed(self) -> None:
        self.query_one(ReclaimList).unmark()
        if self._was_open and self.ACTION in ACTIONS:
            self.reload()  # also when another view is open: the gauge of the caches is drawn from it


def marked_words(total: int, freed: int, count: int) -> str:
    """ "marked 12 items · 9.3 GB, of which 9.1 GB would be freed"."""
    things = f"marked {formats.count(count)} item{'s' * (count != 1)} · {formats.size(total)}"
    return things if freed == total else f"{things}, of which {formats.size(freed)} would be freed"


def facts(row: ReclaimRow) -> Content:
    """What it is, how it comes back, who uses it, where it lies."""
    kind, item = row.kind, row.item
    title = visible(item.name) if item else kind.title
    parts: list[Content | str | tuple[str, str]] = [(title, "bold $text")]
    if item:
        parts.append(f" · {kind.title}")
        if item.used_by:
            parts.append((f" · ▲ in use by {', '.join(map(visible, item.used_by))}", "$text-warning"))
        elif item.risk == "high":
            parts.append((" · ▲ may hold what exists nowhere else", "$text-warning"))
        if item.note:
            parts.append(f" · {item.note}")
    if not item and kind.problem:
        parts.append((f" · ▲ {kind.problem}", "$text-warning"))
    if not item and not kind.exists:
        parts.append(" · not on this disk")
    restore = item.restore if item else kind.restore
    own = f" Its own way: {kind.command}." if kind.command and not item else ""
    paths = item.paths if item else kind.paths
    more = f" and {formats.count(len(paths) - 1)} more" if len(paths) > 1 else ""
    parts.append(f"\n{restore}{own}\n")
    parts.append(f"{visible(paths[0])}{more}" if paths else "")
    if (files := (item.files if item else kind.files)) is not None:
        parts.append(f" · {formats.count(files)} files")
    return Content.assemble(*parts)
