"""The queue of transfers: what runs and waits, the one under the cursor whole, and keys to steer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.widgets import Static

from hybrid_tui.transfers.view import DriveView
from services import formats
from services.errors import HybridError
from services.transfers.types import FINISHED
from widgets.dialogs import Message
from widgets.line_list import visible
from widgets.status import Section
from widgets.transfer_list import STATES, TransferList, transfer_facts

if TYPE_CHECKING:
    from services.transfers.types import Cleared, Transfers, TransferView

FACTS_LINES = 6
_WHOLE_LINES = 30
_BUSY_TICKS = 4  # an idle queue is looked at only every so many ticks


class QueueView(DriveView):
    """Transfers in the order they run, those that are over below."""

    NAME, TITLE, LIST = "transfers", "Transfers", "transfer-list"

    def __init__(self) -> None:
        super().__init__()
        self.seen: Transfers | None = None
        self._ticks = 0

    def compose(self) -> ComposeResult:
        with Section("Transfers", id="drive-queue", loading="Reading the queue…"):
            yield TransferList(id="transfer-list")
            yield Static(id="transfer-facts")
        yield Static(classes="drive--state")

    # Reading

    def tick(self) -> None:
        """Look at the queue: at every tick while something is under way, else now and then."""
        self._ticks += 1
        if self.under_way or self._ticks % _BUSY_TICKS == 0:
            self.reload()

    @property
    def under_way(self) -> int:
        """How many transfers run or wait."""
        return sum(t.state in ("running", "retrying", "queued") for t in self.seen.transfers) if self.seen else 0

    def reload(self) -> None:
        """Read the queue."""
        self.host.load("drive.transfers", {"whole": True}, then=self.draw, failed=self._failed, group="drive.transfers")

    def _failed(self, error: HybridError) -> None:
        self.seen = None
        self.section.error(str(error), error.hint)
        self.tell([])

    # Drawing

    def draw(self, seen: Transfers) -> None:
        """Draw the queue, if it is another than before."""
        if seen == self.seen:
            return
        before, self.seen = self.seen, seen
        self.host.queue_changed(before, seen)
        if not seen.transfers:
            self.section.empty(
                "Nothing is on its way.",
                "In the files, p pushes a local folder and g fetches one; it goes on when the panel is closed.",
            )
            self.tell([])
            return
        self.query_one(TransferList).show(seen.transfers)
        was_ready = self.section.state == "ready"
        self.section.ready()
        if not was_ready:
            self.take_focus()
            self.call_after_refresh(self._draw_facts)  # only then is its width known
        self._draw_facts()
        self._draw_state(seen)

    def _draw_facts(self) -> None:
        view = self.chosen
        if view:
            width = max(self.query_one("#transfer-facts").size.width, 40)
            self.query_one("#transfer-facts", Static).update(transfer_facts(view, width, FACTS_LINES))

    def _draw_state(self, seen: Transfers) -> None:
        counts = {state: sum(t.state == state for t in seen.transfers) for state in STATES}
        rate = sum(t.rate or 0.0 for t in seen.transfers)
        parts = [f"{formats.size(rate)}/s" if rate else ""]
        if seen.worker:
            parts.append("goes on without the panel")
        elif counts["interrupted"] or counts["queued"]:
            parts.append("▲ nothing works on it: space goes on")
        self.tell(parts + [f"{n} {STATES[state].split()[1]}" for state, n in counts.items() if n])

    def on_line_list_highlighted(self) -> None:
        """Say all about the transfer."""
        self._draw_facts()

    def on_resize(self) -> None:
        """The facts are cut to the new width."""
        self.call_after_refresh(self._draw_facts)

    # Keys

    @property
    def chosen(self) -> TransferView | None:
        """The transfer under the cursor."""
        row = self.query_one(TransferList).row
        return row.view if row and self.section.state == "ready" else None

    def do_open(self) -> None:
        """Show the transfer whole."""
        if view := self.chosen:
            facts = transfer_facts(view, 68, _WHOLE_LINES)
            self.app.push_screen(Message(f"{STATES[view.state]} · {view.id}", facts, keys=self.host.dialog_keys))

    def opened(self, row: Any) -> None:
        self.do_open()

    def do_hold(self) -> None:
        """Pause what runs or waits; go on with what rests."""
        view = self.chosen
        if view is None:
            return
        waits = view.state == "queued" and self.seen is not None and self.seen.worker
        self._steer("pause" if view.state == "running" or waits else "resume", view)

    def do_cancel(self) -> None:
        """End the transfer; what arrived stays."""
        if view := self.chosen:
            self._steer("cancel", view)

    def _steer(self, what: str, view: TransferView) -> None:
        self.host.load(f"drive.{what}", {"transfer": view.id}, then=lambda _: self.reload(), group="drive.steer")

    def do_sooner(self) -> None:
        """Move the transfer up in the queue."""
        self._move("up")

    def do_later(self) -> None:
        """Move the transfer down in the queue."""
        self._move("down")

    def _move(self, to: str) -> None:
        view = self.chosen
        if view and view.state not in FINISHED:
            params = {"transfer": view.id, "to": to}
            self.host.load("drive.priority", params, then=self.draw, group="drive.steer")

    def do_clear(self) -> None:
        """Forget the transfers that are over."""
        self.host.load("drive.clear", then=self._cleared)

    def _cleared(self, gone: Cleared) -> None:
        count = len(gone.cleared)
        self.host.say(f"{count} transfer{'s' * (count != 1)} cleared; what moved stays." if count else "None is over.")
        self.reload()


def news(before: Transfers | None, now: Transfers) -> list[tuple[str, bool]]:
    """Sentences about transfers that ended since ``before``, also those begun since, and whether it is bad news."""
    if before is None:
        return []
    old = {t.id: t.state for t in before.transfers}
    found = []
    for t in now.transfers:
        if old.get(t.id) != t.state and t.state in ("done", "failed", "interrupted"):
            bad = t.state != "done"
            found.append((f"{t.direction} of {visible(t.label)}: {t.state}. {t.reason if bad else ''}".strip(), bad))
    return found
