"""Many files up and down at once: a folder of the store ↔ a folder on this box."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from services.drive import names
from services.drive.api.placing import flushed
from services.drive.api.types import SHORTCUT, DriveFile
from services.drive.errors import Corrupted
from services.drive.google_tree import Listing, Tree, no_bytes
from services.drive.store import Copied, OnBytes, Source, Stored, Wanted, parts
from services.errors import HybridError

T = TypeVar("T")
R = TypeVar("R")


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]], at_once: int) -> list[R]:
    """The results of ``work`` on each item, in their order, so many at a time. The first error cancels the rest."""
    lines = asyncio.Semaphore(at_once)

    async def one(item: T) -> R:
        async with lines:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class Files:
    """Transfers between ``tree`` and this box."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.client = tree.client
        self.at_once = tree.drive.transfers

    # what is there

    async def below(self, folder: str) -> tuple[Stored, ...]:
        """See ``Store.files``."""
        top = await self.tree.find(folder)
        if top is None or not top.folder:
            return ()
        return tuple(sorted(await self._below(top, "", (top.id,)), key=lambda f: f.path))

    async def _below(self, folder: DriveFile, prefix: str, above: tuple[str, ...]) -> list[Stored]:
        listing = await self.tree.listing(folder, sure=True)
        found = [self._twins(prefix + part, alike) for part, alike in listing.twins.items()]
        inner: list[tuple[DriveFile, str]] = []
        for part, child in listing.files.items():
            file = await self.tree.through(child)
            if file is None:
                found.append(Stored(prefix + part, 0, skipped="A shortcut that leads nowhere."))
            elif not file.folder:
                found.append(stored(prefix + part, file))
            elif file.id in above:
                found.append(Stored(prefix + part, 0, skipped="A shortcut to a folder that it lies in."))
            else:
                inner.append((file, prefix + part))
        for more in await each(inner, lambda at: self._below(at[0], f"{at[1]}/", (*above, at[0].id)), self.at_once):
            found += more
        return found

    def _twins(self, path: str, alike: Sequence[DriveFile]) -> Stored:
        ids = ", ".join(f.id for f in alike)
        return Stored(path, 0, skipped=f"{len(alike)} different things have this name: {ids}.")

    # up

    async def put(
        self, sources: Sequence[Source], folder: str, on_bytes: OnBytes, *, replace: bool
    ) -> tuple[Copied, ...]:
        """See ``Store.put_files``."""
        places: dict[str, list[Source]] = defaultdict(list)
        for source in sources:
            below = parts(source.path)[:-1]
            places["/".join([*parts(folder), *below])].append(source)
        folders = {path: await self.tree.make(path) for path in sorted(places)}
        listings = dict(zip(folders, await each(folders.values(), self._standing, self.at_once), strict=True))

        async def put(item: tuple[str, Source]) -> Copied:
            path, source = item
            return await self._put(source, folders[path], listings[path], on_bytes, replace)

        done = await each([(path, s) for path, group in places.items() for s in group], put, self.at_once)
        by_path = {copied.path: copied for copied in done}
        return tuple(by_path[source.path] for source in sources)

    async def _standing(self, folder: DriveFile) -> Listing:
        """What lies in a folder that is about to be written to."""
        if folder.id in self.tree.own:
            return Listing({}, {})
        return await self.tree.listing(folder, sure=True)

    async def _put(
        self, source: Source, folder: DriveFile, standing: Listing, on_bytes: OnBytes, replace: bool
    ) -> Copied:
        part = parts(source.path)[-1]
        child = standing.named(part)
        old = await self.tree.through(child) if child is not None else None
        if child is not None and (old is None or old.size is None):
            raise no_bytes(source.path, child)
        local = Path(source.local)
        if old is not None and old.size == source.size and (there := await self._there(old, local)) is not None:
            on_bytes(source.size, source.path)
            return Copied(source.path, source.size, there)
        if old is not None and not replace:
            raise HybridError(f"{source.path} lies on Google Drive already, with other content ({old.id}).")
        file = await self.client.upload(
            local, names.drive_name(part), folder.id, lambda n: on_bytes(n, source.path), replace=old.id if old else ""
        )
        if file.size != source.size:
            raise HybridError(f"{local} changed while it was being sent.", hint="Try again when nothing writes to it.")
        if file.trashed:
            raise HybridError(f"{source.path} was thrown away on Google Drive while it was being replaced ({file.id}).")
        self.tree.cache.put(file)
        return Copied(source.path, source.size, file.sha256 or await asyncio.to_thread(_sha256, local))

    async def _there(self, listed: DriveFile, local: Path) -> str | None:
        """The local file's sha256 if Drive holds these bytes; asked by id too, for a listing may be late."""
        sha256 = await asyncio.to_thread(_sha256, local)
        if not await asyncio.to_thread(_same, listed, sha256, local):
            return None
        now = await self.client.get(listed.id)
        if now is None or now.trashed or not await asyncio.to_thread(_same, now, sha256, local):
            return None
        self.tree.cache.put(now)
        return sha256

    # down

    async def get(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """See ``Store.get_files``."""

        async def one(file: Wanted) -> Copied:
            path = f"{folder}/{file.path}" if folder else file.path
            found = await self.tree.find(path)
            if found is None:
                raise HybridError(f"There is no file {path} on Google Drive.")
            return await self._get(found, file, on_bytes)

        await asyncio.to_thread(_make_folders, {Path(file.local).parent for file in wanted})
        done = await each(wanted, one, self.at_once)
        await asyncio.to_thread(flushed, [Path(file.local) for file in wanted])
        return tuple(done)

    async def _get(self, found: DriveFile, wanted: Wanted, on_bytes: OnBytes) -> Copied:
        if found.size is None:
            raise no_bytes(wanted.path, found)
        if wanted.sha256 and found.sha256 and found.sha256 != wanted.sha256:
            raise Corrupted(
                f"{wanted.path} on Google Drive ({found.id}) is not the file that was wanted: its checksum differs.",
                hint="Push it again from where it is whole.",
            )
        local = Path(wanted.local)
        sha256 = await self.client.download(found, local, lambda n: on_bytes(n, wanted.path), flush_name=False)
        if wanted.sha256 and sha256 != wanted.sha256:
            await asyncio.to_thread(local.unlink)
            raise Corrupted(
                f"{wanted.path} on Google Drive is not what its checksum says.",
                hint="Push it again from where it is whole.",
            )
        return Copied(wanted.path, found.size, sha256)


def stored(path: str, file: DriveFile) -> Stored:
    skipped = ""
    if file.google_doc:
        skipped = "A Google document: it has no bytes of its own; export it in the browser."
    elif file.size is None or file.mime == SHORTCUT:
        skipped = "It has no bytes that could be fetched."
    return Stored(path, file.size or 0, sha256=file.sha256, md5=file.md5, modified=file.modified, skipped=skipped)


def _same(file: DriveFile, sha256: str, local: Path) -> bool:
    """Whether the file on Drive has these bytes; where Drive knows no sha256, its md5 decides."""
    if file.sha256 or not file.md5:
        return file.sha256 == sha256
    with local.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest() == file.md5


def _make_folders(folders: set[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _sha256(local: Path) -> str:
    try:
        with local.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HybridError(f"{local} can't be read: {(error.strerror or str(error)).lower()}.") from error
