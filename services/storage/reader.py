"""Reading the folders of a tree, those of each branch in preorder, into columns of numbers.

This much of a scan runs in the scanning thread (``scanner.Scanner``) and in its helper process (``helper``) alike, so
it imports nothing that takes long to import.
"""

from __future__ import annotations

import heapq
import itertools
import os
import stat
import threading
from typing import TYPE_CHECKING

from services.storage.branches import Branch, Child, Todo
from services.storage.earlier import Earlier
from services.storage.tree import AGAIN, LINKS, UNREADABLE, LargeFile, Part, join
from services.storage.walk import FLAGS, Opener, Place

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_UNREADABLE = 100
"""Unreadable folders that are named; all are counted."""

KEPT_LARGE = 200
"""Largest files that are remembered by name."""

RECENT = 6 * 3600.0
"""Seconds: a file written to so shortly before it was read may be written to again, without its folder showing it."""

LARGE_BLOCKS = 16 * 2**20 // 512
"""Blocks of a file that is looked at in each scan."""

_TYPE = 0o170000  # the bits of st_mode that tell files, folders and links apart


class Reader:
    """Reads folders below the one that ``opener`` has as its root; see ``scanner.Scanner`` for the rest."""

    _path: str
    _earlier: Earlier | None = None
    _on_file: Callable[[str, int, int], None] | None = None
    _root: Part

    def __init__(self, opener: Opener, cross_mounts: bool, settled: float, cancelled: threading.Event | None) -> None:
        self._opener = opener
        self._cross = cross_mounts
        self._settled = settled
        self._cancelled = cancelled or threading.Event()
        self._since = 0.0

    def _reset(self) -> None:
        self._links: set[int | tuple[int, int]] = set()
        self._fresh: dict[tuple[int, int], tuple[int, int]] = {}  # sizes read now of files with several names
        self._new_links: dict[tuple[int, int], int] = {}  # how many names those have whose number changed
        self._unreadable: list[str] = []
        self._unreadable_count = 0
        self._mounts: list[str] = []
        self._again = 0  # flags of the folder that is being read
        self._large: list[tuple[int, int, Part, LargeFile]] = []  # heap of the largest files anywhere
        self._order = itertools.count()
        self._gate = -1  # a file of more blocks is looked at
        self._root = Part([])
        self._root.above.append((self._root, 0))

    def _begin(self, began: float) -> None:
        """Take down when the scan began, in Unix time."""
        self._began = began
        self._unsettled, self._recent = began - self._settled, began - RECENT

    def _tick(self) -> None:
        """Called now and then while a folder of many files is read."""

    def _look_at_own(self, name: str, info: os.stat_result, size: int, used: float, first: bool) -> None:
        """Called for each file that lies in the scanned folder itself."""

    def _visit(self, branch: Branch) -> None:
        """Read the next folder of ``branch``, or take it over from the earlier tree, and note its subfolders."""
        todo = branch.todo.pop()
        parent, name, inode, place, path, before, _ = todo
        if parent < 0:
            branch.reach(-1 - parent)
        child = branch.children[branch.position]
        if before >= 0 and self._reuse(branch, child, todo):
            return
        try:
            fd = os.open(path, FLAGS, dir_fd=place.fd if place.fd >= 0 else self._opener.descriptor(place))
            status = os.fstat(fd)
            if status.st_ino != inode or status.st_dev != place.device:
                os.close(fd)
                fd, status = self._opener.open_by_parts(place, path)
        except (FileNotFoundError, NotADirectoryError):
            self._lost(branch, child, parent)  # deleted, or swapped for something else, since it was listed
            return
        except OSError:
            self._count_closed(branch, child, parent, name, place, path)
            return
        if status.st_dev != place.device and not self._cross:
            os.close(fd)
            self._leave_out(branch, child, parent, name)
            return
        branch.todo += self._read(branch.part, child, parent, name, fd, status, place, path, before)

    def _lost(self, branch: Branch, child: Child, parent: int) -> None:
        """A folder is not there, or not to be counted; if it was ``child`` itself, that gets no row."""
        child.gone |= parent < 0 and branch.owner(parent)[0] is self._root

    def _leave_out(self, branch: Branch, child: Child, parent: int, name: str) -> None:
        """Another file system is mounted here. It may be gone next time, without the parent showing it."""
        self._lost(branch, child, parent)
        part, row = branch.owner(parent)
        part.flags[row] = AGAIN
        if len(self._mounts) < MAX_UNREADABLE:
            self._mounts.append(join(self._name_of(part, row), name))

    def _count_closed(self, branch: Branch, child: Child, parent: int, name: str, place: Place, path: str) -> None:
        """Count a subfolder that may not be opened with its own blocks, as far as even these may be seen."""
        try:
            status = os.stat(path, dir_fd=self._opener.descriptor(place), follow_symlinks=False)
        except FileNotFoundError:
            self._lost(branch, child, parent)
            return
        except OSError:
            self._lost(branch, child, parent)
            self._note_unreadable(branch, parent)
            return
        if stat.S_ISDIR(status.st_mode):  # else a symbolic link by now
            part = branch.part
            part.values += (
                name, parent, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_blocks, 0, 0, 0, 0.0,
                AGAIN | UNREADABLE, len(part.link_inode),
            )  # fmt: skip
            child.blocks += status.st_blocks
            part.count += 1
            self._name_unreadable(part, part.count - 1)

    def _reuse(self, branch: Branch, child: Child, todo: Todo) -> bool:
        """Take over from the earlier tree what holds of the run that begins with ``todo``, as far as that is known now.

        The rest goes back to what is to be read, without the first folder when that has to be read itself: then false.
        """
        assert self._earlier is not None
        parent, name, _, place, path, start, stop = todo
        earlier, end = self._earlier, self._earlier.tree.end[start]
        fd = place.fd if place.fd >= 0 else self._opener.descriptor(place)
        held = earlier.holding(fd, path, start, earlier.reach(start, stop))
        taken = earlier.whole(held, start)
        rest = end if taken == start else taken
        if rest < stop:
            branch.todo.append(self._run(parent, place, path[: len(path) - len(name)], rest, stop))
        if held == start:
            return False
        if taken == start:  # something below it changed, or is too much to be looked at in one go
            branch.todo.append(self._run(branch.part.count, place, path + "/", start + 1, end))
            taken = start + 1
        self._take_over(branch.part, child, parent, start, taken)
        return True

    def _run(self, parent: int, place: Place, above: str, start: int, stop: int) -> Todo:
        assert self._earlier is not None
        tree = self._earlier.tree
        return parent, tree.names[start], tree.inode[start], place, above + tree.names[start], start, stop

    def _take_over(self, part: Part, child: Child, parent: int, start: int, stop: int) -> None:
        """Add the rows ``start:stop`` of the earlier tree to ``part``."""
        assert self._earlier is not None
        earlier, tree, row = self._earlier, self._earlier.tree, part.count
        links = part.take(tree, start, stop, parent)
        child.blocks += sum(tree.own[start:stop]) + sum(tree.blocks[start:stop])
        child.apparent += sum(tree.apparent[start:stop])
        child.files += sum(tree.files[start:stop])
        child.used = max(child.used, *tree.used[start:stop])
        for link in zip(*(getattr(tree, column)[links] for column in LINKS), strict=True):
            self._count_link(child, *link)
        for file in earlier.large(start, stop, row):
            self._remember(part, file)
        earlier.reused.append(range(start, stop))

    def _read(
        self, part: Part, child: Child, parent: int, name: str, fd: int, status: os.stat_result, place: Place,
        path: str, before: int,
    ) -> list[Todo]:  # fmt: skip
        """Add up the files of an open folder in a new row of ``part``; what is to be read below, the first last."""
        row, first_link = part.count, len(part.link_inode)
        child.blocks += status.st_blocks
        todo: list[tuple[str, int]] = []
        blocks = apparent = files = 0
        shown = shown_apparent = shown_files = 0  # what the child's sums have of these
        used = written = 0.0
        gate = -1 if part is self._root else self._gate
        self._again = 0
        may_have_folders = status.st_nlink != 2  # else none, on most file systems: "." and its name. If so, it is seen
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if may_have_folders and entry.is_dir(follow_symlinks=False):
                        todo.append((entry.name, entry.inode()))
                        continue
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted since it was listed
                    except OSError:
                        self._again = AGAIN | UNREADABLE
                        continue
                    files += 1
                    if not files & 1023:
                        child.blocks += blocks - shown
                        child.apparent += apparent - shown_apparent
                        child.files += files - shown_files
                        shown, shown_apparent, shown_files = blocks, apparent, files
                        self._tick()
                        if self._cancelled.is_set():
                            break
                    size = info.st_size
                    kind = info.st_mode & _TYPE
                    if kind == 0o100000:  # S_IFREG
                        if info.st_atime > used:  # max() takes three times as long
                            used = info.st_atime
                        if info.st_mtime > written:
                            written = info.st_mtime
                    elif kind != 0o120000:  # S_IFLNK
                        size = 0
                        if kind == 0o040000:  # S_IFDIR
                            files -= 1
                            todo.append((entry.name, entry.inode()))
                            continue
                    own = info.st_blocks
                    if info.st_nlink == 1:
                        blocks += own
                        apparent += size
                        if own > gate:
                            gate = self._look_at(part, row, entry.name, info, size, True)
                    else:
                        first = self._link(part, child, info, size)
                        if own > gate:
                            gate = self._look_at(part, row, entry.name, info, size, first)
        except OSError:  # the folder itself fails while it is read, as a bad disk or a lost mount does
            self._again = AGAIN | UNREADABLE
        if written > used:
            used = written
        flags = self._again
        if status.st_ctime > self._unsettled or status.st_mtime > self._unsettled or written > self._recent:
            flags |= AGAIN
        part.values += (
            name, parent, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_blocks, blocks, apparent,
            files, used, flags, first_link,
        )  # fmt: skip
        part.count = row + 1
        child.blocks += blocks - shown
        child.apparent += apparent - shown_apparent
        child.files += files - shown_files
        if used > child.used:
            child.used = used
        if flags & UNREADABLE:
            self._name_unreadable(part, row)
        if not todo:
            os.close(fd)
            return []
        todo.sort(reverse=True)
        above, start = self._opener.place(place, path, status, fd)
        os.close(fd)
        if before < 0 or self._earlier is None:
            return [(row, below, inode, above, start + below, -1, -1) for below, inode in todo]
        return self._runs(row, todo, above, start, before, part is self._root)

    def _runs(
        self, row: int, found: list[tuple[str, int]], place: Place, above: str, before: int, single: bool
    ) -> list[Todo]:
        """The subfolders ``found``, the last first; what the earlier tree has of them in runs, unless ``single``."""
        assert self._earlier is not None
        old, end = self._earlier.subfolders(before), self._earlier.tree.end
        todo: list[Todo] = []
        for name, inode in found:
            start = old.get(name, -1)
            stop = end[start] if start >= 0 else -1
            if todo and not single and 0 <= stop == todo[-1][5]:
                stop = todo.pop()[6]
            todo.append((row, name, inode, place, above + name, start, stop))
        return todo

    def _link(self, part: Part, child: Child, info: os.stat_result, size: int) -> bool:
        """Note one name of a file with several; whether it is the first."""
        part.link_inode.append(info.st_ino)
        part.link_device.append(info.st_dev)
        part.link_blocks.append(info.st_blocks)
        part.link_size.append(size)
        if self._earlier is not None:
            self._fresh[info.st_dev, info.st_ino] = info.st_blocks, size
            if info.st_ctime > self._since:  # linking a file changes its ctime
                self._new_links[info.st_dev, info.st_ino] = info.st_nlink
        return self._count_link(child, info.st_ino, info.st_dev, info.st_blocks, size)

    def _count_link(self, child: Child, inode: int, device: int, blocks: int, size: int) -> bool:
        """Count a file with several names where it is met first; the whole tree says later where it belongs."""
        key = inode if device == self._opener.root.device else (device, inode)
        if key in self._links:
            return False
        self._links.add(key)
        child.blocks += blocks
        child.apparent += size
        return True

    def _look_at(self, part: Part, row: int, name: str, info: os.stat_result, size: int, first: bool) -> int:
        """Remember a file that may be among the largest; the blocks from which on the next one is looked at."""
        blocks, linked = info.st_blocks, info.st_nlink > 1
        if blocks >= LARGE_BLOCKS:
            self._again |= AGAIN
        if self._on_file is not None and first:
            self._on_file(name, blocks, size)
        used = max(info.st_atime, info.st_mtime) if stat.S_ISREG(info.st_mode) else 0.0
        self._remember(part, LargeFile(row, name, blocks, size, used, info.st_ino if linked else 0))
        if part is not self._root:
            return self._gate
        self._look_at_own(name, info, size, used, first)
        return -1

    def _remember(self, part: Part, file: LargeFile) -> None:
        heap = self._large
        if len(heap) < KEPT_LARGE:
            heapq.heappush(heap, (file.blocks, next(self._order), part, file))
        elif file.blocks > heap[0][0]:
            heapq.heapreplace(heap, (file.blocks, next(self._order), part, file))
        if len(heap) == KEPT_LARGE and self._on_file is None:
            self._gate = min(heap[0][0], LARGE_BLOCKS - 1)

    def _note_unreadable(self, branch: Branch, parent: int) -> None:
        """What came out about a folder that has a row already."""
        part, row = branch.owner(parent)
        if not part.who(row)[2] & UNREADABLE:
            part.flags[row] = UNREADABLE | AGAIN
            self._name_unreadable(part, row)

    def _name_unreadable(self, part: Part, row: int) -> None:
        self._unreadable_count += 1
        if len(self._unreadable) < MAX_UNREADABLE:
            self._unreadable.append(self._name_of(part, row))

    def _name_of(self, part: Part, row: int) -> str:
        if part is self._root:
            return self._path
        parts = []
        while part is not self._root:
            name, parent, _ = part.who(row)
            parts.append(name)
            part, row = (part, parent) if parent >= 0 else part.above[-1 - parent]
        return join(self._path, "/".join(reversed(parts)))
