"""The embedded store: a folder on this machine, on a mounted disk, or on a mounted Google Drive. Says which it is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from services import atomic
from services.drive import claims, folder_disk, folder_files, folder_status, mounts
from services.drive.store import (
    TRASH,
    Copied,
    Entry,
    OnBytes,
    Source,
    Store,
    Stored,
    StoreStatus,
    Wanted,
    parts,
)
from services.drive.unsettled import Note, Unsettled
from services.errors import HybridError, StoreUnreachable

T = TypeVar("T")


class FolderStore(Store):
    """A store in the folder ``root``. Nothing is created before the first write.

    ``anchor`` is the folder that must exist already (the workspace, or a mount point): when it is missing the store is
    unreachable rather than empty, so that an unmounted disk is never mistaken for a fresh start. On a mounted drive,
    what was written and has not been seen to get there is noted in ``state`` (a folder; else only in this object).
    """

    kind = "folder"

    def __init__(self, root: Path, anchor: Path, state: Path | None = None) -> None:
        self.root = root
        self.anchor = anchor
        self.mount = mounts.find(root)
        self.notes = Unsettled(root, state / "unsettled.jsonl" if state else None)
        self.label = f"{self.mount.what} (sent up later)" if self.mount else "plain folder, not Google Drive"

    async def status(self) -> StoreStatus:
        """See ``Store.status``. ``writable`` is asked of the nearest folder that exists."""
        return await self._run("", lambda: folder_status.status(self.root, self.label, self.mount, self.notes))

    async def new_id(self) -> str:
        """128 random bits in hex."""
        return uuid.uuid4().hex

    async def first_id(self, folder: str) -> str:
        """A folder's chain starts at a fixed name."""
        parts(folder)
        return "genesis"

    async def put_new(self, folder: str, id: str, data: bytes) -> bool:
        """Write beside, flush, then hard-link to the slot's name: a kill at any moment leaves no torn slot."""
        path = self._at(f"{folder}/{id}.json")

        def create() -> bool:
            made = folder_disk.create(path, data)
            if made:
                self._wrote([_small(f"{folder}/{id}.json", data)])
            return made

        return await self._run(str(path), create, write=True)

    async def read_slot(self, folder: str, id: str) -> bytes | None:
        """See ``Store.read_slot``."""
        return await self.read(f"{folder}/{id}.json")

    async def walk(self, folder: str, first: str, follow: Callable[[str, bytes], str | None]) -> None:
        """See ``Store.walk``: the whole way in one thread."""
        place = self._at(folder)

        def walk() -> None:
            id: str | None = first
            while id is not None and (data := folder_disk.read(place.joinpath(*parts(f"{id}.json")))) is not None:
                id = follow(id, data)

        await self._run(str(place), walk)

    async def read(self, path: str) -> bytes | None:
        """See ``Store.read``."""
        return (await self.read_many([path]))[0]

    async def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """See ``Store.read_many``: all in one thread."""
        files = [self._at(path) for path in paths]
        return await self._run(str(self.root), lambda: [folder_disk.read(file) for file in files])

    async def write(self, path: str, data: bytes) -> None:
        """See ``Store.write``."""
        file = self._at(path)

        def write() -> None:
            atomic.write_bytes(file, data)
            self._wrote([_small(path, data)])

        await self._run(str(file), write, write=True)

    async def list(self, path: str) -> tuple[Entry, ...]:
        """See ``Store.list``."""
        folder = self._at(path) if path else self.root

        def scan() -> tuple[Entry, ...]:
            try:
                with os.scandir(folder) as found:
                    return tuple(sorted((folder_disk.entry(e) for e in found), key=lambda e: e.name))
            except (FileNotFoundError, NotADirectoryError):
                return ()

        return await self._run(str(folder), scan)

    async def stat(self, path: str) -> Entry | None:
        """See ``Store.stat``."""
        file = self._at(path)

        def look() -> Entry | None:
            if not file.exists():
                return None
            return Entry(file.name, file.is_dir(), 0 if file.is_dir() else file.stat().st_size)

        return await self._run(str(file), look)

    async def make_folders(self, paths: Sequence[str]) -> None:
        """See ``Store.make_folders``."""
        folders = [self._at(p) for p in paths]

        def make() -> None:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)

        await self._run(str(self.root), make, write=True)

    async def put_files(
        self, sources: Sequence[Source], folder: str, on_bytes: OnBytes, *, replace: bool = False
    ) -> tuple[Copied, ...]:
        """See ``Store.put_files``. One thread copies; it looks for cancellation at every block of 1 MiB."""
        target = self._at(folder)

        def copy(told: OnBytes, stop: threading.Event) -> tuple[Copied, ...]:
            done = folder_files.put_all(sources, target, told, stop, replace=replace, guard=self.root, mount=self.mount)
            self._wrote([Copied(f"{folder}/{c.path}", c.size, c.sha256) for c in done])
            return done

        return await self._stoppable(str(target), copy, on_bytes, write=True)

    async def files(self, folder: str) -> tuple[Stored, ...]:
        """See ``Store.files``. Links are told as skipped. ``settled`` is about what was written through this store."""
        top = self._at(folder)

        def look() -> tuple[Stored, ...]:
            found = sorted(folder_files.below(top), key=lambda f: f.path)
            pending = self.notes.pending() if self.mount else {}
            return tuple(msgspec.structs.replace(f, settled=f"{folder}/{f.path}" not in pending) for f in found)

        return await self._run(str(top), look)

    async def get_files(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """See ``Store.get_files``. One thread copies; it looks for cancellation at every block of 1 MiB."""
        source = self._at(folder)

        def copy(told: OnBytes, stop: threading.Event) -> tuple[Copied, ...]:
            return folder_files.get_all(wanted, source, told, stop, self.root, self.mount)

        return await self._stoppable(str(source), copy, on_bytes)

    async def trash(self, folder: str, paths: Sequence[str]) -> None:
        """See ``Store.trash``: below ``.trash`` in the store's root, under the moment and the old path."""
        source = self._at(folder) if folder else self.root
        place = self.root / TRASH / time.strftime("%Y%m%d-%H%M%S") / uuid.uuid4().hex[:4] / folder

        def move() -> None:
            for path in paths:
                old, new = source.joinpath(*parts(path)), place.joinpath(*parts(path))
                folder_files.inside(old.parent, self.root, self.mount)
                new.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
                    old.rename(new)
                    atomic.sync_directory(new.parent)
                    if self.mount:
                        self.notes.moved(f"{folder}/{path}", new.relative_to(self.root).as_posix())

        await self._run(str(source), move, write=True)

    async def unsettled(self) -> dict[str, Note]:
        """What was written to a mounted drive and is not known to have got there, by path in the store."""
        return await asyncio.to_thread(self.notes.pending) if self.mount else {}

    async def flushed(self) -> tuple[str, ...]:
        """The mount was flushed, unmounted and mounted again: what shows there now, and had been written before, is
        safe. Returns the paths that are missing or of another size; they stay unsettled."""

        def look() -> tuple[str, ...]:
            pending = self.notes.pending()
            there = {p for p, n in pending.items() if folder_disk.size(self._at(p)) == n.size}
            self.notes.settled([pending[p] for p in sorted(there)])
            return tuple(sorted(pending.keys() - there))

        return await self._run("", look)

    async def seen(self, folder: str, files: Sequence[Stored]) -> int:
        """Drive's API shows ``files`` in ``folder``: those with the sha256 that was written are safe. Returns how many
        of them had not been known to be."""
        pending = await self.unsettled()
        sure = [
            note
            for file in files
            if file.sha256 and (note := pending.get(f"{folder}/{file.path}")) and note.sha256 == file.sha256
        ]
        await asyncio.to_thread(self.notes.settled, sure)
        return len(sure)

    async def _stoppable(
        self, where: str, work: Callable[[OnBytes, threading.Event], T], on_bytes: OnBytes, *, write: bool = False
    ) -> T:
        """Run ``work`` in a thread; when cancelled, set its event and wait until the thread has seen it. What it tells
        of bytes is passed on in this loop, all of it before this returns."""
        stop, loop = threading.Event(), asyncio.get_running_loop()

        def told(n: int, path: str) -> None:
            loop.call_soon_threadsafe(on_bytes, n, path)

        task = asyncio.ensure_future(self._run(where, lambda: work(told, stop), write=write))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(HybridError):
                await task
            raise

    async def rename(self, path: str, to: str) -> bool:
        """See ``Store.rename``. A folder that exists at ``to``, even an empty one, is left alone."""
        source, target = self._at(path), self._at(to)

        def move() -> bool:
            if target.exists() or target.is_symlink():
                return False
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
                if self.mount:
                    self.notes.moved(path, to)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                    return False
                raise
            atomic.sync_directory(target.parent)
            return True

        return await self._run(str(source), move, write=True)

    async def claim(self, folder: str) -> Callable[[], None]:
        """See ``Store.claim``: a lock file beside the folder, held until released or until the process dies."""
        path = self._at(folder)
        return await self._run(str(path), lambda: claims.claim(path), write=True)

    async def abandoned(self, parent: str) -> Sequence[str]:
        """See ``Store.abandoned``."""
        path = self._at(parent)
        return await self._run(str(path), lambda: claims.abandoned(path))

    async def discard(self, folder: str) -> None:
        """See ``Store.discard``."""
        path = self._at(folder)

        def remove() -> None:
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                claims.forget(path)
                if self.mount:
                    self.notes.gone(folder)

        await self._run(str(path), remove, write=True)

    async def fetch(self, folder: str) -> Path:
        """The folder itself: it is local already."""
        return self._at(folder)

    def local(self, path: str) -> str:
        """The absolute path on this machine."""
        return str(self._at(path))

    def _wrote(self, files: Sequence[Copied]) -> None:
        if self.mount:
            self.notes.wrote(files)

    def _at(self, path: str) -> Path:
        return self.root.joinpath(*parts(path))

    async def _run(self, where: str, work: Callable[[], T], *, write: bool = False) -> T:
        """Do blocking ``work`` in a thread, with the operating system's errors turned into sentences."""

        def guarded() -> T:
            with folder_disk.sentences(where or str(self.root)):
                self._check()
                if write:
                    self.root.mkdir(parents=True, exist_ok=True)
                return work()

        return await asyncio.to_thread(guarded)

    def _check(self) -> None:
        hint = "Mount the disk, or set [store] path in hybrid.toml."
        if not self.anchor.is_dir():
            what = "is not a folder" if self.anchor.exists() else "does not exist"
            raise StoreUnreachable(f"The store can't be reached: {self.anchor} {what}.", hint=hint)
        if self.root.exists() and not self.root.is_dir():
            raise StoreUnreachable(f"The store can't be reached: {self.root} is not a folder.", hint=hint)


def _small(path: str, data: bytes) -> Copied:
    return Copied(path, len(data), hashlib.sha256(data).hexdigest())
