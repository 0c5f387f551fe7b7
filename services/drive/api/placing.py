"""A fetched file and its place: room on the disk, a lock, and the name only once all is right and flushed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services import atomic, formats
from services.drive.api.reading import INLINE, Threads
from services.drive.api.types import DriveFile
from services.errors import HybridError, Refused

_SPARE = 64 << 20  # bytes that stay free on the disk
_WAITING = 16  # threads that wait for the disk


async def place(local: Path, data: bytes | bytearray, file: DriveFile, flush: bool, threads: Threads) -> str:
    """Put a small file in its place, whole, if its bytes are right: their sha256 (hex), else "".

    What is very small is hashed and written here and now, for a thread's turn would take longer. With ``flush`` the
    disk has it and its name then; without, ``flushed`` has to follow, which waits for the disk once for many files.

    Raises Refused when another process does it too, HybridError when it can't be written.
    """
    if len(data) > INLINE:
        digest, fd = await threads.run(_written, local, data, file)
    else:
        digest, fd = _written(local, data, file)
    if digest and flush:
        await threads.run(_named, local, fd, True)
    elif digest:
        _named(local, fd, False)
    return digest


def flushed(places: Collection[Path]) -> None:
    """Wait until the disk has these files and their names. Blocking. Raises HybridError when it can't have them.

    Many wait at a time: a file system commits all of those at once, but one after the other each by itself.
    """
    with ThreadPoolExecutor(max(1, min(_WAITING, len(places))), thread_name_prefix="flush") as pool:
        for _ in pool.map(_flush, places):
            pass
    for folder in {place.parent for place in places}:
        atomic.sync_directory(folder)


def _flush(local: Path) -> None:
    with sentences(local):
        fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _written(local: Path, data: bytes | bytearray, file: DriveFile) -> tuple[str, int]:
    """The sha256 and a descriptor of the part file that holds these bytes now; ("", -1) when they are wrong."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256 and (file.sha256 or hashlib.md5(data, usedforsecurity=False).hexdigest() != file.md5):
        return "", -1
    if len(data) > INLINE:  # what is smaller says so when it is written
        room(local, len(data))
    with sentences(local):
        try:
            fd = locked(_part(local))
        except FileNotFoundError:
            local.parent.mkdir(parents=True, exist_ok=True)
            fd = locked(_part(local))
        try:
            if os.fstat(fd).st_size:  # ext4 would begin to write out at once what was cut, even by nothing
                os.truncate(fd, 0)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.close(fd)
            raise
    return digest, fd


def _named(local: Path, fd: int, flush: bool) -> None:
    """Give the part file its name and close it; ``flush`` it before, and the name after. Blocking."""
    try:
        with sentences(local):
            if flush:
                os.fsync(fd)
            _part(local).replace(local)
    finally:
        os.close(fd)
    if flush:
        atomic.sync_directory(local.parent)


def _part(local: Path) -> Path:
    return local.with_name(local.name + ".part")


def room(local: Path, needed: int) -> None:
    """Raises HybridError when the disk of ``local`` has no room for so many bytes more. Blocking."""
    there = next((p for p in local.absolute().parents if p.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free
    if needed and free < needed + _SPARE:
        raise HybridError(
            f"{local} needs {formats.size(needed)} more, and the disk has {formats.size(free)} free.",
            hint="Free some space (storage.items shows what can go); what came so far is kept.",
        )


@contextlib.contextmanager
def sentences(local: Path) -> Iterator[None]:
    """The operating system's errors as sentences."""
    try:
        yield
    except OSError as error:
        hint = "Free some space; what came so far is kept." if error.errno == errno.ENOSPC else ""
        raise HybridError(f"{local} can't be written: {error.strerror}.", hint=hint) from None


def locked(path: Path) -> int:
    """An exclusively locked descriptor of ``path``, made if missing."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Refused(
                f"{path.name.removesuffix('.part')} is being fetched already.", hint="Wait for the other transfer."
            ) from None
        except OSError:  # a file system without locks
            return fd
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)
