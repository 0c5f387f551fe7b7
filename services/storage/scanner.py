"""What fills a folder, as ``du`` counts it, in one thread and while it is still counting.

Bytes are allocated blocks (``st_blocks`` of 512), folders included, and a file with several names counts once: the
total equals ``du -s -x -B1`` to the byte, and ``du -s -B1`` where no other file system is mounted below or
``cross_mounts`` is on. (One difference to ``-x``: a single file that is mounted over another, as containers do with
/etc/hosts, is counted; on overlay file systems a file's device number says nothing.) Symbolic links are counted,
never followed. Apparent bytes are the lengths of regular files and symbolic links.

Every folder is opened relative to its parent's descriptor, so neither the depth of a tree nor the length of a path
is limited, and a folder swapped for a symbolic link during the scan is not entered.
"""

from __future__ import annotations

import heapq
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator

from services.errors import BadInput
from services.storage import paths
from services.storage.types import Folder, Scan

MAX_OPEN = 128
"""Folders on the way down whose descriptors are kept open; those above are reopened through ".." when needed."""

MAX_UNREADABLE = 100
"""Unreadable folders that are named; all are counted."""

FIRST_PARTIAL = 0.1
PARTIAL_EVERY = 0.2
"""Seconds until the first result so far, and between those after it."""

_TYPE = 0o170000  # the bits of st_mode that tell files, folders and links apart
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Level:
    """One folder on the way from the root to where the scan is, with the sums of what is finished below it."""

    __slots__ = (
        "apparent", "below", "blocks", "device", "directories", "fd", "files", "inode", "name", "newest", "todo",
        "unreadable",
    )  # fmt: skip

    def __init__(self, name: str, status: os.stat_result, fd: int) -> None:
        self.name = name
        self.fd = fd  # -1 while closed
        self.device = status.st_dev
        self.inode = status.st_ino
        self.blocks = status.st_blocks  # of 512 bytes
        self.apparent = 0
        self.files = 0
        self.directories = 1
        self.newest = 0.0
        self.below = 0  # blocks of the largest subfolder
        self.todo: list[str] = []
        self.unreadable = False


class _Largest:
    """The ``limit`` largest of the rows given to it, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._heap: list[tuple[int, int, Folder]] = []
        self._order = itertools.count()

    def accepts(self, size: int) -> bool:
        """Whether a row of ``size`` bytes would be kept."""
        return len(self._heap) < self.limit or (self.limit > 0 and size > self._heap[0][0])

    def add(self, row: Folder) -> None:
        item = (row.bytes, -next(self._order), row)
        if len(self._heap) < self.limit:
            heapq.heappush(self._heap, item)
        elif self.limit > 0:
            heapq.heappushpop(self._heap, item)

    def rows(self, *more: Folder) -> tuple[Folder, ...]:
        """Largest first, with ``more`` competing for the places."""
        rows = [item[2] for item in self._heap]
        return tuple(sorted([*rows, *more], key=lambda row: (-row.bytes, row.path))[: self.limit])


class Scanner:
    """One scan of one folder; ``run`` works in the calling thread.

    ``path`` is as ``paths.actual`` gives it. ``top`` bounds the rows of ``Scan.folders`` and of ``Scan.largest``.
    ``on_partial`` is called from the scanning thread with the result so far, at most five times a second. Setting
    ``cancelled`` stops the scan soon, from any thread.

    Raises BadInput at construction when ``path`` is not a readable folder.
    """

    def __init__(
        self,
        path: str,
        *,
        top: int = 20,
        cross_mounts: bool = False,
        on_partial: Callable[[Scan], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._path = path
        self._text = paths.shown(path)
        self._cross = cross_mounts
        self._on_partial = on_partial
        self._cancelled = cancelled or threading.Event()
        self._children = _Largest(top)
        self._largest = _Largest(top)
        self._links: set[int | tuple[int, int]] = set()
        self._unreadable: list[str] = []
        self._unreadable_count = 0
        self._mounts: list[str] = []
        self._stack: list[_Level] = []
        self._closed = 0  # levels [0, closed) of the stack have no open descriptor
        self.clock = time.monotonic
        self._started = self._next_partial = self.clock()
        fd = paths.open_folder(path)
        self._root = _Level(path, os.fstat(fd), fd)

    def run(self) -> Scan:
        """Scan to the end, or until cancelled (``complete`` is then false).

        Files that vanish meanwhile are left out; folders that can't be read are counted and named.
        """
        self._started = self.clock()
        self._next_partial = self._started + FIRST_PARTIAL
        stack = self._stack
        stack.append(self._root)
        complete = False
        try:
            self._list(self._root)
            while not self._cancelled.is_set():
                level = stack[-1]
                if level.todo:
                    self._enter(level, level.todo.pop())
                elif len(stack) > 1:
                    self._leave()
                else:
                    complete = True
                    break
            return self._result(complete)
        finally:
            for level in stack:
                if level.fd >= 0:
                    os.close(level.fd)

    def _list(self, level: _Level) -> None:
        """Add up the files of an open folder and note its subfolders."""
        blocks = apparent = files = 0
        newest = 0.0
        todo = level.todo
        rows = self._children if level is self._root else None
        try:
            with os.scandir(level.fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.name)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted since it was listed
                    except OSError:
                        self._note_unreadable(level)
                        continue
                    files += 1
                    if not files & 1023:
                        self._tick(level, blocks, apparent, files)
                        if self._cancelled.is_set():
                            break
                    if status.st_nlink > 1 and self._seen(status):
                        continue
                    blocks += status.st_blocks
                    kind = status.st_mode & _TYPE
                    if kind == stat.S_IFREG:
                        apparent += status.st_size
                        if status.st_atime > newest:  # max() takes three times as long
                            newest = status.st_atime
                        if status.st_mtime > newest:
                            newest = status.st_mtime
                    elif kind == stat.S_IFLNK:
                        apparent += status.st_size
                    if rows is not None and rows.accepts(status.st_blocks * 512):
                        rows.add(self._row_of_file(entry.name, status))
        except OSError:  # the folder itself fails while it is read, as a bad disk or a lost mount does
            self._note_unreadable(level)
        level.blocks += blocks
        level.apparent += apparent
        level.files += files
        level.newest = newest

    def _seen(self, status: os.stat_result) -> bool:
        """Whether another name of this file was counted already."""
        same = status.st_dev == self._root.device
        key = status.st_ino if same else (status.st_dev, status.st_ino)
        if key in self._links:
            return True
        self._links.add(key)
        return False

    def _enter(self, parent: _Level, name: str) -> None:
        """Open the subfolder ``name``, list it, put it on the stack. An unreadable one counts with its own blocks."""
        if parent.fd < 0 and not self._reopen(parent):
            parent.todo.clear()  # moved away or made unreadable under our hands
            return
        try:
            fd = os.open(name, _FLAGS, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            return  # deleted, or swapped for something else, since it was listed
        except OSError:
            self._count_closed(parent, name)
            return
        level = _Level(name, os.fstat(fd), fd)
        if level.device != parent.device and not self._cross:
            os.close(fd)
            if len(self._mounts) < MAX_UNREADABLE:
                self._mounts.append(self._name_of(self._stack, name))
            return
        self._stack.append(level)
        if len(self._stack) - self._closed > MAX_OPEN:
            self._close_highest()
        self._list(level)
        if self.clock() >= self._next_partial:
            self._tick()

    def _count_closed(self, parent: _Level, name: str) -> None:
        """Count a subfolder that may not be opened with its own blocks, as far as even these may be seen."""
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:
            self._note_unreadable(parent)
            return
        if stat.S_ISDIR(status.st_mode):  # else a symbolic link by now
            level = _Level(name, status, -1)
            self._note_unreadable(level)
            self._stack.append(level)

    def _leave(self) -> None:
        """Take the finished folder off the stack and add its sums to its parent's."""
        level = self._stack.pop()
        parent = self._stack[-1]
        depth = len(self._stack)
        if depth <= self._closed:
            self._closed = depth - 1
            self._reopen_from_child(parent, level)
        if level.fd >= 0:
            os.close(level.fd)
        parent.blocks += level.blocks
        parent.apparent += level.apparent
        parent.files += level.files
        parent.directories += level.directories
        parent.newest = max(parent.newest, level.newest)
        parent.below = max(parent.below, level.blocks)
        size = level.blocks * 512
        if level.below * 2 <= level.blocks and self._largest.accepts(size):
            self._largest.add(self._row(self._name_of(self._stack, level.name), level))
        if depth == 1 and self._children.accepts(size):
            self._children.add(self._row(self._name_of(self._stack, level.name), level))

    # Descriptors: at most MAX_OPEN at a time, in trees of any depth

    def _close_highest(self) -> None:
        level = self._stack[self._closed]
        if level.fd >= 0:
            os.close(level.fd)
            level.fd = -1
        self._closed += 1

    def _reopen_from_child(self, parent: _Level, child: _Level) -> None:
        """Open ``parent`` through its child's ".."; it stays closed when that is no longer the same folder."""
        if child.fd < 0:
            return
        try:
            fd = os.open("..", _FLAGS, dir_fd=child.fd)
        except OSError:
            return
        self._adopt(parent, fd)

    def _reopen(self, level: _Level) -> bool:
        """Open the last level of the stack from the root down, checking that each folder is still the same one."""
        try:
            fd = paths.open_folder(self._path)
            for below in self._stack[1:]:
                above = fd
                try:
                    fd = os.open(below.name, _FLAGS, dir_fd=above)
                finally:
                    os.close(above)
        except (OSError, BadInput):
            self._note_unreadable(level)
            return False
        if not self._adopt(level, fd):
            self._note_unreadable(level)
            return False
        return True

    @staticmethod
    def _adopt(level: _Level, fd: int) -> bool:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (level.device, level.inode):
            os.close(fd)
            return False
        level.fd = fd
        return True

    # Results

    def _note_unreadable(self, level: _Level) -> None:
        if level.unreadable:
            return
        level.unreadable = True
        self._unreadable_count += 1
        if len(self._unreadable) < MAX_UNREADABLE:
            above = self._stack[: self._stack.index(level)] if level in self._stack else self._stack
            self._unreadable.append(self._name_of(above, level.name) if above else self._text)

    def _tick(self, level: _Level | None = None, blocks: int = 0, apparent: int = 0, files: int = 0) -> None:
        """Report the result so far when it is time; the sums are those of ``level`` not yet noted in it."""
        now = self.clock()
        if self._on_partial is None or now < self._next_partial:
            return
        if level is None:
            self._on_partial(self._result(False))
        else:
            before = level.blocks, level.apparent, level.files
            level.blocks, level.apparent, level.files = blocks + before[0], apparent + before[1], files + before[2]
            self._on_partial(self._result(False))
            level.blocks, level.apparent, level.files = before
        self._next_partial = self.clock() + PARTIAL_EVERY

    def _result(self, complete: bool) -> Scan:
        blocks = sum(level.blocks for level in self._stack)
        apparent = sum(level.apparent for level in self._stack)
        files = sum(level.files for level in self._stack)
        folders = self._children.rows(*self._unfinished_child())
        rest = Folder(
            self._text,
            blocks * 512 - sum(row.bytes for row in folders),
            apparent - sum(row.apparent_bytes for row in folders),
            files - sum(row.files for row in folders),
            None,
            "rest",
        )
        return Scan(
            path=self._text,
            total_bytes=blocks * 512,
            apparent_bytes=apparent,
            files=files,
            directories=sum(level.directories for level in self._stack),
            seconds=self.clock() - self._started,
            complete=complete,
            folders=(*folders, rest),
            largest=self._largest.rows(),
            unreadable=tuple(self._unreadable),
            unreadable_count=self._unreadable_count,
            other_mounts=tuple(self._mounts),
            last_used=max(level.newest for level in self._stack) or None,
        )

    def _unfinished_child(self) -> Iterator[Folder]:
        """The child of the root that the scan is in, with its sums so far."""
        inside = self._stack[1:]
        if not inside:
            return
        yield Folder(
            self._name_of(self._stack[:1], inside[0].name),
            sum(level.blocks for level in inside) * 512,
            sum(level.apparent for level in inside),
            sum(level.files for level in inside),
            max(level.newest for level in inside) or None,
        )

    @staticmethod
    def _row(path: str, level: _Level) -> Folder:
        return Folder(path, level.blocks * 512, level.apparent, level.files, level.newest or None)

    def _row_of_file(self, name: str, status: os.stat_result) -> Folder:
        regular = stat.S_ISREG(status.st_mode)
        apparent = status.st_size if regular or stat.S_ISLNK(status.st_mode) else 0
        used = max(status.st_atime, status.st_mtime) if regular else None
        return Folder(self._name_of([self._root], name), status.st_blocks * 512, apparent, 1, used, "file")

    @staticmethod
    def _name_of(above: list[_Level], name: str) -> str:
        path = "/".join([above[0].name.rstrip("/"), *(level.name for level in above[1:]), name])
        return paths.shown(path)
