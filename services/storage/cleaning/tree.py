"""Walking a tree by descriptors alone: no symbolic link is followed, whatever changes meanwhile, at any depth.

Every folder is opened relative to its parent's descriptor with O_NOFOLLOW, so a component swapped for a link fails to
open instead of leading elsewhere.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable

from services.storage.cleaning.records import Dir, Key, Row, row_of

MAX_OPEN = 100
"""Descriptors that one walk keeps open; folders above are reopened through ".." and checked to be the same."""

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stopped(Exception):
    """The work was cancelled."""


class Unfit(Exception):
    """Something in a tree forbids to remove it. ``str()`` is the reason, ``path`` where, relative to the tree."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.path = path


def open_folder(path: str) -> int:
    """A descriptor of the folder at the absolute ``path``, no component of which may be a symbolic link.

    Raises OSError; NotADirectoryError for a link as for a file.
    """
    fd = os.open("/", FLAGS)
    for name in path.split("/"):
        if name:
            fd = _step(fd, name)
    return fd


def _step(fd: int, name: str) -> int:
    """Open ``name`` below ``fd``, which is closed."""
    try:
        return os.open(name, FLAGS, dir_fd=fd)
    finally:
        os.close(fd)


def open_below(fd: int, names: list[str]) -> int:
    """A descriptor of the folder ``names`` leads to from ``fd``, which stays open. Raises OSError."""
    here = os.dup(fd)
    for name in names:
        here = _step(here, name)
    return here


def key_of(status: os.stat_result) -> Key:
    """Device and inode."""
    return status.st_dev, status.st_ino


class Cursor:
    """Where a walk is. ``fd`` is the descriptor of the folder it is in, ``depth`` how far below its start."""

    def __init__(self, fd: int) -> None:
        """Start at ``fd``, of which a duplicate is kept."""
        self._keys = [key_of(os.fstat(fd))]
        self._fds = [os.dup(fd)]  # -1 for one closed meanwhile
        self._open = 1

    @property
    def fd(self) -> int:
        return self._fds[-1]

    @property
    def depth(self) -> int:
        return len(self._fds) - 1

    def enter(self, name: str) -> os.stat_result:
        """Go into the subfolder ``name`` and return its status. Raises OSError and stays where it is."""
        fd = os.open(name, FLAGS, dir_fd=self.fd)
        status = os.fstat(fd)
        self._fds.append(fd)
        self._keys.append(key_of(status))
        self._open += 1
        if self._open > MAX_OPEN:
            highest = len(self._fds) - self._open
            os.close(self._fds[highest])
            self._fds[highest] = -1
            self._open -= 1
        return status

    def leave(self) -> None:
        """Go up. Raises OSError when the folder above has become another one: the walk can't go on."""
        child = self._fds.pop()
        self._keys.pop()
        self._open -= 1
        try:
            if self._fds[-1] < 0:
                self._fds[-1] = os.open("..", FLAGS, dir_fd=child)
                self._open += 1
                if key_of(os.fstat(self._fds[-1])) != self._keys[-1]:
                    raise FileNotFoundError("the tree was moved while it was walked")
        finally:
            os.close(child)

    def close(self) -> None:
        for fd in self._fds:
            if fd >= 0:
                os.close(fd)
        self._fds = []


Look = Callable[[str, str, bool], None]
"""Called with an entry's folder (relative, "" for the top), its name, and whether it is a folder. May raise Unfit."""


def snapshot(
    parent: int, name: str, *, look: Look | None = None, stop: threading.Event | None = None
) -> tuple[Row | None, list[Dir]]:
    """What lies at ``name`` in the folder ``parent``: a row, or a list of folders with their rows.

    Raises Unfit for what may not be read or lies on another file system, OSError when there is nothing, Stopped.
    """
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        return row_of(status), []
    dirs: list[Dir] = []
    todo = [(-1, 0, name, "")]
    cursor = Cursor(parent)
    try:
        while todo:
            if stop is not None and stop.is_set():
                raise Stopped
            above, depth, name, where = todo.pop()
            while cursor.depth > depth:
                cursor.leave()
            try:
                found = cursor.enter(name)
                if dirs and found.st_dev != dirs[0].dev:
                    raise Unfit("another file system is mounted in it", where)
                below = _list(cursor.fd, dirs, above, depth, name, found, where, look)
            except OSError as error:
                raise Unfit(f"a folder in it can't be read ({error.strerror})", where) from error
            index = len(dirs) - 1
            todo += [(index, depth + 1, n, f"{where}/{n}" if look and where else n) for n in below]
    finally:
        cursor.close()
    return None, dirs


def _list(
    fd: int, dirs: list[Dir], above: int, depth: int, name: str, status: os.stat_result, where: str, look: Look | None
) -> list[str]:
    """Append the open folder to ``dirs`` and return the names of its subfolders."""
    names: list[str] = []
    rows: list[Row] = []
    below: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            folder = entry.is_dir(follow_symlinks=False)
            if look is not None:
                look(where, entry.name, folder)
            if folder:
                below.append(entry.name)
                continue
            try:
                rows.append(row_of(entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue  # deleted since it was listed
            names.append(entry.name)
    dirs.append(
        Dir(
            above,
            depth,
            os.fsencode(name),
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_dev,
            status.st_ino,
            status.st_mtime_ns,
            status.st_blocks,
            os.fsencode("\0".join(names)),
            rows,
        )
    )
    return below
