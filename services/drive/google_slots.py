"""Slots on Drive: small files under ids that were generated before, where a second create is refused with 409."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.drive.google_mirror import Mirror

if TYPE_CHECKING:
    from services.drive.google_tree import Tree

Follow = Callable[[str, bytes], str | None]

_SINGLE = 2  # so many unknown records in a row are read one by one; then the whole folder is fetched ahead
_AT_ONCE = 16


class Slots:
    """Records never change, so one that was read is read from this box's memory ever after."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.client = tree.client
        self.mirror: Mirror = tree.mirror

    async def put(self, folder: str, id: str, data: bytes) -> bool:
        """See ``Store.put_new``."""
        return await self.put_in((await self.tree.make(folder)).id, id, data)

    async def put_in(self, folder: str, id: str, data: bytes) -> bool:
        """``put`` into the folder with this id."""
        if not await self.client.create(f"{id}.json", folder, data, id=id):
            return False
        self.mirror.keep_slots({id: data})
        return True

    async def read(self, id: str) -> bytes | None:
        """See ``Store.read_slot``: asked by id, which is never stale. An empty slot costs one cheap request."""
        held = self.mirror.slots().get(id)
        if held is not None:
            return held
        if await self.client.get(id) is None:
            return None
        data = await self.client.read(id)
        if data is not None:
            self.mirror.keep_slots({id: data})
        return data

    async def walk(self, folder: str, first: str, follow: Follow) -> None:
        """See ``Store.walk``. What is remembered costs no request; a long unknown part is fetched in parallel."""
        await self.tree.cache.fresh()  # a record that was tampered with is forgotten
        if self.tree.cache.missed:
            await self._look_again(folder)
        id: str | None = first
        unknown = 0
        while True:
            id = await asyncio.to_thread(self._remembered, id, follow)
            if id is None or (data := await self.read(id)) is None:
                return
            id = follow(id, data)
            unknown += 1
            if unknown == _SINGLE and id is not None:
                await self._ahead(folder)

    def _remembered(self, id: str | None, follow: Follow) -> str | None:
        held = self.mirror.slots()
        while id is not None and (data := held.get(id)) is not None:
            id = follow(id, data)
        return id

    async def _look_again(self, folder: str) -> None:
        """Compare what is remembered with the folder's listing, once after changes may have been missed."""
        held = self.mirror.slots()
        place = await self.tree.find(folder) if held else None
        if place is not None:
            listed = {f.id: f.sha256 for f in await self.client.children(place.id)}
            self.mirror.noticed({id: listed.get(id, "") for id in held})  # what it lacks is read again by its id
        self.tree.cache.missed = False

    async def _ahead(self, folder: str) -> None:
        """Read what the folder's listing shows and nobody here has read: late or false, it decides nothing."""
        place = await self.tree.find(folder)
        if place is None:
            return
        held = self.mirror.slots()
        listed = [f.id for f in await self.client.children(place.id) if f.name == f"{f.id}.json" and f.id not in held]
        lines = asyncio.Semaphore(_AT_ONCE)

        async def one(id: str) -> tuple[str, bytes | None]:
            async with lines:
                return id, await self.client.read(id)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(id)) for id in listed]
        found = [task.result() for task in tasks]
        await asyncio.to_thread(self.mirror.keep_slots, {id: data for id, data in found if data is not None})
