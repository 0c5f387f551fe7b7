"""Push and pull from the panel: a form, the comparison, its plan in a dialog, then the queue."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from hybrid_tui import actions
from hybrid_tui.running import plan_dialog
from hybrid_tui.screens.base import perform
from services import formats
from services.context import Plan, Progress
from services.errors import BadInput, HybridError
from widgets.dialogs import Message
from widgets.form import FormDialog
from widgets.line_list import visible

if TYPE_CHECKING:
    from hybrid_tui.screens.drive import DriveScreen
    from services.transfers.types import TransferPlan, TransferView

GROUP = "drive.move"


class PushWish(msgspec.Struct, frozen=True):
    """What the form asks before a push."""

    path: Annotated[str, Meta(min_length=1, description="Local folder or file; relative to the workspace.")]
    to: Annotated[
        str, Meta(min_length=1, description='Folder in the store that becomes equal to it; "models/": into models.')
    ]
    delete: Annotated[bool, Meta(description="Move what is only in the store to the store's trash.")] = False


class PullWish(msgspec.Struct, frozen=True):
    """What the form asks before a pull."""

    what: Annotated[str, Meta(min_length=1, description="Folder or file in the store, or a version: banking@2.")]
    to: Annotated[str, Meta(description="Local folder; empty: .hybrid/models/<name>.")] = ""


class Mover:
    """Asks, compares, shows what would travel, and queues it. One thing at a time; ``stop`` ends a comparison."""

    def __init__(self, screen: DriveScreen) -> None:
        self.screen = screen
        self.comparing = False

    def push(self, folder: str) -> None:
        """Send a local folder into the store's ``folder`` (or another that is typed)."""
        self._start(partial(self._ask, "push", PushWish, {"to": f"{folder}/" if folder else ""}))

    def pull(self, what: str) -> None:
        """Fetch ``what``, a path in the store or a version."""
        self._start(partial(self._ask, "pull", PullWish, {"what": what}))

    def stop(self) -> bool:
        """Stop comparing; whether anything was compared."""
        if not self.comparing:
            return False
        self.screen.workers.cancel_group(self.screen, GROUP)
        self._over()
        return True

    def _start(self, work: Any) -> None:
        if self.screen.panel.read_only:
            self.screen.say("This is a read-only session: nothing is moved.")
            return
        self.screen.background(work, group=GROUP, failed=self._failed)

    def _failed(self, error: HybridError) -> None:
        self._over()
        self.screen.app.push_screen(Message("Nothing was moved", str(error), error.hint, keys=self.screen.dialog_keys))

    async def _ask(self, way: str, kind: type[msgspec.Struct], values: dict[str, Any]) -> None:
        action = actions.find(f"drive.{way}")

        def check(words: dict[str, str]) -> str:
            try:
                actions.convert(action, words)
            except BadInput as error:
                return str(error)
            return ""

        title = "Push a folder to the store" if way == "push" else "Pull a folder from the store"
        dialog = FormDialog(
            title, kind, values, intro=action.help, run="Compare", check=check, keys=self.screen.dialog_keys
        )
        words = await self.screen.app.push_screen_wait(dialog)
        if words is not None:
            await self._compare(way, msgspec.to_builtins(actions.convert(action, words)))

    async def _compare(self, way: str, wish: dict[str, Any]) -> None:
        local, store = (wish["path"], wish["to"]) if way == "push" else (wish["to"], wish["what"])
        asked = {"direction": way, "path": local, "what": store, "delete": wish.get("delete", False)}
        found: list[TransferPlan] = []
        self.comparing = True
        self.screen.show_work("… comparing both sides · esc stops")
        await perform(self.screen.panel, "drive.plan", asked, then=found.append, progress=self._progress)
        self._over()
        [seen] = found
        if not (seen.send_bytes or seen.new or seen.changed or (wish.get("delete") and seen.extra)):
            self._nothing(seen)
            return
        plan = await self._plan(way, seen, wish)
        if await self.screen.app.push_screen_wait(plan_dialog(plan, f"{way.title()} in the background?")):
            await perform(self.screen.panel, f"drive.{way}", {**wish, "background": True}, then=self._queued, yes=True)

    async def _plan(self, way: str, seen: TransferPlan, wish: dict[str, Any]) -> Plan:
        from services.transfers.actions import as_plan

        return as_plan(f"drive.{way}", seen, bool(wish.get("delete")))

    def _progress(self, progress: Progress) -> None:
        note = progress.note or "both sides"
        self.screen.show_work(f"… comparing: {note} · esc stops")

    def _nothing(self, seen: TransferPlan) -> None:
        text = f"Both sides are the same: {formats.count(seen.same)} files, {formats.size(seen.total_bytes)}."
        where = f"{seen.local}\n{seen.store}"
        body = "\n".join([text, "", *(f"▲ {problem}" for problem in seen.problems), where])
        self.screen.app.push_screen(Message("Nothing to move", body, keys=self.screen.dialog_keys))

    def _queued(self, view: TransferView) -> None:
        self.screen.say(f"{view.direction} of {visible(view.label)} is queued; it goes on when the panel is closed.")
        self.screen.moved()

    def _over(self) -> None:
        self.comparing = False
        self.screen.show_work("")
