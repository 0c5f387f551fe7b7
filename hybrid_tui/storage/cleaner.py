"""Clean-ups from the panel: the plan, its question, the work with its progress, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from textual.screen import Screen

from hybrid_tui import keymap
from hybrid_tui.actions import ACTIONS
from hybrid_tui.running import plan_dialog
from hybrid_tui.screens.base import perform
from services import formats
from services.context import Plan, Progress
from widgets.clean_dialog import CleanDialog
from widgets.dialogs import Confirm
from widgets.gauge import bar
from widgets.line_list import visible
from widgets.run_dialog import progress_line

if TYPE_CHECKING:
    from hybrid_tui.screens.storage import StorageScreen
    from services.storage.packages.types import Swapped
    from services.storage.reclaim import Cleaned, CleanPlan, Purged, Restored, TrashList

T = TypeVar("T")
GROUP = "storage.write"
BAR = 12  # cells
ASKING = "asking"  # a dialog is open
WRITES = {"cleaning": "The clean-up", "freeing": "Freeing", "restoring": "Restoring", "swapping": "The swap"}


class Cleaner:
    """One piece of work at a time; ``at`` says which ("" none). Its progress goes to the screen's line for work."""

    def __init__(self, screen: StorageScreen) -> None:
        self.screen = screen
        self.at = ""

    # Asked for by keys

    def plan(self, **what: Any) -> None:
        """Plan cleaning ``items`` or ``paths`` up, show the plan, and do what is answered."""
        self.start("planning", partial(self._clean, what), "storage.plan", "storage.clean")

    def undo(self, batch: str = "") -> None:
        """Bring back what the last clean-up moved, or ``batch``."""
        self.start("restoring", partial(self._undo, batch), "storage.undo")

    def free(self, batch: str = "") -> None:
        """Delete for good what the last clean-up moved, or ``batch``; the action asks."""
        self.start("freeing", partial(self._free, batch), "storage.trash", "storage.purge")

    def swap(self, environment: str) -> None:
        """Replace the CUDA builds in an environment by CPU builds; the action shows its plan and asks."""
        self.start("swapping", partial(self._swap, environment), "packages.swap")

    def refuses(self, *actions: str) -> bool:
        """Say why nothing can be started now, if so: read-only, other work, or a missing part."""
        if self.screen.panel.read_only:
            self.screen.say("This is a read-only session: nothing is cleaned, restored or freed.")
        elif self.at:
            self.screen.say(f"Still {self.at}; esc stops it.")
        elif lacking := [name for name in actions if name not in ACTIONS]:
            self.screen.say(f"This installation has no action {lacking[0]}.")
        else:
            return False
        return True

    def stop(self) -> bool:
        """Cancel the work; whether there was any."""
        if not self.at:
            return False
        self.screen.workers.cancel_group(self.screen, GROUP)
        return True

    def left(self) -> None:
        """The screen goes to the back: a plan in the making is dropped, work that writes goes on."""
        if self.at == "planning":
            self.stop()

    # The work

    def start(self, stage: str, work: Callable[[], Awaitable[None]], *actions: str) -> None:
        """Run ``work`` unless something stands against it."""
        if not self.refuses(*actions):
            self._turn(stage)
            self.screen.background(partial(self._guarded, work), group=GROUP)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if self.at in WRITES:
                self.screen.say(f"{WRITES[self.at]} was stopped; t shows what lies in the trash.")
            raise
        finally:
            wrote = self.at in WRITES  # still, when it was stopped or failed: some of it may have been done
            self._turn("")
            if wrote:
                self.screen.changed()

    def _turn(self, stage: str) -> None:
        self.at = stage
        self.screen.show_work(f"… {stage} · esc stops" if stage not in ("", ASKING) else "")

    def report(self, progress: Progress) -> None:
        """Show where the work is."""
        if self.at not in ("", ASKING):
            share = ""
            if progress.total:
                done = progress.done / progress.total
                share = f" {''.join(bar(done, BAR))} {100 * done:.0f} %"
            self.screen.show_work(f"… {self.at}{share} · esc stops · {progress_line(progress)}")

    async def run(self, name: str, params: dict[str, Any], *, yes: bool = False, question: str = "") -> Any:
        """An action's result, its progress on the line for work; None when its question was answered with no."""
        found: list[Any] = []
        stage = self.at

        async def ask(plan: Plan) -> bool:
            if await self._answer(plan_dialog(plan, question)):
                self._turn(stage)
                return True
            return False

        await perform(self.screen.panel, name, params, then=found.append, progress=self.report, yes=yes, ask=ask)
        return found[0] if found else None

    async def _answer(self, dialog: Screen[T | None]) -> T | None:
        self._turn(ASKING)
        answer: T | None = await self.screen.panel.push_screen_wait(dialog)
        return answer

    async def _clean(self, what: dict[str, Any]) -> None:
        plan: CleanPlan = await self.run("storage.plan", what)
        keys = [*self.screen.dialog_keys, *keymap.bindings("plan")]
        shown = keymap.shown_key("plan.free", self.screen.panel.keys)
        answer = await self._answer(CleanDialog(plan, free_key=shown, keys=keys))
        now = answer == "free"
        if answer is None or (now and not await self._answer(self._sure(plan))):
            return
        self._turn("freeing" if now else "cleaning")
        if plan.id:
            cleaned: Cleaned | None = await self.run("storage.clean", {"plan": plan.id, "now": now}, yes=True)
        else:  # it could not be kept: the action plans anew, and asks anew
            cleaned = await self.run("storage.clean", {**what, "now": now}, question="Clean up?")
        if cleaned is not None:
            self._tell_cleaned(cleaned, now=now)

    def _sure(self, plan: CleanPlan) -> Confirm:
        size = formats.size(plan.freed_bytes)
        return Confirm(
            "Free now?",
            f"{plan.scope}\nThis deletes for good: no undo.",
            [f"frees {size} ({plan.freed_bytes:,} bytes)", f"{formats.count(plan.files)} files"],
            yes=f"Free {size} now (y)",
            keys=self.screen.dialog_keys,
        )

    def _tell_cleaned(self, done: Cleaned, *, now: bool) -> None:
        if now:
            text = f"{formats.size(done.freed_bytes)} freed; the disk has {formats.size(done.disk_freed_bytes)} more."
        elif done.batch:
            text = f"{formats.size(done.freed_bytes)} moved to the trash · u brings it back · f frees it now"
        else:
            text = "Nothing was moved."
        if done.held:
            first = done.held[0]
            more = f" (and {len(done.held) - 1} more)" if len(done.held) > 1 else ""
            text += f"\n▲ Left alone: {visible(first.path)}: {first.reason}{more}"
        self.screen.say(text + notes(done), severity="warning" if done.held else "information")

    async def _undo(self, batch: str) -> None:
        back: Restored = await self.run("storage.undo", {"batch": batch})
        text = f"{formats.size(back.bytes)} brought back, {formats.count(back.files)} files."
        if back.kept:
            text += f"\n▲ {visible(back.kept[0].path)} stays in the trash: {back.kept[0].reason}"
        self.screen.say(text + notes(back), severity="warning" if back.kept else "information")

    async def _free(self, batch: str) -> None:
        if not batch:
            trash: TrashList = await self.run("storage.trash", {})
            if not trash.batches:
                self._turn(ASKING)  # nothing is touched
                self.screen.say("The trash is empty: there is nothing to free.")
                return
            batch = trash.batches[0].id
        gone: Purged | None = await self.run("storage.purge", {"batch": batch}, question="Free now?")
        if gone is not None:
            more = formats.size(gone.disk_freed_bytes)
            self.screen.say(f"{formats.size(gone.bytes)} freed; the disk has {more} more.{notes(gone)}")

    async def _swap(self, environment: str) -> None:
        done: Swapped | None = await self.run("packages.swap", {"env": environment}, question="Swap for CPU builds?")
        if done is not None:
            counts = f"{len(done.removed)} packages out, {len(done.installed)} in, verified by importing."
            self.screen.say(f"{formats.size(done.freed_bytes)} freed: {counts}")


def notes(result: Any) -> str:
    """The sentences that a person should read with a result, each on a line of its own."""
    return "".join(f"\n{note}" for note in result.notes)
