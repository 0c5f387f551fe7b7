"""Work that ends when somebody asks for it by a file in the transfer's ``control/``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from services.transfers import items
from services.transfers.types import Moved

LOOK_S = 0.1


class Asked(Exception):
    """The transfer is to stop: ``wish`` is "pause", "cancel", or "yield" to a more urgent one."""

    def __init__(self, wish: str) -> None:
        super().__init__(wish)
        self.wish = wish


def look(folder: Path) -> None:
    """Raises Asked when the transfer is to pause or to end."""
    for wish in ("cancel", "pause"):
        if items.asked(folder, wish):
            raise Asked(wish)


async def unless(work: Coroutine[Any, Any, Moved], looks: Callable[[], Awaitable[None]]) -> Moved:
    """Await ``work``, calling ``looks`` ten times a second; what that raises ends the work, and is raised."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            await looks()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
