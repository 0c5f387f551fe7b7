"""Paths of the store ↔ ids on Drive, where names may be double, listings late, and folders moved by hand.

What has an id is asked by id. A cached id is believed as long as Drive's changes feed, polled at most once a second,
says nothing else; that a name is absent is never believed from the cache, and for making something not from a
listing alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from services import settings
from services.drive import google_root, names
from services.drive.api.client import DriveClient
from services.drive.api.types import SHORTCUT, DriveFile
from services.drive.errors import DriveRefused
from services.drive.google_mirror import Mirror
from services.drive.google_root import MARK, Ambiguous, Layout
from services.drive.store import parts
from services.errors import BadInput, HybridError

FRESH = 1.0  # seconds for which the last poll of the changes, and a listing for reading, are good enough
SAVE_SECONDS = 60.0


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
        self.layout = Layout({}, {})
        self.own: set[str] = set()  # folders in which nobody else writes: nothing is there but what we put there
        self._root = ""
        self._token = ""
        self._polled = self._saved = -1e9
        self._by_id: dict[str, DriveFile] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        self._listed: dict[str, tuple[float, Listing]] = {}
        self._polling = asyncio.Lock()
        self._making = asyncio.Lock()
        self._listing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # looking

    async def root(self) -> DriveFile:
        """The root folder. Raises StoreUnreachable when there is none yet, or none any more."""
        await self.fresh()
        known = self._by_id.get(self._root) if self._root else None
        if known is None:
            known = await google_root.find_root(self.client, self.drive, self.root_name)
            if known is None:
                raise google_root.missing(self.root_name)
            self.adopt(known)
        return known

    def adopt(self, root: DriveFile) -> None:
        """From now on ``root`` is the root."""
        self._root = root.id
        self.put(root)

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
            id = self.layout.places.get("/".join(way[:n]))
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
        above = self.layout.places.get("/".join(way[:-1])) if len(way) > 1 else self._root
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
        await self.fresh()
        found = self._by_id.get(id)
        if found is None and (found := await self.client.get(id)) is not None and not found.trashed:
            self.put(found)
        return found

    async def child(self, folder: DriveFile, part: str) -> DriveFile | None:
        """The child that ``part`` means; a shortcut as it is."""
        id = None
        if names.MARK not in part:
            id = self._by_name.get((folder.id, part))
        found = self._by_id.get(id) if id else None
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
            if known is not None and not sure and monotonic() - at < FRESH:
                return known
            began = monotonic()
            found = await self._sorted(await self.client.children(folder.id))
            for alike in found.twins.values():
                self._by_name.pop((folder.id, alike[0].name), None)
            for file in found.files.values():
                self.put(file, parent=folder.id)
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
        id = self.layout.places.get("/".join(way))
        if id is not None and (found := await self._reserved(way, id)) is not None:
            return found
        above = await self._make(way[:-1], {})
        marked = {MARK: "folder", **properties}
        if id is not None:
            made = await self.client.create_folder(way[-1], above.id, id=id, properties=marked)
        else:
            made = await self._make_free(above, way[-1], marked)
        self.put(made)
        return made

    async def _make_free(self, above: DriveFile, part: str, properties: dict[str, str]) -> DriveFile:
        """A folder whose id nothing reserves: made, then looked at again; of two at once the older one stays."""
        there = await self.child(above, part)
        if there is None and above.id not in self.own:
            there = (await self.listing(above, sure=True)).named(part)
        if there is not None:
            found = await self.through(there)
            if found is None or not found.folder:
                raise HybridError(f"{part!r} on Google Drive is a file ({there.id}) where a folder is needed.")
            return found
        name = names.drive_name(part)
        id = await self.reserve(above.id, name)
        made = await self.client.create_folder(name, above.id, id=id, properties=properties)
        if above.id not in self.own:
            made = await self._agreed(above, made)
        self.mirror.made(above.id, name)
        return made

    async def _agreed(self, above: DriveFile, made: DriveFile) -> DriveFile:
        others = [f for f in await self.client.children(above.id) if f.name == made.name and f.id != made.id]
        self._listed.pop(above.id, None)
        one = await self.one_of([made, *others]) if others else made
        if one is None:
            raise twins(made.name, (made, *others))
        if one.id != made.id and not await self.client.children(made.id):
            await self.remove(made)
        return one

    async def reserve(self, parent: str, name: str) -> str:
        """An id for ``name`` in ``parent``: the one that an earlier, interrupted attempt took, or a new one."""
        id = self.mirror.pending(parent, name)
        if id:
            before = await self.client.get(id)
            if before is None or (not before.trashed and parent in before.parents and before.name == name):
                return id
        [id] = await self.client.new_ids()
        self.mirror.reserve(parent, name, id)
        return id

    async def remove(self, file: DriveFile) -> None:
        """Delete something of our own for good; where that is not allowed (shared drives), to the trash."""
        try:
            await self.client.delete(file.id)
        except DriveRefused as refusal:
            if refusal.status != 404:
                await self.client.trash(file.id)
        self.forget(file.id)

    # remembering

    def put(self, file: DriveFile, *, parent: str = "") -> None:
        """Remember a file as it is now."""
        self.forget(file.id)
        self._by_id[file.id] = file
        for above in {*file.parents, *((parent,) if parent else ())}:
            self._by_name[above, file.name] = file.id
            self._listed.pop(above, None)
        if file.id == self._root:
            self.layout = google_root.layout(file.properties)

    def forget(self, id: str) -> None:
        """The file is not what it was."""
        before = self._by_id.pop(id, None)
        if before is not None:
            for above in before.parents:
                if self._by_name.get((above, before.name)) == id:
                    del self._by_name[above, before.name]
                self._listed.pop(above, None)

    async def fresh(self) -> None:
        """Bring the cache up to Drive's changes feed unless that was done within the last second."""
        if monotonic() - self._polled < FRESH:
            return
        async with self._polling:
            began = monotonic()
            if began - self._polled < FRESH:
                return
            if not self._token:
                self._load()
            if self._token:
                await self._replay()
            else:
                self._token = await self.client.changes_start()
            self._polled = began
            if began - self._saved > SAVE_SECONDS:
                self.save()

    async def _replay(self) -> None:
        try:
            changes, self._token = await self.client.changes(self._token)
        except DriveRefused:  # the token is too old, or another account's
            self._by_id.clear()
            self._by_name.clear()
            self._token, self._root = await self.client.changes_start(), ""
            return
        for change in changes:
            known = self._by_id.get(change.id)
            if change.file is None or change.file.trashed:
                self.forget(change.id)
            elif known is not None:
                self.put(change.file)
            for above in change.file.parents if change.file is not None else ():
                self._listed.pop(above, None)
                if known is None and change.file is not None:  # perhaps a twin: the next look must be a listing
                    self._by_name.pop((above, change.file.name), None)
        self.mirror.noticed({c.id: c.file.sha256 if c.file is not None else "" for c in changes})

    def _load(self) -> None:
        snapshot = self.mirror.load()
        if snapshot is not None and snapshot.root == (self.drive.root_id or snapshot.root):
            self._token, self._root = snapshot.token, snapshot.root
            for file in snapshot.files:
                self.put(file)

    def save(self) -> None:
        """Keep what is known for the next process."""
        if self._token and self._root:
            self._saved = monotonic()
            self.mirror.save(self._token, self._root, self._by_id.values())


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
