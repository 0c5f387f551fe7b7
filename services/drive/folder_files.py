"""Files into and out of a folder store: whole or not at all, compared, never through a link that leads out of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from services import atomic, formats
from services.drive.errors import Corrupted
from services.drive.folder_disk import NO_LINKS
from services.drive.mounts import SHORTCUTS, Mount
from services.drive.partial import Partial, check_room, is_here
from services.drive.store import Copied, OnBytes, Source, Stored, Wanted, parts
from services.errors import BadInput, HybridError

_BLOCK = 1 << 20
_ENDING = ".hybrid-part"  # what is being written; never listed, and removed when its writer is gone
_OLD = 24 * 3600  # seconds after which an unfinished file counts as left behind, where there are no locks to tell


def inside(path: Path, root: Path, mount: Mount | None) -> Path:
    """``path``, unless links on the way lead out of ``root``; a mounted Drive's shortcuts may. Raises BadInput."""
    real, top = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if real.is_relative_to(top):
        return path
    if mount is not None and real.is_relative_to(Path(os.path.realpath(mount.point)) / SHORTCUTS):
        return path
    raise BadInput(f"{path} leads out of the store.", hint="Put the files themselves there instead of a link.")


def below(top: Path) -> Iterator[Stored]:
    """Every file below ``top``; links are told as skipped, what vanishes meanwhile is passed over. Raises OSError."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for at, folders, names in os.walk(top, onerror=failed):
        for name in (*folders, *names):
            path = Path(at, name)
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                relative = path.relative_to(top).as_posix()
                if stat.S_ISLNK(status.st_mode):
                    yield Stored(relative, 0, modified=status.st_mtime, skipped="a link, not a file")
                elif stat.S_ISREG(status.st_mode) and not name.endswith(_ENDING):
                    yield Stored(relative, status.st_size, modified=status.st_mtime)


def put_all(
    sources: Sequence[Source], folder: Path, told: OnBytes, stop: threading.Event, *, replace: bool, guard: Path,
    mount: Mount | None,
) -> tuple[Copied, ...]:  # fmt: skip
    """Copy ``sources`` below ``folder``; ``guard`` is the folder that nothing may leave."""
    _room(sources, folder)
    targets = [folder.joinpath(*parts(s.path)) for s in sources]
    for parent in {t.parent for t in targets}:
        inside(parent, guard, mount)
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
    done = tuple(_put(s, t, told, stop, replace) for s, t in zip(sources, targets, strict=True))
    for made in {t.parent for t in targets} | ({folder} if folder.is_dir() else set()):
        atomic.sync_directory(made)
    return done


def get_all(
    wanted: Sequence[Wanted], folder: Path, told: OnBytes, stop: threading.Event, guard: Path, mount: Mount | None
) -> tuple[Copied, ...]:
    """Copy files of ``folder`` to their local places."""
    check_room(wanted)
    return tuple(_get(w, inside(folder.joinpath(*parts(w.path)), guard, mount), told, stop) for w in wanted)


def _room(sources: Sequence[Source], folder: Path) -> None:
    there = next(p for p in (folder, *folder.parents) if p.is_dir())
    disk = shutil.disk_usage(there)
    need = sum(s.size for s in sources)
    if disk.total and need > disk.free:  # some mounts know nothing of their room and say 0 of 0
        raise HybridError(
            f"{there} has {formats.size(disk.free)} free and {formats.size(need)} are to be copied.",
            hint="Free some space first.",
        )


def _put(source: Source, target: Path, told: OnBytes, stop: threading.Event, replace: bool) -> Copied:
    """Copy beside, read back, compare, and only then give it its name."""
    if not replace and (target.exists() or target.is_symlink()):
        raise HybridError(f"{target} is there already.")
    beside = target.with_name(f".{uuid.uuid4().hex}{_ENDING}")
    try:
        with beside.open("xb") as writer:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copied = _copy(source, writer, target, told, stop)
            if replace:
                beside.replace(target)
            else:
                _name_new(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return copied


def _name_new(beside: Path, target: Path) -> None:
    try:
        os.link(beside, target)
    except FileExistsError:
        raise HybridError(f"{target} is there already.") from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists() or target.is_symlink():
            raise HybridError(f"{target} is there already.") from None
        beside.replace(target)


def _copy(source: Source, writer: BinaryIO, target: Path, told: OnBytes, stop: threading.Event) -> Copied:
    """Copy, flush, read back, compare. ``told`` hears of each block written."""
    read, size = hashlib.sha256(), 0
    with _opened(Path(source.local)) as reader:
        before = os.fstat(reader.fileno())
        while block := reader.read(_BLOCK):
            _go_on(stop)
            read.update(block)
            writer.write(block)
            size += len(block)
            told(len(block), source.path)
        writer.flush()
        os.fsync(writer.fileno())
        _unchanged(source.local, before, os.fstat(reader.fileno()), size, source.size)
    with Path(writer.name).open("rb") as copy:
        written = hashlib.file_digest(copy, "sha256").hexdigest()
    if written != read.hexdigest():
        raise HybridError(
            f"{target} differs from {source.local} after the copy.", hint="Check the disk, then try again."
        )
    return Copied(source.path, size, written)


def _sweep(folder: Path) -> None:
    """Remove unfinished files whose writer is gone."""
    for path in folder.glob(f".*{_ENDING}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:
                if time.time() - path.lstat().st_mtime < _OLD:
                    continue
            path.unlink()


def _get(wanted: Wanted, source: Path, told: OnBytes, stop: threading.Event) -> Copied:
    """Copy to the ``.part`` beside the local place, compare, rename. A part from before is gone on from when a known
    checksum can tell whether it was right; that spares a slow mount the bytes that came already."""
    if is_here(wanted, stop):
        told(wanted.size, wanted.path)
        return Copied(wanted.path, wanted.size, wanted.sha256)
    part = Partial(Path(wanted.local), size=wanted.size, resume=bool(wanted.sha256), stop=stop)
    try:
        while True:
            _go_on(stop)
            resumed = part.resumed
            if resumed:
                told(resumed, wanted.path)
            _fill(part, wanted, source, told, stop)
            if not wanted.sha256 or part.sha256() == wanted.sha256:
                part.keep()
                return Copied(wanted.path, wanted.size, part.sha256())
            told(-wanted.size, wanted.path)
            if not resumed:
                part.discard()
                raise Corrupted(
                    f"{source} is not what its checksum says.", hint="Push it again from where it is whole."
                )
            part.restart()
    finally:
        part.close()


def _fill(part: Partial, wanted: Wanted, source: Path, told: OnBytes, stop: threading.Event) -> None:
    with _opened(source) as reader:
        before = os.fstat(reader.fileno())
        reader.seek(part.done)
        while block := reader.read(_BLOCK):
            _go_on(stop)
            if part.done + len(block) > wanted.size:
                break
            part.write(block)
            told(len(block), wanted.path)
        after = os.fstat(reader.fileno())
    try:
        _unchanged(str(source), before, after, after.st_size, wanted.size)
    except HybridError:
        told(-part.done, wanted.path)
        part.discard()
        raise


def _unchanged(path: str, before: os.stat_result, after: os.stat_result, size: int, listed: int) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != listed:
        raise HybridError(f"{path} changed while it was being copied.", hint="Try again when nothing writes to it.")


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise HybridError("The copy was stopped.")


def _opened(source: Path) -> BinaryIO:
    try:  # without waiting: a pipe in the file's place would never answer
        file = os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise BadInput(f"{source} can't be read: {(error.strerror or str(error)).lower()}.") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BadInput(f"{source} is not a regular file.")
    return file
