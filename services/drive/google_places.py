"""Which id a name in a folder gets: written down in a log of slots before anything is made under it.

Two clients that are about to make the same folder meet at the log's end, where one of them wins; the other reads its
record and makes the folder under the same id. No listing, which may be minutes late, has a part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from services.drive.api.types import DriveFile
from services.drive.google_slots import Slots

if TYPE_CHECKING:
    from services.drive.google_tree import Tree

LOG = "docs/registry/places"


class Place(msgspec.Struct, frozen=True):
    """A record: ``name`` in the folder ``parent`` has ``id``. ``next`` is the id of the record after it."""

    parent: str
    name: str
    id: str
    next: str


class Places:
    """The log in the store of ``tree``."""

    def __init__(self, tree: Tree, slots: Slots) -> None:
        self.tree = tree
        self.client = tree.client
        self.slots = slots

    async def id_for(self, above: DriveFile, name: str, *, dead: str = "") -> str:
        """The id under which ``name`` in ``above`` is to be made, the same for everybody who asks.

        What was thrown away, moved or renamed since, or is known to be ``dead``, gets a new one.
        """
        while True:
            known, tail = await self._read()
            id = known.get((above.id, name), "")
            if id and id != dead and await self._free_or_there(id, above, name):
                return id
            new, following = await self.client.new_ids(2)
            if not tail:  # no log, as in a root that drive.init has not completed, or a damaged one
                return new
            data = msgspec.json.encode(Place(above.id, name, new, following)) + b"\n"
            folder = self.tree.cache.layout.places.get(LOG, "")
            if await self.slots.put_in(folder, tail, data):
                return new

    async def _free_or_there(self, id: str, above: DriveFile, name: str) -> bool:
        """Whether nothing is made under the id yet, or just what is wanted."""
        found = await self.client.get(id)
        return found is None or (not found.trashed and found.name == name and above.id in found.parents)

    async def _read(self) -> tuple[dict[tuple[str, str], str], str]:
        """The last id of each name by folder, and the first empty slot ("" when there is none to write to)."""
        known: dict[tuple[str, str], str] = {}
        tail = self.tree.cache.layout.first.get(LOG, "")

        def follow(id: str, data: bytes) -> str | None:
            nonlocal tail
            try:
                place = msgspec.json.decode(data, type=Place)
            except (msgspec.DecodeError, UnicodeDecodeError):
                tail = ""
                return None
            known[place.parent, place.name] = place.id
            tail = place.next
            return tail

        if tail and LOG in self.tree.cache.layout.places:
            await self.slots.walk(LOG, tail, follow)
        return known, tail
