"""One batch: paths renamed into a private folder, compared there with the plan, and then kept, put back or deleted.

A rename takes a whole tree out of everybody's way at once. What is found in it that the plan did not show (a new file,
one that was changed or swapped) goes back to its old place. Deleting removes only names whose
device, inode, type, size and time of change are those of the plan, each looked at right before its unlink.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from services.storage import paths
from services.storage.cleaning import moving, tree
from services.storage.cleaning.records import Dir, Row, StoredPlan, Target, same
from services.storage.pool import processors
from services.storage.reclaim import Held
from services.turns import short_turns

Foreign = dict[tuple[int, str], str]
"""Entries that don't go, and why: the folder's place in the target's list (-1: the target itself), and the name."""

CHANGED = "It was changed after the plan was made."
NEW = "It appeared after the plan was made."


AT_TWO = 2000
"""Files of a target from which on two threads delete it."""


def _nothing(_: str) -> None:
    return None


class Batch:
    """The moved paths of one plan. ``step`` is called with the name of each step before it begins.

    ``folders`` is the batch's own folder for each target; ``rebuilt`` the targets that were moved entry by entry;
    ``held`` what had to stay or went back. ``files``, ``bytes`` and ``freed`` add up what was moved or deleted.
    """

    def __init__(
        self,
        stored: StoredPlan,
        folders: list[str],
        *,
        stop: threading.Event,
        report: Callable[[int], None],
        step: Callable[[str], None] = _nothing,
    ) -> None:
        self.targets = stored.targets
        self.folders = folders
        self.rebuilt: set[int] = set()
        self.stamps: dict[int, tuple[int, int]] = {}
        self.held: list[Held] = []
        self.files = self.bytes = self.freed = 0
        self.step = step
        self._stop = stop
        self._report = report
        self._counting = threading.Lock()

    @contextlib.contextmanager
    def folder(self, n: int) -> Iterator[int]:
        """A descriptor of the batch's folder that holds target ``n``. Raises OSError."""
        fd = tree.open_folder(self.folders[n])
        try:
            yield fd
        finally:
            os.close(fd)

    def lies_there(self, n: int) -> bool:
        """Whether target ``n``, or a part of it, lies in the batch."""
        try:
            with self.folder(n) as fd:
                os.stat(str(n), dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def has(self, n: int, index: int, name: str) -> bool:
        """Whether an entry of target ``n`` still lies in the batch: ``name`` in its folder ``index``, "" that folder.

        ``index`` is -1 for a target that is no folder.
        """
        target = self.targets[n]
        names = [str(n), *(target.where(index, name) if index >= 0 else [])]
        if target.row is not None:
            planned = (target.row[1], target.row[2])
        elif name:
            row = target.dirs[index].rows[target.dirs[index].entries().index(name)]
            planned = (row[1], row[2])
        else:
            planned = (target.dirs[index].dev, target.dirs[index].ino)
        try:
            with self.folder(n) as fd:
                parent = tree.open_below(fd, names[:-1])
        except OSError:
            return False
        try:
            return tree.key_of(os.stat(names[-1], dir_fd=parent, follow_symlinks=False)) == planned
        except OSError:
            return False
        finally:
            os.close(parent)

    def hold(self, n: int, reason: str, index: int = 0, name: str = "") -> None:
        """Note that something stays."""
        self.held.append(Held(paths.shown(self.targets[n].path_of(index, name)), reason))

    # In

    def move(self, n: int, on_rebuild: Callable[[], None]) -> bool:
        """Rename target ``n`` into the batch; false when it stays, with the reason in ``held``.

        ``on_rebuild`` is called before it is moved entry by entry, which an overlay's lower layers need.
        """
        target = self.targets[n]
        above, _, name = target.text().rpartition("/")
        try:
            parent = tree.open_folder(above or "/")
        except OSError as error:
            self.hold(n, f"The folder it lay in can't be reached any more: {error.strerror}.")
            return False
        try:
            status = os.fstat(parent)
            if (status.st_dev, status.st_ino) != (target.parent_dev, target.parent_ino):
                self.hold(n, "The folder it lay in was replaced after the plan was made.")
                return False
            if not _is_planned(target, parent, name):
                self.hold(n, CHANGED)
                return False
            self.step("move")
            self._rename(n, parent, name, on_rebuild)
            self.stamps[n] = (status.st_mtime_ns, os.fstat(parent).st_mtime_ns)
            return True
        except OSError as error:
            self.hold(n, _why_not_moved(error))
            if n in self.rebuilt:
                self.restore(n)
            return False
        finally:
            os.close(parent)

    def _rename(self, n: int, parent: int, name: str, on_rebuild: Callable[[], None]) -> None:
        with self.folder(n) as fd:
            try:
                moving.rename(name, str(n), old_fd=parent, new_fd=fd)
            except OSError as error:
                if error.errno != errno.EXDEV or self.targets[n].row is not None:
                    raise
                self.rebuilt.add(n)
                on_rebuild()
                moving.rebuild(self.targets[n], parent, name, fd, str(n))

    # Comparing

    def verify(self, n: int) -> None:
        """Compare target ``n`` with the plan; what the plan did not show goes back. Raises Stopped."""
        target = self.targets[n]
        foreign: Foreign = {}
        with self.folder(n) as fd:
            if target.row is not None:
                if same(os.stat(str(n), dir_fd=fd, follow_symlinks=False), target.row):
                    self.files += 1
                else:
                    foreign[-1, ""] = CHANGED
            else:
                below = _children(target)
                for index, here in self._walk(n, fd, foreign):
                    self._compare(target.dirs[index], index, below[index], here, foreign)
        self._put_back(n, foreign)
        size = _size_without(target, foreign) if foreign else 0
        self.bytes += size if foreign else target.size
        self.freed += size if foreign else target.freed
        self._report(self.files)

    def _walk(
        self,
        n: int,
        fd: int,
        foreign: Foreign,
        leaving: Callable[[int, int], None] | None = None,
        part: range | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Each folder of the plan, or of a ``part`` of it, that is still the planned one, parents first, with its
        descriptor.

        Others are foreign; vanished ones are passed over. ``leaving`` is called with a finished folder's place and
        its parent's descriptor, also for folders above the part.
        """  # fmt: skip
        dirs = self.targets[n].dirs
        part = part or range(len(dirs))
        cursor = tree.Cursor(fd)
        entered: list[int] = []
        lost = -1  # depth of a folder whose content is passed over

        def leave() -> None:
            cursor.leave()
            index = entered.pop()
            if leaving is not None:
                leaving(index, cursor.fd)

        try:
            for index in (*_above(dirs, part), *part):
                folder = dirs[index]
                if self._stop.is_set():
                    raise tree.Stopped
                if lost >= 0 and folder.depth > lost:
                    continue
                lost = -1
                while cursor.depth > folder.depth:
                    leave()
                if self._enter(cursor, n, index, foreign):
                    entered.append(index)
                    if index in part:
                        yield index, cursor.fd
                else:
                    lost = folder.depth
            while entered:
                leave()
        finally:
            cursor.close()

    def _enter(self, cursor: tree.Cursor, n: int, index: int, foreign: Foreign) -> bool:
        folder = self.targets[n].dirs[index]
        name = os.fsdecode(folder.name) if index else ""
        try:
            status = cursor.enter(name or str(n))
        except FileNotFoundError:
            return False
        except OSError:
            foreign[folder.parent, name] = CHANGED
            return False
        if (status.st_dev, status.st_ino) == (folder.dev, folder.ino) or n in self.rebuilt:
            return True
        cursor.leave()
        foreign[folder.parent, name] = CHANGED
        return False

    def _compare(self, folder: Dir, index: int, below: set[str], fd: int, foreign: Foreign) -> None:
        expected = dict(zip(folder.entries(), folder.rows, strict=True))
        with os.scandir(fd) as entries:
            for entry in entries:
                row = expected.get(entry.name)
                try:
                    if row is not None and same(entry.stat(follow_symlinks=False), row):
                        self.files += 1
                    elif row is not None:
                        foreign[index, entry.name] = CHANGED
                    elif not (entry.name in below and entry.is_dir(follow_symlinks=False)):
                        foreign[index, entry.name] = CHANGED if entry.name in below else NEW
                except FileNotFoundError:
                    continue

    # Back

    def _put_back(self, n: int, foreign: Foreign) -> None:
        """Return entries to where they were, never over anything; each is noted in ``held``."""
        for (index, name), reason in foreign.items():
            self.step("put back")
            try:
                with self.folder(n) as fd:
                    if index < 0:
                        moving.restore_top(self.targets[n], fd, str(n), stamps=self.stamps.get(n))
                    else:
                        moving.restore_entry(self.targets[n], fd, str(n), index, name)
            except FileNotFoundError:
                continue  # it went by itself
            except OSError as error:
                reason += f" It lies in the trash, since it can't go back: {said(error)}"
            self.hold(n, reason, max(index, 0), name)

    def restore(self, n: int) -> list[Held]:
        """Bring target ``n`` back whole. What could not go back stays in the batch, and is returned with the reason."""
        target = self.targets[n]
        if not self.lies_there(n):
            if target.dirs:
                moving.mend_mode(target)
            return []
        self.step("restore")
        try:
            with self.folder(n) as fd:
                kept = moving.restore_top(target, fd, str(n), stamps=self.stamps.get(n))
        except OSError as error:
            kept = [("", error)]
        return [Held(paths.shown("/".join(filter(None, [target.text(), where]))), said(e)) for where, e in kept]

    # Gone

    def purge(self, n: int) -> None:
        """Delete what target ``n`` consists of by the plan; what the plan did not show goes back. Raises Stopped."""
        target = self.targets[n]
        foreign: Foreign = {}
        full: list[int] = []
        with self.folder(n) as fd:
            if target.row is not None:
                self._unlink([str(n)], [target.row], fd, -1, foreign)
            half = _half(target)
            if half:
                self._purge_at_two(n, fd, half, foreign, full)
            else:
                self._purge_folders(n, fd, range(len(target.dirs)), foreign, full)
            full = sorted(set(full), reverse=True)  # what lies below first
            for index in full:
                self._find_new(n, fd, index, foreign)
        if target.row is not None and (-1, str(n)) in foreign:
            foreign = {(-1, ""): foreign[-1, str(n)]}
        self._put_back(n, foreign)
        with self.folder(n) as fd:
            for index in full:
                self._remove_folder(n, fd, index)

    def _purge_at_two(self, n: int, fd: int, half: int, foreign: Foreign, full: list[int]) -> None:
        """Have a second thread delete from the folder ``half`` on: nearly all of the time is the system's."""
        every = range(len(self.targets[n].dirs))
        with short_turns(), ThreadPoolExecutor(1) as other:
            rest = other.submit(self._purge_folders, n, fd, every[half:], foreign, full)
            self._purge_folders(n, fd, every[:half], foreign, full)
            rest.result()

    def _purge_folders(self, n: int, fd: int, part: range, foreign: Foreign, full: list[int]) -> None:
        """Delete the planned files of some folders, and the folders that are then empty; the others are ``full``."""
        target = self.targets[n]

        def leaving(index: int, parent: int) -> None:
            name = os.fsdecode(target.dirs[index].name) if index else str(n)
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError:
                full.append(index)
            else:
                self._count(0, target.dirs[index].blocks)

        for index, here in self._walk(n, fd, foreign, leaving, part):
            folder = target.dirs[index]
            self.step("delete")
            if not folder.mode & 0o200 and os.geteuid():
                os.fchmod(here, stat.S_IMODE(folder.mode) | 0o700)
            self._unlink(folder.entries(), folder.rows, here, index, foreign)
            if not part.start:
                self._report(self.files)

    def _count(self, files: int, blocks: int) -> None:
        with self._counting:
            self.files += files
            self.freed += blocks * 512

    def _unlink(self, names: list[str], rows: list[Row], fd: int, index: int, foreign: Foreign) -> None:
        """Delete each name that still is the planned file; looked at right before, one by one."""
        look, unlink = os.stat, os.unlink
        files = blocks = 0
        for name, row in zip(names, rows, strict=True):
            try:
                status = look(name, dir_fd=fd, follow_symlinks=False)
                if not same(status, row):
                    foreign[index, name] = CHANGED
                    continue
                unlink(name, dir_fd=fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                foreign[index, name] = f"It can't be deleted: {error.strerror}."
                continue
            files += 1
            if status.st_nlink == 1:
                blocks += status.st_blocks
        self._count(files, blocks)

    def _find_new(self, n: int, fd: int, index: int, foreign: Foreign) -> None:
        """Note what is left in a folder that could not be removed, other than planned subfolders."""
        target = self.targets[n]
        below = {os.fsdecode(d.name) for d in target.dirs if d.parent == index}
        try:
            here = tree.open_below(fd, [str(n), *target.where(index)])
        except OSError:
            return
        try:
            for name in os.listdir(here):
                if name not in below:
                    foreign.setdefault((index, name), NEW)
        finally:
            os.close(here)

    def _remove_folder(self, n: int, fd: int, index: int) -> None:
        above = [str(n), *self.targets[n].where(index)]
        with contextlib.suppress(OSError):
            parent = tree.open_below(fd, above[:-1])
            try:
                os.rmdir(above[-1], dir_fd=parent)
                self.freed += self.targets[n].dirs[index].blocks * 512
            finally:
                os.close(parent)


def _half(target: Target) -> int:
    """The folder from which on a second thread deletes, about half of the files; 0 if that is not worth it."""
    total = sum(len(folder.rows) for folder in target.dirs)
    if total < AT_TWO or processors() < 2:
        return 0
    files = 0
    for index, folder in enumerate(target.dirs):
        if files * 2 >= total:
            return index
        files += len(folder.rows)
    return 0


def _above(dirs: list[Dir], part: range) -> list[int]:
    """The folders on the way to the first of ``part``, the top first."""
    above = []
    index = dirs[part.start].parent if part else -1
    while index >= 0:
        above.append(index)
        index = dirs[index].parent
    return above[::-1]


def _is_planned(target: Target, parent: int, name: str) -> bool:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if target.row is not None:
        return same(status, target.row)
    top = target.dirs[0]
    return stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) == (top.dev, top.ino)


def _size_without(target: Target, foreign: Foreign) -> int:
    """About the bytes of a target of which some went back: planned files with one name that did not."""
    if target.row is not None or (-1, "") in foreign:
        return 0
    blocks = 0
    for index, folder in enumerate(target.dirs):
        for name, row in zip(folder.entries(), folder.rows, strict=True):
            blocks += row[5] if row[6] == 1 and (index, name) not in foreign else 0
    return blocks * 512


def _children(target: Target) -> list[set[str]]:
    """For each folder of the target, the names of its planned subfolders."""
    below: list[set[str]] = [set() for _ in target.dirs]
    for folder in target.dirs[1:]:
        below[folder.parent].add(os.fsdecode(folder.name))
    return below


def _why_not_moved(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "It was moved or deleted after the plan was made.",
        errno.EXDEV: "It lies on another file system than any trash that could be made.",
        errno.EBUSY: "Something is mounted there, or the system uses it.",
        errno.EROFS: "It lies on a file system that is mounted read-only.",
        errno.ENOSPC: "The disk is too full even to move it.",
    }
    if error.errno in (errno.EACCES, errno.EPERM):
        return "You may not move it: it, or the folder it lies in, belongs to another user."
    return reasons.get(error.errno or 0, f"It can't be moved: {error.strerror}.")


def said(error: OSError) -> str:
    """Why something could not go back, as a sentence."""
    reasons = {
        errno.EEXIST: "Its old place is taken.",
        errno.ENOTDIR: "A folder above its old place has become a file or a symbolic link.",
        errno.ELOOP: "A folder above its old place has become a symbolic link.",
        errno.EROFS: "Its old place lies on a file system that is mounted read-only.",
        errno.EACCES: "You may not write to its old place.",
        errno.EPERM: "You may not write to its old place.",
        errno.ENOSPC: "The disk is too full.",
    }
    return reasons.get(error.errno or 0, f"{error.strerror}.")
