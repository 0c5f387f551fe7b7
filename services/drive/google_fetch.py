"""A folder of the store as a folder on this box: fetched once, and only what changed after that."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.drive.google_files import Files
from services.drive.google_mirror import Mirror
from services.drive.store import Stored, Wanted, parts
from services.errors import HybridError

_WAIT = 0.1  # seconds between two looks at another process's lock


async def fetch(files: Files, folder: str, cache: Path) -> Path:
    """The content of ``folder`` below ``cache``, whole and verified. Raises HybridError when there is no such folder,
    or when two files of one name leave open what belongs to it."""
    stored = await files.below(folder)
    if not stored and await files.tree.find(folder) is None:
        raise HybridError(f"There is no folder {folder} on Google Drive.")
    unclear = [s for s in stored if s.skipped and not s.skipped.startswith("A Google document")]
    if unclear:
        raise HybridError(f"{folder}/{unclear[0].path} can't be fetched: {unclear[0].skipped}")
    top = cache.joinpath(*parts(folder))
    wanted = [s for s in stored if not s.skipped]
    async with _locked(top.with_name(top.name + ".lock")):
        lacking = await asyncio.to_thread(_lacking, files.tree.mirror, top, wanted)
        orders = [Wanted(s.path, str(_at(top, s)), s.size, s.sha256) for s in lacking]
        for copied in await files.get(orders, folder, lambda n, path: None):
            local = top.joinpath(*parts(copied.path))
            files.tree.mirror.keep_fetched(local, await asyncio.to_thread(local.stat), copied.sha256)
        await asyncio.to_thread(_tidy, top, {_at(top, s) for s in wanted})
    return top


def _at(top: Path, stored: Stored) -> Path:
    return top.joinpath(*parts(stored.path))


def _lacking(mirror: Mirror, top: Path, wanted: list[Stored]) -> list[Stored]:
    """What is not here yet as it is on Drive. A copy that was not touched since it was verified is not read again."""
    top.mkdir(parents=True, exist_ok=True)
    return [stored for stored in wanted if not _here(mirror, _at(top, stored), stored)]


def _here(mirror: Mirror, local: Path, stored: Stored) -> bool:
    try:
        status = local.lstat()
        if not local.is_file() or status.st_size != stored.size or not stored.sha256:
            return False
        if mirror.fetched(local) == (status.st_size, status.st_mtime_ns, stored.sha256):
            return True
        with local.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                return False
    except OSError:
        return False
    mirror.keep_fetched(local, status, stored.sha256)
    return True


def _tidy(top: Path, wanted: set[Path]) -> None:
    """Remove what is not on Drive any more: the folder is a copy of ours, and nothing else belongs in it."""
    for at, folders, names in os.walk(top, topdown=False):
        for name in names:
            if Path(at, name) not in wanted:
                Path(at, name).unlink(missing_ok=True)
        for name in folders:
            with contextlib.suppress(OSError):
                Path(at, name).rmdir()


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """One process at a time fetches a folder; the lock goes with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_WAIT)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(fd)
