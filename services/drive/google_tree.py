"""Paths of the store ↔ ids on Drive, where names may be double, listings late, and folders moved by hand.

What has an id is asked by id. That a name is absent is never believed from the cache, and for making something not from
a listing alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from services import settings
from services.drive import google_cache, google_root, names
from services.drive.api.types import SHORTCUT, DriveFile
from services.drive.errors import DriveRefused
from services.drive.google_cache import Cache
from services.drive.google_mirror import Mirror
from services.drive.google_places import Places
from services.drive.google_root import MARK, Ambiguous
from services.drive.google_slots import Slots
from services.drive.store import parts
from services.errors import BadInput, HybridError

if TYPE_CHECKING:
    from services.drive.api.client import DriveClient


@dataclass(frozen=True)
class Listing:
    """A folder's children by local name; ``twins`` are those of one name that can't be told apart."""

    files: dict[str, DriveFile]
    twins: dict[str, tuple[DriveFile, ...]]

    def named(self, part: str) -> DriveFile | None:
        """The child that a part of a path means. Raises Ambiguous when several have its name."""
        if part in self.files:
            return self.files[part]
        if (alike := self.twins.get(part)) is not None:
            raise twins(part, alike)
        return next((f for f in self.files.values() if names.stands_for(part, f.name)), None)


class Tree:
    """The files below the root that were met so far."""

    def __init__(self, client: DriveClient, mirror: Mirror, drive: settings.Drive, root_name: str) -> None:
        self.client = client
        self.mirror = mirror
        self.drive = drive
        self.root_name = root_name
        self.own: set[str] = set()  # folders in which nobody else writes: nothing is there but what we put there
        self._listed: dict[str, tuple[float, Listing]] = {}
        self._listing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._making = asyncio.Lock()
        self.cache = Cache(client, mirror, drive, self._relist)
        self.slots = Slots(self)
        self.places = Places(self, self.slots)

    def _relist(self, folder: str) -> None:
        self._listed.pop(folder, None)

    # looking

    async def root(self) -> DriveFile:
        """The root folder. Raises StoreUnreachable when there is none yet, or none any more."""
        await self.cache.fresh()
        known = self.cache.get(self.cache.root)
        if known is None:
            known = await google_root.find_root(self.client, self.drive, self.root_name)
            if known is None:
                raise google_root.missing(self.root_name)
            self.adopt(known)
        return known

    def adopt(self, root: DriveFile) -> None:
        """From now on ``root`` is the root."""
        self.cache.root = root.id
        self.cache.put(root)

    async def find(self, path: str, *, itself: bool = False) -> DriveFile | None:
        """What ``path`` leads to, None when there is nothing. Raises Ambiguous for twins.

        Shortcuts are followed, the last one not when the shortcut ``itself`` is wanted (to move or remove it).
        """
        root = await self.root()
        found = await self._walk(root, parts(path)) if path else root
        return found if found is None or itself else await self.through(found)

    async def _walk(self, root: DriveFile, way: tuple[str, ...]) -> DriveFile | None:
        at, start = root, 0
        for n in range(len(way), 0, -1):  # the longest beginning whose id the root reserves
            id = self.cache.layout.places.get("/".join(way[:n]))
            if id is not None:
                found = await self._reserved(way[:n], id)
                if found is not None:
                    at, start = found, n
                    break
                if n < len(way) or "/".join(way[:n]) in google_root.FOLDERS:
                    return None
        for part in way[start:]:
            folder = await self.through(at)
            child = await self.child(folder, part) if folder is not None and folder.folder else None
            if child is None:
                return None
            at = child
        return at

    async def _reserved(self, way: tuple[str, ...], id: str) -> DriveFile | None:
        """The folder or file that the root's properties name for this path, None while it was not made."""
        found = await self.known(id)
        path = "/".join(way)
        if path in google_root.FOLDERS:
            if found is not None:
                self._in_place(found, way)
            return found
        # A view for people that somebody renamed or threw away stands no longer for its path.
        return None if found is None or found.trashed or found.name != way[-1] else found

    def _in_place(self, folder: DriveFile, way: tuple[str, ...]) -> None:
        """Raises HybridError when a folder of the layout was thrown away or moved. Its name may be changed."""
        path = "/".join(way)
        above = self.cache.layout.places.get("/".join(way[:-1])) if len(way) > 1 else self.cache.root
        if folder.trashed:
            raise HybridError(
                f"The store's folder {path} ({folder.id}) lies in Google Drive's trash.",
                hint="Bring it back in the browser.",
            )
        if above and folder.parents and above not in folder.parents:
            raise HybridError(
                f"The store's folder {path} ({folder.id}) was moved elsewhere on Google Drive.",
                hint="Move it back in the browser.",
            )

    async def known(self, id: str) -> DriveFile | None:
        """A file by its id: from the cache while the changes say nothing else, or asked."""
        await self.cache.fresh()
        found = self.cache.get(id)
        if found is None and (found := await self.client.get(id)) is not None and not found.trashed:
            self.cache.put(found)
        return found

    async def child(self, folder: DriveFile, part: str) -> DriveFile | None:
        """The child that ``part`` means; a shortcut as it is."""
        found = self.cache.child(folder.id, part) if names.MARK not in part else None
        if found is None:
            if folder.id in self.own:
                return None
            found = (await self.listing(folder)).named(part)
        return found

    async def through(self, file: DriveFile) -> DriveFile | None:
        """What a shortcut leads to, None when that is gone; other files as they are."""
        if file.mime != SHORTCUT:
            return file
        target = await self.known(file.target) if file.target else None
        return None if target is None or target.trashed or target.mime == SHORTCUT else target

    async def listing(self, folder: DriveFile, *, sure: bool = False) -> Listing:
        """A folder's children; one for reading may be a second old, ``sure`` asks now."""
        async with self._listing[folder.id]:
            at, known = self._listed.get(folder.id, (-1e9, None))
            if known is not None and not sure and monotonic() - at < google_cache.FRESH:
                return known
            began = monotonic()
            found = await self._sorted(await self.client.children(folder.id))
            for alike in found.twins.values():
                self.cache.ambiguous(folder.id, alike[0].name)
            for file in found.files.values():
                self.cache.put(file, parent=folder.id)
            self._listed[folder.id] = (began, found)
            return found

    async def _sorted(self, children: Iterable[DriveFile]) -> Listing:
        groups: dict[str, list[DriveFile]] = defaultdict(list)
        for file in children:
            groups[file.name].append(file)
        local = names.local_names(groups)
        files: dict[str, DriveFile] = {}
        double: dict[str, tuple[DriveFile, ...]] = {}
        for name, group in groups.items():
            one = group[0] if len(group) == 1 else await self.one_of(group)
            if one is not None:
                files[local[name]] = one
            else:
                double[local[name]] = tuple(sorted(group, key=_age))
        return Listing(files, double)

    async def one_of(self, group: list[DriveFile]) -> DriveFile | None:
        """Which of several of one name counts, by a rule that every client follows; None when none does.

        Files with the same bytes: the oldest. Folders: the one that holds something, or the oldest when none does,
        if the others were made by hybrid-tui (two writers that did not see each other) and are still empty.
        """
        group = sorted(group, key=_age)
        first = group[0]
        if all(f.sha256 and (f.sha256, f.size) == (first.sha256, first.size) for f in group):
            return first
        if not all(f.folder for f in group):
            return None
        full = [f for f in group if MARK not in f.properties or await self.client.children(f.id)]
        return None if len(full) > 1 else full[0] if full else first

    # making

    async def make(self, path: str, properties: dict[str, str] | None = None) -> DriveFile:
        """The folder at ``path``, made with its parents if it is not there. Two clients end up with the same one."""
        async with self._making:
            return await self._make(parts(path) if path else (), properties or {})

    async def _make(self, way: tuple[str, ...], properties: dict[str, str]) -> DriveFile:
        if not way:
            return await self.root()
        await self.root()
        id = self.cache.layout.places.get("/".join(way))
        if id is not None and (found := await self._reserved(way, id)) is not None:
            return found
        above = await self._make(way[:-1], {})
        marked = {MARK: "folder", **properties}
        if id is not None:
            made = await self.client.create_folder(way[-1], above.id, id=id, properties=marked)
        else:
            made = await self._make_free(above, way[-1], marked)
        self.cache.put(made)
        return made

    async def _make_free(self, above: DriveFile, part: str, properties: dict[str, str]) -> DriveFile:
        """A folder whose id the root does not reserve."""
        there = await self.child(above, part)
        if there is None and above.id not in self.own:
            there = (await self.listing(above, sure=True)).named(part)
        if there is not None:
            found = await self.through(there)
            if found is None or not found.folder:
                raise HybridError(f"{part!r} on Google Drive is a file ({there.id}) where a folder is needed.")
            return found
        name = names.drive_name(part)
        id = await self.new_id(above, name)
        try:
            return await self.client.create_folder(name, above.id, id=id, properties=properties)
        except DriveRefused as refusal:
            if refusal.status != 409:
                raise
        id = await self.new_id(above, name, dead=id)  # it was deleted for good, and its id is not given again
        return await self.client.create_folder(name, above.id, id=id, properties=properties)

    async def new_id(self, above: DriveFile, name: str, *, dead: str = "") -> str:
        """The id under which ``name`` is to be made: where others write too, the one that everybody will use."""
        if above.id not in self.own:
            return await self.places.id_for(above, name, dead=dead)
        [id] = await self.client.new_ids()
        return id

    async def remove(self, file: DriveFile) -> None:
        """Delete something of our own for good; where that is not allowed (shared drives), to the trash."""
        try:
            await self.client.delete(file.id)
        except DriveRefused as refusal:
            if refusal.status != 404:
                await self.client.trash(file.id)
        self.cache.forget(file.id)


def twins(name: str, found: Iterable[DriveFile]) -> Ambiguous:
    """Several children of one folder have a name."""
    ids = [f.id for f in found]
    return Ambiguous(
        f"{name!r} is there {len(ids)} times in one folder on Google Drive: {', '.join(ids)}.",
        hint="Rename or remove the wrong ones in the browser.",
    )


def no_bytes(path: str, file: DriveFile) -> BadInput:
    """A Google Doc or a folder where a file's bytes are asked for."""
    what = "a folder" if file.folder else "a Google document and has no bytes of its own"
    return BadInput(f"{path} on Google Drive is {what}.", hint="Export it in the browser." if file.google_doc else "")


def _age(file: DriveFile) -> tuple[float, str]:
    return file.created, file.id
