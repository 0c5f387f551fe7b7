"""What is known of an upload under way, kept on the disk so that another process goes on with it.

An upload session's address is a secret: whoever has it may write the file. Entries are 0600 in a 0700 folder. Google
keeps a session for a week (https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable). The id
of a new file is noted before the first byte is sent: after a crash it tells whether the file arrived, which no listing
could. An entry is locked while its upload is worked on; the lock dies with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.drive.api.placing import sentences
from services.drive.api.reading import Identity
from services.errors import Refused

_ROOM = 4096  # bytes of an entry; blanks fill it
_MONTH = 30 * 86400
_WEEK = 6.5 * 86400  # half a day less than Google's week: what is begun must also be finished


class Upload(msgspec.Struct, frozen=True):
    """``id`` of the file (also of one that gets new content), ``address`` of the session ("" without), ``begun`` in
    Unix time, ``sha256`` once it lies on Drive, verified."""

    identity: Identity
    id: str = ""
    address: str = ""
    begun: float = 0.0
    sha256: str = ""


class Entry:
    """The journal's entry of one upload, locked for this process."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def load(self, identity: Identity) -> Upload | None:
        """What was noted, None when there is nothing, it is too old, or the local file is another one now."""
        try:
            noted = msgspec.json.decode(os.pread(self._fd, 1 << 16, 0), type=Upload)
        except msgspec.DecodeError:  # empty, or torn by a crash
            return None
        fresh = time.time() - noted.begun < _WEEK
        return noted if fresh and noted.identity == identity else None

    def save(self, upload: Upload, *, flush: bool) -> None:
        """Note ``upload``; ``flush`` to the disk, so that not even a power failure forgets it.

        Raises HybridError when it can't be written.
        """
        with sentences(self._path):
            os.pwrite(self._fd, msgspec.json.encode(upload).ljust(_ROOM), 0)  # one call: old or new after a kill
            if flush:
                os.fsync(self._fd)


class Journal:
    """The entries of one account's uploads, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def entry(self, local: Path, *key: str) -> Iterator[Entry]:
        """The entry of the upload of ``local`` to the place that ``key`` names. Blocking, briefly.

        Raises Refused when another process, or another task of this one, is at it.
        """
        name = hashlib.sha256("\0".join((str(local.absolute()), *key)).encode()).hexdigest()[:32]
        path = self._folder / f"{name}.json"
        with sentences(path):
            fd = _locked(path)
        if fd is None:
            raise Refused(f"{local} is being sent already.", hint="Wait for the other transfer, or cancel it.")
        try:
            yield Entry(path, fd)
        finally:
            os.close(fd)

    def sweep(self) -> None:
        """Remove entries whose session is over, with their addresses. Blocking."""
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _WEEK and (fd := _locked(path)) is not None:
                    path.unlink()
                    os.close(fd)


def sweep_downloads(folder: Path) -> None:
    """Remove journals of downloads that nobody went on with for a month. Blocking."""
    for path in folder.glob("*.jsonl"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _MONTH:
                path.unlink()


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only its owner may look into. Raises HybridError when that can't be."""
    with sentences(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    return path


def _locked(path: Path) -> int | None:
    """An exclusively locked descriptor of ``path``, made if missing; None when somebody else holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)  # removed by its holder between our two calls
