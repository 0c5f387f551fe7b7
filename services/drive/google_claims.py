"""Who is still working on an unfinished folder on Drive.

On this box a lock file tells, which the operating system releases when its holder dies. Of other boxes only the time
that stands in the folder's properties is known: after eight days nobody can be at it any more, since Drive itself keeps
an interrupted upload for a week.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from services.drive import claims
from services.drive.api.types import DriveFile
from services.drive.google_tree import Tree

_HOST, _SINCE = "hybridTuiHost", "hybridTuiSince"
_LOST = 8 * 86_400.0  # seconds


class Claims:
    """Claims on folders of ``tree``; ``locks`` is this box's folder of lock files."""

    def __init__(self, tree: Tree, locks: Path) -> None:
        self.tree = tree
        self.locks = locks

    async def claim(self, folder: str) -> Callable[[], None]:
        """See ``Store.claim``: the folder is made, with host and time; nobody else writes in it."""
        release = await asyncio.to_thread(claims.claim, self._lock(folder))
        try:
            about = {_HOST: socket.gethostname()[:80], _SINCE: str(int(time.time()))}
            made = await self.tree.make(folder, about)
        except BaseException:
            release()
            raise
        if not await self.tree.client.children(made.id):
            self.tree.own.add(made.id)
        return release

    async def abandoned(self, parent: str) -> list[str]:
        """See ``Store.abandoned``."""
        place = await self.tree.find(parent)
        if place is None or not place.folder:
            return []
        locks = self._lock(parent)
        dead = set(await asyncio.to_thread(claims.abandoned, locks))
        alive = {lock.stem for lock in await asyncio.to_thread(lambda: [*locks.glob("*.lock")])} - dead
        children = (await self.tree.listing(place, sure=True)).files
        for name in dead - children.keys():  # its folder was finished or removed: only the lock file is left
            await asyncio.to_thread(claims.forget, self._lock(f"{parent}/{name}"))
        gone = {part for part, file in children.items() if part in dead or (_lost(file) and part not in alive)}
        return sorted(part for part in gone if children[part].folder)

    async def discard(self, folder: str) -> None:
        """See ``Store.discard``. What another box began goes to Drive's trash: its owner may come back after all."""
        found = await self.tree.find(folder, itself=True)
        now = await self.tree.client.get(found.id) if found is not None else None
        if found is not None and now is not None:
            self.tree.cache.put(now)
            if now.parents != found.parents or now.name != found.name:  # finished and moved by somebody else
                return
            if found.properties.get(_HOST) == socket.gethostname()[:80]:
                await self.tree.remove(found)
            else:
                await self.tree.client.trash(found.id)
                self.tree.cache.forget(found.id)
        await asyncio.to_thread(claims.forget, self._lock(folder))

    def _lock(self, folder: str) -> Path:
        return self.locks / folder


def _lost(folder: DriveFile) -> bool:
    since = folder.properties.get(_SINCE, "")
    return since.isdecimal() and time.time() - int(since) > _LOST
