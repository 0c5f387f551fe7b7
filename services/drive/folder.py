"""The embedded store: a plain folder on this machine or on a mounted disk. Says that it is not Google Drive."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from services import atomic
from services.drive import claims
from services.drive.errors import Corrupted
from services.drive.store import (
    INCOMING,
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
from services.errors import BadInput, HybridError, StoreUnreachable

_BLOCK = 1 << 20
_GONE = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_PROMISES = (
    "a record appears whole or not at all, and of two writers exactly one wins (exclusive create)",
    "copied files are read back and compared by sha256",
    "records and copied files are flushed to the disk before they count",
    "no copy elsewhere: this folder is as safe as the disk it lies on",
)

T = TypeVar("T")


class FolderStore(Store):
    """A store in the folder ``root``. Nothing is created before the first write.

    ``anchor`` is the folder that must exist already (the workspace, or a mount point): when it is missing the store is
    unreachable rather than empty, so that an unmounted disk is never mistaken for a fresh start.
    """

    kind = "folder"
    label = "plain folder, not Google Drive"

    def __init__(self, root: Path, anchor: Path) -> None:
        self.root = root
        self.anchor = anchor

    async def status(self) -> StoreStatus:
        """See ``Store.status``. ``writable`` is asked of the nearest folder that exists."""
        return await self._run("", self._status)

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
        return await self._run(str(path), lambda: _create(path, data), write=True)

    async def read_slot(self, folder: str, id: str) -> bytes | None:
        """See ``Store.read_slot``."""
        return await self.read(f"{folder}/{id}.json")

    async def walk(self, folder: str, first: str, follow: Callable[[str, bytes], str | None]) -> None:
        """See ``Store.walk``: the whole way in one thread."""
        place = self._at(folder)

        def walk() -> None:
            id: str | None = first
            while id is not None and (data := _read(place.joinpath(*parts(f"{id}.json")))) is not None:
                id = follow(id, data)

        await self._run(str(place), walk)

    async def read(self, path: str) -> bytes | None:
        """See ``Store.read``."""
        return (await self.read_many([path]))[0]

    async def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """See ``Store.read_many``: all in one thread."""
        files = [self._at(path) for path in paths]
        return await self._run(str(self.root), lambda: [_read(file) for file in files])

    async def write(self, path: str, data: bytes) -> None:
        """See ``Store.write``."""
        file = self._at(path)
        await self._run(str(file), lambda: atomic.write_bytes(file, data), write=True)

    async def list(self, path: str) -> tuple[Entry, ...]:
        """See ``Store.list``."""
        folder = self._at(path) if path else self.root

        def scan() -> tuple[Entry, ...]:
            try:
                with os.scandir(folder) as found:
                    return tuple(sorted((_entry(e) for e in found), key=lambda e: e.name))
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
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def told(n: int, path: str) -> None:
            loop.call_soon_threadsafe(on_bytes, n, path)

        def copy() -> tuple[Copied, ...]:
            done = tuple(_put(s, target, told, stop, replace) for s in sources)
            for made in {target.joinpath(*parts(s.path)).parent for s in sources} | {target}:
                atomic.sync_directory(made)
            return done

        return await self._stoppable(str(target), copy, stop, write=True)

    async def files(self, folder: str) -> tuple[Stored, ...]:
        """See ``Store.files``. Symbolic links are left out."""
        top = self._at(folder)
        return await self._run(str(top), lambda: tuple(sorted(_below(top), key=lambda f: f.path)))

    async def get_files(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """See ``Store.get_files``. One thread copies; it looks for cancellation at every block of 1 MiB."""
        source = self._at(folder)
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def told(n: int, path: str) -> None:
            loop.call_soon_threadsafe(on_bytes, n, path)

        def copy() -> tuple[Copied, ...]:
            return tuple(_get(w, source.joinpath(*parts(w.path)), told, stop) for w in wanted)

        return await self._stoppable(str(source), copy, stop)

    async def trash(self, folder: str, paths: Sequence[str]) -> None:
        """See ``Store.trash``: below ``.trash`` in the store's root, under the moment and the old path."""
        source = self._at(folder) if folder else self.root
        place = self.root / TRASH / time.strftime("%Y%m%d-%H%M%S") / uuid.uuid4().hex[:4] / folder

        def move() -> None:
            for path in paths:
                target = place.joinpath(*parts(path))
                target.parent.mkdir(parents=True, exist_ok=True)
                source.joinpath(*parts(path)).rename(target)

        await self._run(str(source), move, write=True)

    async def _stoppable(self, where: str, work: Callable[[], T], stop: threading.Event, *, write: bool = False) -> T:
        """Run ``work`` in a thread; when cancelled, set ``stop`` and wait until the thread has seen it."""
        task = asyncio.ensure_future(self._run(where, work, write=write))
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

        await self._run(str(path), remove, write=True)

    async def fetch(self, folder: str) -> Path:
        """The folder itself: it is local already."""
        return self._at(folder)

    def local(self, path: str) -> str:
        """The absolute path on this machine."""
        return str(self._at(path))

    def _at(self, path: str) -> Path:
        return self.root.joinpath(*parts(path))

    async def _run(self, where: str, work: Callable[[], T], *, write: bool = False) -> T:
        """Do blocking ``work`` in a thread, with the operating system's errors turned into sentences."""

        def guarded() -> T:
            with _sentences(where or str(self.root)):
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

    def _status(self) -> StoreStatus:
        there = next(p for p in (self.root, *self.root.parents) if p.is_dir())
        disk = shutil.disk_usage(there)
        begun = _folders(self.root / INCOMING)
        return StoreStatus(
            kind=self.kind,
            label=self.label,
            path=str(self.root),
            google_drive=False,
            reachable=True,
            created=self.root.is_dir(),
            writable=os.access(there, os.W_OK | os.X_OK),
            free_bytes=disk.free,
            total_bytes=disk.total,
            promises=_PROMISES,
            unfinished=len(begun),
            unfinished_bytes=sum(_bytes_of(folder) for folder in begun),
        )


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _bytes_of(folder: Path) -> int:
    """Bytes of the files below ``folder``. What its writer renames or removes meanwhile is passed over."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(at, name).lstat().st_size
    return total


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _entry(found: os.DirEntry[str]) -> Entry:
    folder = found.is_dir()
    status = found.stat(follow_symlinks=False)
    return Entry(found.name, folder, 0 if folder else status.st_size, status.st_mtime)


def _create(path: Path, data: bytes) -> bool:
    """Exclusive create of ``path`` with all of ``data``; False when it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        _write_flushed(beside, data)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:  # a file system without hard links: still exclusive, but a crash in mid-write can tear the slot
                _write_flushed(path, data)
            except FileExistsError:
                return False
    finally:
        beside.unlink(missing_ok=True)
    atomic.sync_directory(path.parent)
    return True


def _write_flushed(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _below(top: Path) -> Iterator[Stored]:
    for at, _, names in os.walk(top):
        for name in names:
            path = Path(at, name)
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    relative = path.relative_to(top).as_posix()
                    yield Stored(relative, status.st_size, modified=status.st_mtime)


def _put(source: Source, folder: Path, told: OnBytes, stop: threading.Event, replace: bool) -> Copied:
    target = folder.joinpath(*parts(source.path))
    if not replace:
        return _copy(Path(source.local), target, source, told, stop)
    beside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        copied = _copy(Path(source.local), beside, source, told, stop)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return copied


def _get(wanted: Wanted, source: Path, told: OnBytes, stop: threading.Event) -> Copied:
    """Copy beside the local place, compare, then rename onto it."""
    local = Path(wanted.local)
    part = local.with_name(local.name + ".part")
    part.unlink(missing_ok=True)
    copied = _copy(source, part, Source(str(source), wanted.path, wanted.size), told, stop)
    if wanted.sha256 and copied.sha256 != wanted.sha256:
        part.unlink()
        raise Corrupted(f"{source} is not what its checksum says.", hint="Push it again from where it is whole.")
    part.replace(local)
    atomic.sync_directory(local.parent)
    return copied


def _copy(source: Path, target: Path, listed: Source, told: OnBytes, stop: threading.Event) -> Copied:
    """Copy, flush, read back, compare. ``told`` hears of each block written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    read, size = hashlib.sha256(), 0
    with _opened(source) as reader, target.open("xb") as writer:
        before = os.fstat(reader.fileno())
        while block := reader.read(_BLOCK):
            if stop.is_set():
                raise HybridError("The copy was stopped.")
            read.update(block)
            writer.write(block)
            size += len(block)
            told(len(block), listed.path)
        writer.flush()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != listed.size:
        raise HybridError(f"{source} changed while it was being copied.", hint="Try again when nothing writes to it.")
    with target.open("rb") as copy:
        written = hashlib.file_digest(copy, "sha256").hexdigest()
    if written != read.hexdigest():
        raise HybridError(f"{target} differs from {source} after the copy.", hint="Check the disk, then try again.")
    return Copied(listed.path, size, written)


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise BadInput(f"{source} can't be read: {(error.strerror or str(error)).lower()}.") from error


@contextlib.contextmanager
def _sentences(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or where
        reason = (error.strerror or str(error)).lower()
        if error.errno in _GONE:
            raise StoreUnreachable(f"The store does not answer at {place}: {reason}.", hint="Is it mounted?") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HybridError(f"The disk is full at {place}.", hint="Free some space, then try again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreUnreachable(
                f"The store can't be used at {place}: {reason}.", hint="Change its permissions, or [store] path."
            ) from error
        raise HybridError(f"{place}: {reason}.") from error
