"""The store on Google Drive, through its API: see docs/drive-store.md for what it promises and how."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.drive import google_fetch, google_root, google_status, names
from services.drive.api.types import DriveFile, Stats
from services.drive.google_claims import Claims
from services.drive.google_files import Files, each, stored
from services.drive.google_root import Ambiguous
from services.drive.google_tree import Tree, no_bytes
from services.drive.store import Copied, Entry, OnBytes, Source, Store, Stored, StoreStatus, Wanted, parts
from services.errors import HybridError, StoreUnreachable
from services.workspace import Workspace

if TYPE_CHECKING:
    from services.drive.google_session import Session

_REMEMBERED = 256 << 10  # bytes; larger files read by path are not kept on this box
_AT_ONCE = 16
_SESSIONS = "services.drive.google_session"


class DriveStore(Store):
    """The workspace's folder on Google Drive. Making this object sends nothing and imports no account.

    Several of them in one event loop share one client and what it knows; it is closed when the loop ends.
    """

    kind = "drive"
    label = "Google Drive"

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.root_name = workspace.settings.store.root

    async def status(self) -> StoreStatus:
        """See ``Store.status``. Does not raise when Drive can't be reached: ``problem`` says why then."""
        try:
            return await google_status.status(await self._tree(), self.local(""))
        except StoreUnreachable as error:
            return google_status.unreachable(error, self.local(""))

    # slots

    async def new_id(self) -> str:
        """An id from Drive (``files.generateIds``), fetched ahead."""
        [id] = await (await self._tree()).client.new_ids()
        return id

    async def first_id(self, folder: str) -> str:
        """The id that the root's properties reserve for the first record of the log in ``folder``."""
        root = await (await self._tree()).root()
        id = google_root.layout(root.properties).first.get(folder)
        if id is None:
            raise HybridError(
                f"The folder {root.name!r} ({root.id}) on Google Drive does not say where the log {folder} begins.",
                hint="Run hybrid-tui --run drive.init: it adds what is missing and changes nothing else.",
            )
        return id

    async def put_new(self, folder: str, id: str, data: bytes) -> bool:
        """Create the file with this id: Drive refuses a taken one. True as well when it was taken by these bytes."""
        return await (await self._session()).slots.put(folder, id, data)

    async def read_slot(self, folder: str, id: str) -> bytes | None:
        """See ``Store.read_slot``."""
        return await (await self._session()).slots.read(id)

    async def walk(self, folder: str, first: str, follow: Callable[[str, bytes], str | None]) -> None:
        """See ``Store.walk``: what this box has read before costs no request."""
        await (await self._session()).slots.walk(folder, first, follow)

    # small files

    async def read(self, path: str) -> bytes | None:
        """See ``Store.read``. Raises Ambiguous when several files have the name, BadInput for a Google document."""
        tree = await self._tree()
        parts(path)
        file = await tree.find(path)
        if file is None or file.folder:
            return None
        if file.size is None:
            raise no_bytes(path, file)
        data = tree.mirror.content(file.id, file.sha256) if file.sha256 else None
        if data is None and (data := await tree.client.read(file.id)) is not None:
            if len(data) <= _REMEMBERED:
                tree.mirror.keep_content(file.id, data)
            if hashlib.sha256(data).hexdigest() != file.sha256:
                tree.cache.forget(file.id)  # it was replaced since it was looked at
        return data

    async def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """See ``Store.read_many``: in parallel. A path that several files share gives None here."""

        async def one(path: str) -> bytes | None:
            try:
                return await self.read(path)
            except Ambiguous:
                return None

        return await each(paths, one, _AT_ONCE)

    async def write(self, path: str, data: bytes) -> None:
        """See ``Store.write``: new content of the same file; the same content is not sent again."""
        tree = await self._tree()
        way = parts(path)
        old = await tree.find(path)
        above = await tree.make("/".join(way[:-1]))
        if old is None and path not in tree.cache.layout.places and above.id not in tree.own:
            listed = (await tree.listing(above, sure=True)).named(way[-1])
            old = await tree.through(listed) if listed is not None else None
        if old is not None and old.size is None:
            raise no_bytes(path, old)
        if old is not None:
            if not await self._holds(tree, old, data):
                now = await tree.client.replace(old.id, data)
                tree.cache.put(now)
                tree.mirror.keep_content(old.id, data)
                if now.trashed:  # thrown away since it was looked at: the new content must not lie there
                    tree.cache.forget(old.id)
                    return await self.write(path, data)
            return None
        return await self._create(tree, above, path, data)

    async def _holds(self, tree: Tree, file: DriveFile, data: bytes) -> bool:
        """Whether the file has these bytes: known to be so, and asked once more before nothing is sent."""
        sha256 = hashlib.sha256(data).hexdigest()
        if file.sha256 != sha256:
            return False
        now = await tree.client.get(file.id)
        return now is not None and not now.trashed and now.sha256 == sha256

    async def _create(self, tree: Tree, above: DriveFile, path: str, data: bytes) -> None:
        name = names.drive_name(parts(path)[-1])
        id = tree.cache.layout.places.get(path, "")
        if id and await tree.client.get(id) is not None:
            id = ""  # the file of this place was renamed or thrown away by hand: it gets a fresh one
        id = id or await tree.new_id(above, name)
        if not await tree.client.create(name, above.id, data, id=id):
            if await tree.client.get(id) is not None:  # another writer made it at the same moment
                await tree.client.replace(id, data)
            else:  # it was deleted for good, and its id is not given again
                id = await tree.new_id(above, name, dead=id)
                await tree.client.create(name, above.id, data, id=id)
        made = await tree.client.get(id)
        if made is not None:
            tree.cache.put(made)

    # folders

    async def list(self, path: str) -> tuple[Entry, ...]:
        """See ``Store.list``: asked now. Names that several things share are listed once, as not to be fetched."""
        tree = await self._tree()
        folder = await tree.find(path)
        if folder is None or not folder.folder:
            return ()
        listing = await tree.listing(folder, sure=True)
        found = [
            Entry(part, alike[0].folder, 0, skipped=f"{len(alike)} different things have this name")
            for part, alike in listing.twins.items()
        ]
        for part, child in listing.files.items():
            file = await tree.through(child)
            if file is not None and file.folder:
                found.append(Entry(part, True, 0, file.modified))
            else:
                told = stored(part, file) if file else Stored(part, 0, skipped="A shortcut that leads nowhere.")
                found.append(Entry(part, False, told.size, told.modified, told.skipped))
        return tuple(sorted(found, key=lambda e: e.name))

    async def stat(self, path: str) -> Entry | None:
        """See ``Store.stat``."""
        found = await (await self._tree()).find(path)
        return None if found is None else Entry(parts(path)[-1], found.folder, found.size or 0)

    async def make_folders(self, paths: Sequence[str]) -> None:
        """See ``Store.make_folders``."""
        tree = await self._tree()
        for path in paths:
            await tree.make(path)

    async def rename(self, path: str, to: str) -> bool:
        """See ``Store.rename``. One request moves it; before, the target's folder is listed afresh."""
        tree = await self._tree()
        found = await tree.find(path, itself=True)
        if found is None:
            return False
        way = parts(to)
        above = await tree.make("/".join(way[:-1]))
        listing = await tree.listing(above, sure=True)
        if way[-1] in listing.twins or listing.named(way[-1]) is not None:
            return False
        current = await tree.client.get(found.id)
        if current is None or current.trashed or current.name != found.name or current.parents != found.parents:
            tree.cache.forget(found.id)  # somebody else moved it first
            return False
        leaving = next((p for p in current.parents if p != above.id), "")
        moved = await tree.client.change(
            found.id, name=names.drive_name(way[-1]), add_parent=above.id if leaving else "", remove_parent=leaving
        )
        tree.own.discard(moved.id)
        tree.cache.put(moved)
        return True

    async def claim(self, folder: str) -> Callable[[], None]:
        """See ``Store.claim``."""
        return await (await self._claims()).claim(folder)

    async def abandoned(self, parent: str) -> Sequence[str]:
        """See ``Store.abandoned``: certain on this box, after eight days for another one's."""
        return await (await self._claims()).abandoned(parent)

    async def discard(self, folder: str) -> None:
        """See ``Store.discard``."""
        await (await self._claims()).discard(folder)

    # transfers

    async def put_files(
        self, sources: Sequence[Source], folder: str, on_bytes: OnBytes, *, replace: bool = False
    ) -> tuple[Copied, ...]:
        """See ``Store.put_files``: in parallel. A file that lies there with the same bytes is not sent again."""
        return await Files(await self._tree()).put(sources, folder, on_bytes, replace=replace)

    async def files(self, folder: str) -> tuple[Stored, ...]:
        """See ``Store.files``. Names are made safe for this box (``names``); shortcuts are followed."""
        return await Files(await self._tree()).below(folder)

    async def get_files(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """See ``Store.get_files``: in parallel."""
        return await Files(await self._tree()).get(wanted, folder, on_bytes)

    async def trash(self, folder: str, paths: Sequence[str]) -> None:
        """See ``Store.trash``: Drive's own, from where a person brings it back in the browser."""
        tree = await self._tree()

        async def one(path: str) -> None:
            place = f"{folder}/{path}" if folder else path
            found = await tree.find(place, itself=True)
            if found is None:
                raise HybridError(f"There is no {place} on Google Drive.")
            await tree.client.trash(found.id)
            tree.cache.forget(found.id)

        await each(paths, one, tree.drive.transfers)

    async def fetch(self, folder: str) -> Path:
        """The folder's copy in ``.hybrid/drive-cache``: only what is missing or other is fetched, and verified."""
        return await google_fetch.fetch(Files(await self._tree()), folder, self.workspace.state / "drive-cache")

    async def id_of(self, path: str) -> str:
        """Drive's id of what lies at ``path``, "" when nothing does: for links that open it in a browser."""
        found = await (await self._tree()).find(path)
        return found.id if found is not None else ""

    def local(self, path: str) -> str:
        """``My Drive/Banking LLM/models/…``: where a person finds it in the browser."""
        top = "Shared drive" if self.workspace.settings.drive.shared_drive else "My Drive"
        return "/".join((top, self.root_name, *([path] if path else [])))

    @property
    def stats(self) -> Stats:
        """What the running loop's client has done so far; all zero before it was asked anything."""
        if _SESSIONS not in sys.modules:
            return Stats()
        from services.drive import google_session

        session = google_session.opened(self.workspace)
        return session.client.stats if session else Stats()

    async def _session(self) -> Session:
        # The first import of the client takes a while: not on the loop's time.
        if _SESSIONS not in sys.modules:
            await asyncio.to_thread(importlib.import_module, _SESSIONS)
        from services.drive import google_session

        session = await google_session.session(self.workspace)
        await session.tree.cache.reached()
        return session

    async def _tree(self) -> Tree:
        return (await self._session()).tree

    async def _claims(self) -> Claims:
        return Claims(await self._tree(), self.workspace.drive_state / "claims")
