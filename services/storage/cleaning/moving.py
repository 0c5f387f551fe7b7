"""Renames into the trash and out of it: relative to descriptors, never over anything, folder by folder where needed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from services.storage.cleaning import system, tree
from services.storage.cleaning.records import Dir, Key, Target, same

Kept = list[tuple[str, OSError]]
"""What could not go back: its path within the target, and why."""


def rename(old: str, new: str, *, old_fd: int, new_fd: int) -> None:
    """``system.rename_new``, also for an own folder without write permission, as Go's module cache is full of.

    Moving a folder changes its "..", for which the system asks write permission. It is given for the moment only.
    """
    try:
        system.rename_new(old, new, old_fd=old_fd, new_fd=new_fd)
        return
    except PermissionError:
        status = os.stat(old, dir_fd=old_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o200 or status.st_uid != os.geteuid():
            raise
    fd = os.open(old, tree.FLAGS, dir_fd=old_fd)
    try:
        os.fchmod(fd, stat.S_IMODE(status.st_mode) | 0o200)
        try:
            system.rename_new(old, new, old_fd=old_fd, new_fd=new_fd)
        finally:
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
    finally:
        os.close(fd)


def open_or_make(path: str) -> int:
    """A descriptor of the folder ``path``; what is missing of it is made. No component may be a link.

    Raises OSError.
    """
    fd = os.open("/", tree.FLAGS)
    for name in path.split("/"):
        if name:
            fd = _step(fd, name, 0o777)
    return fd


def _step(fd: int, name: str, mode: int) -> int:
    """Open ``name`` below ``fd``, made if missing; ``fd`` is closed."""
    try:
        try:
            return os.open(name, tree.FLAGS, dir_fd=fd)
        except FileNotFoundError:
            os.mkdir(name, mode, dir_fd=fd)
            return os.open(name, tree.FLAGS, dir_fd=fd)
    finally:
        os.close(fd)


def rebuild(target: Target, parent: int, name: str, fd: int, new: str) -> None:
    """Move a folder that can't be renamed (error EXDEV: the lower layer of an overlay) file by file.

    Only what the plan shows is moved; folders are made anew with the old ones' permissions and times, and the old ones
    removed if nothing else is left in them. Raises OSError with part of it moved.
    """
    source, goal = tree.Cursor(parent), tree.Cursor(fd)
    entered: list[Dir] = []

    def leave() -> None:
        folder = entered.pop()
        _dress(goal.fd, folder)
        source.leave()
        goal.leave()
        _remove_folder(os.fsdecode(folder.name) if entered else name, source.fd)

    lost = -1
    try:
        for folder in target.dirs:
            if lost >= 0 and folder.depth > lost:
                continue
            lost = -1
            while source.depth > folder.depth:
                leave()
            own = os.fsdecode(folder.name) if entered else name
            try:
                status = source.enter(own)
            except (FileNotFoundError, NotADirectoryError):
                lost = folder.depth
                continue
            if (status.st_dev, status.st_ino) != (folder.dev, folder.ino):
                source.leave()
                lost = folder.depth
                continue
            as_ = own if entered else new
            os.mkdir(as_, 0o700, dir_fd=goal.fd)
            goal.enter(as_)
            entered.append(folder)
            _move_files(folder, source.fd, goal.fd)
        while entered:
            leave()
    finally:
        source.close()
        goal.close()


def _move_files(folder: Dir, source: int, goal: int) -> None:
    for name, row in zip(folder.entries(), folder.rows, strict=True):
        try:
            if same(os.stat(name, dir_fd=source, follow_symlinks=False), row):
                system.rename_new(name, name, old_fd=source, new_fd=goal)
        except FileNotFoundError:
            continue


def _dress(fd: int, folder: Dir) -> None:
    """Give a folder made anew the owner, permissions and time of the old one, as far as we may."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (folder.uid, folder.gid):
        _try(lambda: os.fchown(fd, folder.uid, folder.gid))
    os.fchmod(fd, stat.S_IMODE(folder.mode))
    os.utime(fd, ns=(status.st_atime_ns, folder.mtime_ns))


def _remove_folder(name: str, fd: int) -> None:
    _try(lambda: os.rmdir(name, dir_fd=fd))


def _try(call: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        call()


def restore_entry(target: Target, fd: int, name: str, index: int, entry: str) -> None:
    """Bring one entry of the moved ``name`` back to its old place; folders missing there are made. Raises OSError."""
    chain = []
    here = index
    while here >= 0:
        chain.append(here)
        here = target.dirs[here].parent
    source = tree.open_below(fd, [name, *target.where(index)])
    try:
        goal = open_or_make(os.path.dirname(target.text()))
        for place in reversed(chain):
            folder = target.dirs[place]
            goal = _step(goal, os.fsdecode(folder.name), stat.S_IMODE(folder.mode) | 0o700)
        try:
            rename(entry, entry, old_fd=source, new_fd=goal)
        finally:
            os.close(goal)
    finally:
        os.close(source)


def restore_top(target: Target, fd: int, name: str, *, stamps: tuple[int, int] | None = None) -> Kept:
    """Bring the whole target back: in one rename, or into the folder that stands there by now, over nothing.

    ``stamps``: the parent's time of change before and after it was moved away; the first is set again when nothing
    else changed the parent since. Raises OSError when nothing of it could go back.
    """
    above, _, own = target.text().rpartition("/")
    parent = open_or_make(above or "/")
    try:
        before = os.fstat(parent)
        kept: Kept = []
        try:
            rename(name, own, old_fd=fd, new_fd=parent)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV) or target.row is not None:
                raise
            kept = _merge(target, fd, name, parent, own, error)
        if stamps and before.st_mtime_ns == stamps[1]:
            _try(lambda: os.utime(parent, ns=(before.st_atime_ns, stamps[0])))
        return kept
    finally:
        os.close(parent)


def _merge(target: Target, fd: int, name: str, parent: int, own: str, error: OSError) -> Kept:
    if not _both_folders(name, fd, own, parent):
        if error.errno != errno.EXDEV:
            raise error
        os.mkdir(own, stat.S_IMODE(target.dirs[0].mode) | 0o700, dir_fd=parent)
    times = {(d.dev, d.ino): d.mtime_ns for d in target.dirs}
    return _Merge(times).run(fd, name, parent, own)


def _both_folders(old: str, old_fd: int, new: str, new_fd: int) -> bool:
    try:
        modes = [os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode for name, fd in ((old, old_fd), (new, new_fd))]
    except FileNotFoundError:
        return False
    return all(map(stat.S_ISDIR, modes))


class _Merge:
    """Moves what lies in one folder into another, at any depth; what exists there is kept, and told."""

    def __init__(self, times: dict[Key, int]) -> None:
        self._times = times  # of the planned folders themselves, where they stayed at their place
        self._kept: Kept = []

    def run(self, source_fd: int, name: str, goal_fd: int, own: str) -> Kept:
        source, goal = tree.Cursor(source_fd), tree.Cursor(goal_fd)
        todo = [(0, name, own, "")]
        entered: list[str] = []

        def leave() -> None:
            status = os.fstat(goal.fd)
            if (time := self._times.get((status.st_dev, status.st_ino))) is not None:
                os.utime(goal.fd, ns=(status.st_atime_ns, time))
            source.leave()
            goal.leave()
            _remove_folder(entered.pop(), source.fd)

        try:
            while todo:
                depth, name, own, where = todo.pop()
                while source.depth > depth:
                    leave()
                try:
                    source.enter(name)
                except OSError as error:
                    self._kept.append((where, error))
                    continue
                try:
                    goal.enter(own)
                except OSError as error:
                    source.leave()
                    self._kept.append((where, error))
                    continue
                entered.append(name)
                todo += [(depth + 1, n, n, f"{where}/{n}".strip("/")) for n in self._entries(source.fd, goal.fd, where)]
            while entered:
                leave()
        finally:
            source.close()
            goal.close()
        return self._kept

    def _entries(self, source: int, goal: int, where: str) -> list[str]:
        """Move all entries of one folder; the names of those subfolders that must be merged in turn."""
        below = []
        for name in os.listdir(source):
            try:
                rename(name, name, old_fd=source, new_fd=goal)
            except OSError as error:
                if _both_folders(name, source, name, goal):
                    below.append(name)
                elif error.errno == errno.EXDEV and stat.S_ISDIR(
                    os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
                ):
                    os.mkdir(name, 0o700, dir_fd=goal)
                    below.append(name)
                else:
                    self._kept.append((f"{where}/{name}".strip("/"), error))
        return below


def mend_mode(target: Target) -> None:
    """Take back the write permission that ``rename`` gave for the moment, when it was killed in between."""
    above, _, name = target.text().rpartition("/")
    try:
        fd = tree.open_below(parent := tree.open_folder(above or "/"), [name])
        os.close(parent)
    except OSError:
        return
    top = target.dirs[0]
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) == (top.dev, top.ino) and status.st_mode == top.mode | 0o200:
        _try(lambda: os.fchmod(fd, stat.S_IMODE(top.mode)))
    os.close(fd)
