"""The files of a swap: what goes is moved aside within the environment, what comes is staged beside it, then moved in.

Nothing is deleted, and the installer writes nothing outside its staging folder, before the new build is proved. All
steps are renames on one file system, so an undo is fast, needs no network and gives back the very same files. A
journal, on disk before each state, lets the next call undo a swap that was killed: where each file lies tells what was
done.

    ENV/.hybrid-swap/journal.json    what moves, and how far it is
    ENV/.hybrid-swap/lock            held by the swap and by the installer that it starts
    ENV/.hybrid-swap/stage/…         the new files, laid out as in ENV
    ENV/.hybrid-swap/old/…           the old files, laid out as in ENV
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from services import atomic
from services.errors import HybridError, Refused
from services.storage import paths

FOLDER = ".hybrid-swap"
LOCK_SECONDS = 3.0
"""How long a lock is waited for: an installer that outlived its killed parent ends soon, or is named."""


class Journal(msgspec.Struct, frozen=True):
    """A swap on its way. Paths are relative to the environment, "/"-separated.

    staging: nothing was touched yet. moving: ``old`` goes aside and ``new`` comes in. committed: proved, only the
    tidying up is left. ``folders`` are those that the old files lay in, with their modes; ``made`` those that the new
    ones need and that were not there.
    """

    state: Literal["staging", "moving", "committed"]
    started_at: float
    uninstall: tuple[str, ...]
    install: tuple[str, ...]
    freeze: str
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    folders: tuple[tuple[str, int], ...] = ()
    made: tuple[str, ...] = ()


def unfinished(prefix: str) -> bool:
    """Whether a swap in the environment ``prefix`` was interrupted (or is running)."""
    return Path(prefix, FOLDER, "journal.json").exists()


class Holding:
    """The holding folder of one environment. Use it inside ``locked``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = Path(prefix)
        self.folder = self.prefix / FOLDER
        self.stage = self.folder / "stage"
        self.old = self.folder / "old"
        self.lock_fd = -1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the environment's lock; children that inherit ``lock_fd`` hold it too. Raises Refused if it is taken."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            self.folder.mkdir(exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self.folder / "lock")):  # noqa: PTH116  (beside fstat)
                    break
            except (BlockingIOError, FileNotFoundError):
                if time.monotonic() > deadline:
                    os.close(fd)
                    raise Refused(
                        f"A swap is at work in {paths.shown(str(self.prefix))}, or its installer still is.",
                        hint="Wait until it has ended, then call again.",
                    ) from None
            os.close(fd)
            time.sleep(0.1)
        self.lock_fd = fd
        try:
            yield
        finally:
            self.lock_fd = -1
            if self.folder.exists() and not unfinished(str(self.prefix)):
                shutil.rmtree(self.folder)
            os.close(fd)

    def read(self) -> Journal | None:
        """The journal, None when no swap was begun. Raises HybridError for one that can't be read."""
        path = self.folder / "journal.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise HybridError(
                f"The journal {paths.shown(str(path))} can't be read ({error}).",
                hint=f"The removed files lie in {paths.shown(str(self.old))}, laid out as in the environment.",
            ) from error

    def write(self, journal: Journal) -> Journal:
        """Put the journal on the disk before what it says is done."""
        atomic.write_bytes(self.folder / "journal.json", msgspec.json.encode(journal))
        return journal

    def staged(self) -> list[str]:
        """What the installer put into the stage: files, relative to it."""
        found: list[str] = []
        for parent, folders, names in os.walk(self.stage):
            links = [name for name in folders if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118
            relative = os.path.relpath(parent, self.stage)
            found += [os.path.normpath(os.path.join(relative, name)) for name in names]  # noqa: PTH118
            found += [os.path.normpath(os.path.join(relative, n)) for n in links if n != "lib64"]  # noqa: PTH118
        return sorted(found)

    def prepare(self) -> None:
        """An empty stage with the environment's own layout (lib64 is a link to lib in many)."""
        self.stage.mkdir(parents=True)
        if (self.prefix / "lib64").is_symlink():
            (self.stage / "lib").mkdir()
            (self.stage / "lib64").symlink_to("lib")

    def plan_moves(self, journal: Journal, old: Iterable[str], new: Iterable[str]) -> Journal:
        """The journal with all moves in it. A file that is in the way of a new one moves aside as well.

        Raises Refused for a path that leaves the environment or lies on another file system.
        """
        new = tuple(new)
        in_the_way = [path for path in new if os.path.lexists(self.prefix / path)]
        compiled = [str(c.relative_to(self.prefix)) for path in in_the_way for c in _compiled(self.prefix / path)]
        aside = tuple(sorted({*old, *in_the_way, *compiled}))
        folders: dict[str, int] = {}
        for path in aside:
            self._check(path)
            for parent in _parents(path):
                if parent not in folders:
                    folders[parent] = os.stat(self.prefix / parent).st_mode & 0o7777  # noqa: PTH116
        made = {parent for path in new for parent in _parents(path) if not (self.prefix / parent).exists()}
        return msgspec.structs.replace(
            journal,
            state="moving",
            old=aside,
            new=new,
            folders=tuple(sorted(folders.items())),
            made=tuple(sorted(made)),
        )

    def exchange(self, journal: Journal) -> None:
        """Move the old files aside, then the new ones in. May be killed at any point."""
        for path in journal.old:
            _move(self.prefix / path, self.old / path)
        for folder, _ in sorted(journal.folders, reverse=True):
            _drop_empty(self.prefix / folder)
        for path in journal.new:
            _move(self.stage / path, self.prefix / path)

    def undo(self, journal: Journal) -> tuple[int, int]:
        """Bring the environment back to what it was; gives the files brought back and their bytes.

        Raises Refused, with the environment as it is, when something else was installed in their place since.
        """
        for path in journal.new:
            if not os.path.lexists(self.stage / path):
                _move(self.prefix / path, self.stage / path)
        self._drop_compiled(journal)
        for folder in sorted(journal.made, reverse=True):
            _drop_empty(self.prefix / folder)
        self._check_free(journal)
        files = size = 0
        modes = dict(journal.folders)
        for path in journal.old:
            source = self.old / path
            if os.path.lexists(source):
                size += source.lstat().st_blocks * 512
                files += 1
                self._make_parents(path, modes)
                _move(source, self.prefix / path)
        self.drop()
        return files, size

    def drop(self) -> tuple[int, int]:
        """Delete what was held, the journal last; gives the files deleted and their bytes."""
        files = size = 0
        for parent, _, names in os.walk(self.old):
            for name in names:
                files += 1
                size += Path(parent, name).lstat().st_blocks * 512
        for folder in (self.old, self.stage):
            if folder.exists():
                shutil.rmtree(folder)
        (self.folder / "journal.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder)
        return files, size

    def _check(self, path: str) -> None:
        parent = (self.prefix / path).parent
        inside = os.path.realpath(parent) + "/"
        if path.startswith(("/", "../")) or not inside.startswith(os.path.realpath(self.prefix) + "/"):
            raise Refused(
                f"{path} lies outside of {paths.shown(str(self.prefix))}: the swap would touch what is not its own.",
                hint="Uninstall that package by the tool that installed it.",
            )
        if parent.stat().st_dev != self.folder.stat().st_dev:
            raise Refused(f"{paths.shown(str(parent))} is on another disk than {paths.shown(str(self.folder))}.")

    def _check_free(self, journal: Journal) -> None:
        taken = [
            path
            for path in journal.old
            if os.path.lexists(self.old / path) and os.path.lexists(self.prefix / path) and not path.endswith(".pyc")
        ]
        if taken:
            raise Refused(
                f"{len(taken)} files were put back by something else since the swap was interrupted, first {taken[0]}.",
                hint=f"Uninstall that package and call again, or delete {paths.shown(str(self.folder))} to keep it so.",
            )

    def _make_parents(self, path: str, modes: dict[str, int]) -> None:
        for parent in _parents(path):
            folder = self.prefix / parent
            if not folder.exists():
                folder.mkdir()
                folder.chmod(modes.get(parent, 0o755))

    def _drop_compiled(self, journal: Journal) -> None:
        """Compiled files that Python made of the new sources since they came in."""
        old = set(journal.old)
        for path in journal.new:
            if not path.endswith(".py") or os.path.lexists(self.prefix / path):
                continue
            for compiled in _compiled(self.prefix / path):
                if (kept := str(compiled.relative_to(self.prefix))) not in old or (self.old / kept).exists():
                    compiled.unlink(missing_ok=True)
            _drop_empty((self.prefix / path).parent / "__pycache__")


def _compiled(source: Path) -> list[Path]:
    """What Python made of a source file (PEP 3147), whichever version it was."""
    return (
        list((source.parent / "__pycache__").glob(f"{glob.escape(source.stem)}.*.pyc"))
        if source.suffix == ".py"
        else []
    )


def _parents(path: str) -> list[str]:
    """The folders that ``path`` lies in, outermost first: "a/b/c" gives "a", "a/b"."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _move(source: Path, target: Path) -> None:
    """Rename; a source that is gone (moved before a kill, or vanished) is passed over."""
    try:
        source.rename(target)
    except FileNotFoundError:
        if os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)


def _drop_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
            raise
