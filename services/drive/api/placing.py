"""A fetched file and its place: room on the disk, a lock, and the name only once all is right and flushed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from services import atomic, formats
from services.drive.api.types import DriveFile
from services.errors import HybridError, Refused

_SPARE = 64 << 20  # bytes that stay free on the disk


def place(local: Path, data: bytes | bytearray, file: DriveFile) -> str:
    """Put a small file in its place, whole, if its bytes are right: their sha256 (hex), else "". Blocking.

    Raises Refused when another process does it too, HybridError when it can't be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256 and (file.sha256 or hashlib.md5(data, usedforsecurity=False).hexdigest() != file.md5):
        return ""
    room(local, len(data))
    part = local.with_name(local.name + ".part")
    with sentences(local):
        local.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(locked(part), "wb") as opened:
            opened.truncate()
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
            part.replace(local)
    atomic.sync_directory(local.parent)
    return digest


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
