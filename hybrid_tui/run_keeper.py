"""What the panel does about runs by itself: follow again those that nothing follows, and keep the ceilings on costs.

It goes on in the background for as long as the panel is open, whichever screen is in front; with ``--read-only`` it
does nothing. Every step is an action that a person could call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hybrid_tui.screens.base import perform
from services.errors import HybridError
from services.runs.types import FINISHED, RunView

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp

KEEP_SECONDS = 30.0  # between two looks; a machine's cost grows slowly
BEFORE_FIRST = 0.5  # seconds that the first screen has for its own reading


class RunKeeper:
    """Looks after the runs of ``panel``'s workspace. What it did is said once, in a toast."""

    def __init__(self, panel: HybridApp) -> None:
        self._panel = panel
        self._tried: set[str] = set()  # runs that were reattached, or could not be: once in a panel's life
        self._told: set[tuple[str, str]] = set()  # (run or "", what was said)

    async def keep(self) -> None:
        """Look, and look again, until cancelled. What can't be read or done is said once and tried again."""
        await asyncio.sleep(BEFORE_FIRST)
        while True:
            await self.look()
            await asyncio.sleep(KEEP_SECONDS)

    async def look(self) -> None:
        """One look at all runs."""
        try:
            live = [run for run in await self._live() if run.phase not in FINISHED]
        except HybridError:
            return  # the screens that show runs say what is wrong
        try:
            for run in live:
                if run.unattached and run.id not in self._tried:
                    await self._follow(run)
            if live:
                await self._enforce()
        except HybridError as error:
            self._say("", "ceilings", "error", f"{error}\n{error.hint}".strip())

    async def _live(self) -> tuple[RunView, ...]:
        found: list[Any] = []
        await perform(self._panel, "train.list", then=found.append)
        runs: tuple[RunView, ...] = found[0].runs
        return runs

    async def _follow(self, run: RunView) -> None:
        self._tried.add(run.id)
        place = run.machine or run.target
        try:
            await perform(self._panel, "train.reattach", {"run": run.id})
        except HybridError as error:
            text = f"Run {run.id} may go on at {place} and can't be followed: {error}\n{error.hint}".strip()
            self._say(run.id, "follow", "error", text)
        else:
            self._say(run.id, "follow", "information", f"Run {run.id} at {place} is followed again.")

    async def _enforce(self) -> None:
        found: list[Any] = []
        await perform(self._panel, "costs.enforce", then=found.append)
        for one in found[0].checked:
            if one.verdict == "stop":
                text = f"Run {one.run} is asked to write a checkpoint and stop. {one.reason}"
                self._say(one.run, "stop", "error", text)
            elif one.verdict == "warn":
                self._say(one.run, "warn", "warning", f"Run {one.run}: {one.reason}")

    def _say(self, run: str, what: str, severity: Any, text: str) -> None:
        if (run, what) not in self._told:
            self._told.add((run, what))
            self._panel.notify(text, title="Runs", severity=severity, markup=False, timeout=12)
