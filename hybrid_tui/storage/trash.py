"""The views of the trash and of the history of clean-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from hybrid_tui.storage.view import StorageView
from services import formats
from widgets import event_list, trash_list
from widgets.line_list import visible
from widgets.status import Section

if TYPE_CHECKING:
    from services.storage.reclaim import CleanHistory, TrashList

MOST_TITLES = 6


class TrashView(StorageView):
    """Batches, newest first; below, what the one under the cursor holds."""

    NAME, TITLE, ACTION, LIST = "trash", "Trash", "storage.trash", "batches"

    def compose(self) -> ComposeResult:
        with Section("Trash", loading="Looking into the trash…"):
            yield trash_list.TrashList(id="batches")
            yield Static(classes="view--facts", id="batch-facts")
        yield Static(classes="view--state")

    @property
    def chosen(self) -> str:
        """The batch under the cursor, "" if there is none."""
        row = self.query_one(trash_list.TrashList).row
        return row.id if row and self.section.state == "ready" else ""

    def begin(self) -> None:
        self.reload()

    def again(self) -> None:
        self.reload()

    def reload(self) -> None:
        """Read the trash again."""
        self.host.load(self.ACTION, then=self._draw, failed=self.failed)

    def _draw(self, trash: TrashList) -> None:
        self.query_one(trash_list.TrashList).show(trash.batches, self.host.panel.clock())
        if not trash.batches:
            self.section.empty("The trash is empty.", "What you clean up lies here until it is freed.")
            self.tell([])
            return
        self.section.ready()
        self.take_focus()
        count = len(trash.batches)
        self.tell(
            [
                f"{formats.size(trash.total_bytes)} in {count} clean-up{'s' * (count != 1)}, on the disk until freed",
                "u restores, f frees",
            ]
        )
        self.on_line_list_highlighted()

    def on_line_list_highlighted(self) -> None:
        """Say what lies in the batch."""
        row = self.query_one(trash_list.TrashList).row
        if row is None:
            return
        more = len(row.titles) - MOST_TITLES
        titles = ", ".join(visible(title) for title in row.titles[:MOST_TITLES])
        facts = Content.assemble(
            (visible(row.scope), "bold $text"),
            f"\n{visible(row.place)} · kept until {formats.moment(row.expires_at)}",
            f"\n{titles}{f' and {more} more' if more > 0 else ''}",
        )
        self.query_one("#batch-facts", Static).update(facts)

    def do_open(self) -> None:
        """Bring it back."""
        if self.chosen:
            self.host.cleaner.undo(self.chosen)

    def opened(self, row: Any) -> None:
        self.do_open()


class HistoryView(StorageView):
    """What was cleaned when, and what the disk got back."""

    NAME, TITLE, ACTION, LIST = "history", "History", "storage.history", "events"

    def compose(self) -> ComposeResult:
        with Section("History", loading="Reading the history…"):
            yield event_list.EventList(id="events")
        yield Static(classes="view--state")

    def begin(self) -> None:
        self.reload()

    def again(self) -> None:
        self.reload()

    def reload(self) -> None:
        """Read the history again."""
        self.host.load(self.ACTION, then=self._draw, failed=self.failed)

    def _draw(self, history: CleanHistory) -> None:
        self.query_one(event_list.EventList).show(history.events, self.host.panel.clock())
        if not history.events:
            self.section.empty("Nothing was cleaned yet.", "c shows what can be cleaned.")
            self.tell([])
            return
        self.section.ready()
        self.take_focus()
        count = len(history.events)
        self.tell([f"the disk got {formats.size(history.total_bytes)} back", f"{count} event{'s' * (count != 1)}"])
