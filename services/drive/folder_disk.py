"""What a folder store asks of the operating system: small reads, exclusive creation, and errors in words."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from services import atomic
from services.drive.store import Entry
from services.errors import HybridError, StoreUnreachable

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_GONE = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV}


def folders(parent: Path) -> list[Path]:
    """The folders in ``parent``; none when there is no such folder."""
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def bytes_of(folder: Path) -> int:
    """Bytes of the files below ``folder``. What its writer renames or removes meanwhile is passed over."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(at, name).lstat().st_size
    return total


def size(file: Path) -> int | None:
    """A file's bytes, None when there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def read(file: Path) -> bytes | None:
    """A file's content, None when there is none."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def entry(found: os.DirEntry[str]) -> Entry:
    """What a listing found, as the store tells it."""
    folder = found.is_dir()
    status = found.stat(follow_symlinks=False)
    return Entry(found.name, folder, 0 if folder else status.st_size, status.st_mtime)


def create(path: Path, data: bytes) -> bool:
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
            if error.errno not in NO_LINKS:
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


@contextlib.contextmanager
def sentences(where: str) -> Iterator[None]:
    """The operating system's errors as sentences; ``where`` is named when the error names no file."""
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
