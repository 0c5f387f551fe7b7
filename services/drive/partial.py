"""A file on its way to this machine: ``NAME.part`` beside its place until it is whole, verified and renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from services import atomic, formats
from services.drive.store import Wanted
from services.errors import BadInput, HybridError

_BLOCK = 1 << 20


class Partial:
    """The ``.part`` of ``local``, held by one process at a time. ``done`` bytes of it have come, in order.

    What an earlier process left is gone on from when ``resume``; whether it was right shows at the end, by the checksum
    of the whole. Raises HybridError when another process fetches the same file. Blocking: use it in a thread.
    """

    def __init__(self, local: Path, *, size: int, resume: bool, stop: threading.Event) -> None:
        self.local = local
        self.path = local.with_name(local.name + ".part")
        self.resumed = 0
        self._using = threading.Lock()  # a cancelled caller closes while its thread may still be writing
        self._closed = False
        with _sentences(self.path):
            self._fd = self._open()
            try:
                self._begin(size if resume else 0, stop)
            except BaseException:
                self.close()
                raise

    def _open(self) -> int:
        self.local.parent.mkdir(parents=True, exist_ok=True)
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(self.path, flags, 0o644)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EISDIR):
                    raise
                raise HybridError(f"{self.path} is in the way.", hint="Remove it, then try again.") from error
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise HybridError(f"{self.path} is in the way.", hint="Remove it, then try again.")
            if not _lock(fd):
                os.close(fd)
                raise HybridError(f"Another process is fetching {self.local}.", hint="Wait until it has finished.")
            if _same(fd, self.path):  # else its owner finished and renamed it between our open and our lock
                return fd
            os.close(fd)

    def _begin(self, most: int, stop: threading.Event) -> None:
        there = os.fstat(self._fd).st_size
        if there > most:
            there = 0
            os.ftruncate(self._fd, 0)
        self._hash = hashlib.sha256()
        self.done = 0
        while self.done < there and not stop.is_set():
            block = os.pread(self._fd, min(_BLOCK, there - self.done), self.done)
            if not block:
                break
            self._hash.update(block)
            self.done += len(block)
        self.resumed = self.done

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises HybridError when the disk is full."""
        view = memoryview(data)
        with self._held(self.path):
            while view:
                n = os.pwrite(self._fd, view, self.done)
                self._hash.update(view[:n])
                self.done += n
                view = view[n:]

    def restart(self) -> None:
        """Throw away what came."""
        with self._held(self.path):
            os.ftruncate(self._fd, 0)
            self._hash = hashlib.sha256()
            self.done = self.resumed = 0

    def sha256(self) -> str:
        """Of what came so far (hex)."""
        return self._hash.hexdigest()

    def keep(self) -> None:
        """It is whole and right: flush it to the disk and rename it onto its place."""
        with self._held(self.local):
            os.fsync(self._fd)
            self.path.replace(self.local)
            atomic.sync_directory(self.local.parent)

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it, after the block that is just being written; what came stays for the next attempt."""
        with self._using:
            if not self._closed:
                self._closed = True
                os.close(self._fd)

    @contextlib.contextmanager
    def _held(self, path: Path) -> Iterator[None]:
        """The file is open and stays so: after ``close`` its number may be another file's."""
        with self._using, _sentences(path):
            if self._closed:
                raise HybridError("The copy was stopped.")
            yield


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """What this machine's disk says, as told to a person."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HybridError(
                f"The disk is full at {path}.", hint="Free some space, then try again: what came is kept."
            ) from error
        raise BadInput(f"{path} can't be written: {(error.strerror or str(error)).lower()}.") from error


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: as good as it gets there
        return True
    return True


def _same(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def digest(path: Path, stop: threading.Event) -> str:
    """The sha256 (hex) of a file, "" when it was stopped. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if stop.is_set():
                return ""
            found.update(block)
    return found.hexdigest()


def is_here(wanted: Wanted, stop: threading.Event) -> bool:
    """Whether the local file is there already and right; only a known sha256 can say so."""
    local = Path(wanted.local)
    try:
        there = local.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(there.st_mode) or not wanted.sha256 or there.st_size != wanted.size:
        return False
    return digest(local, stop) == wanted.sha256


def check_room(wanted: Sequence[Wanted]) -> None:
    """Raises HybridError when a disk has too little room for what is still to come; nothing was written then."""
    needs: dict[int, tuple[Path, int]] = {}
    for file in wanted:
        local = Path(file.local)
        part = local.with_name(local.name + ".part")
        come = part.lstat().st_blocks * 512 if part.is_file() else 0
        there = next(p for p in local.absolute().parents if p.is_dir())
        device = there.stat().st_dev
        needs[device] = (there, needs.get(device, (there, 0))[1] + max(0, file.size - come))
    for place, need in needs.values():
        free = shutil.disk_usage(place).free
        if need > free:
            raise HybridError(
                f"{place} has {formats.size(free)} free and {formats.size(need)} are still to come.",
                hint="Free some space (hybrid-tui --run storage.clean), then try again: what came is kept.",
            )
