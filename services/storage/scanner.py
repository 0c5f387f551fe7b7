"""What fills a folder, as ``du`` counts it, in one thread and while it is still counting.

Bytes are allocated blocks (``st_blocks`` of 512), folders included, and a file with several names counts once: the
total equals ``du -s -x -B1`` to the byte, and ``du -s -B1`` where no other file system is mounted below or
``cross_mounts`` is on. (One difference to ``-x``: a single file that is mounted over another, as containers do with
/etc/hosts, is counted; on overlay file systems a file's device number says nothing.) Symbolic links are counted,
never followed. Apparent bytes are the lengths of regular files and symbolic links.

The subfolders of the scanned folder are read in turn, a few folders of each at a time, so that all of them grow on
screen together and the largest is seen to be so early.

A scan that is given the tree of an earlier one reads again only the folders in which a name was added, removed or
renamed since (that changes a folder's mtime and ctime), and those in which files are likely to grow in place (that does
not): where a file was written within ``RECENT`` before it was last read, or has ``LARGE_BLOCKS``. So the one change it
can't see is a smaller file, not written lately, that is written to in place in a folder left otherwise alone.
"""

from __future__ import annotations

import heapq
import itertools
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

from services.storage import paths
from services.storage.tree import AGAIN, LINKS, ROOT, UNREADABLE, WIDTH, LargeFile, Part, Tree, join
from services.storage.types import Folder, Scan
from services.storage.walk import FLAGS, LONG, Opener, Place

MAX_UNREADABLE = 100
"""Unreadable folders that are named; all are counted."""

FIRST_PARTIAL = 0.1
PARTIAL_EVERY = 0.2
"""Seconds until the first result so far, and between those after it."""

SLICE = 32
"""Folders read in one branch before the next has its turn."""

MAX_BRANCHES = 256
"""Parts that are read in turn; more subfolders than that share them."""

KEPT_LARGE = 200
"""Largest files that are remembered by name."""

RECENT = 6 * 3600.0
"""Seconds: a file written to so shortly before it was read may be written to again, without its folder showing it."""

LARGE_BLOCKS = 16 * 2**20 // 512
"""Blocks of a file that is looked at in each scan."""

SETTLED = 2.0
"""Seconds for which a folder must have been left alone to be trusted: a change within the same tick of the file
system's clock (2 s on FAT, 1 s on ext3) as the reading would not show."""

_TYPE = 0o170000  # the bits of st_mode that tell files, folders and links apart

_Todo = tuple[int, str, "int | None", Place, str, int]
"""A folder to read: its parent's row, name, inode as listed, what its path is relative to, path, row in the earlier
tree or -1."""


class _Child:
    """A subfolder of the scanned folder with its sums so far."""

    __slots__ = ("apparent", "before", "blocks", "files", "finished", "gone", "name", "used")

    def __init__(self, name: str, before: int | None) -> None:
        self.name = name
        self.before = before  # bytes when last read
        self.blocks = self.apparent = self.files = 0
        self.used = 0.0
        self.finished = False
        self.gone = False  # deleted meanwhile, or another file system is mounted there


class _Branch:
    """Subfolders of the scanned folder that are read one after the other, and the folders read so far."""

    __slots__ = ("children", "part", "position", "todo")

    def __init__(self, part: Part, children: list[_Child]) -> None:
        self.part = part
        self.children = children
        self.position = 0  # of the child that is being read
        self.todo: list[_Todo] = []


class Scanner:
    """One scan of one folder; ``run`` works in the calling thread.

    ``path`` is as ``paths.actual`` gives it. ``top`` bounds the rows of ``Scan.folders`` and of ``Scan.largest``.
    ``before`` is an earlier scan's tree and the row in it that ``path`` has. ``on_partial`` is called from the
    scanning thread with the result so far, at most five times a second. Setting ``cancelled`` stops the scan soon,
    from any thread. ``on_file`` is called with the name, blocks of 512 bytes and apparent bytes of each file, once.

    Raises BadInput at construction when ``path`` is not a readable folder.
    """

    def __init__(
        self,
        path: str,
        *,
        top: int = 20,
        cross_mounts: bool = False,
        before: tuple[Tree, int] | None = None,
        on_partial: Callable[[Scan], None] | None = None,
        on_file: Callable[[str, int, int], None] | None = None,
        cancelled: threading.Event | None = None,
        settled: float = SETTLED,
    ) -> None:
        self._path = path
        self._text = paths.shown(path)
        self._top = top
        self._cross = cross_mounts
        self._before = before
        self._on_partial = on_partial
        self._on_file = on_file
        self._cancelled = cancelled or threading.Event()
        self._settled = settled
        self._hunted: set[int] = set()  # inodes that got names since, and were looked for
        self._distrusted: set[int] = set()  # rows of the earlier tree that hold one of them
        self.tree: Tree | None = None
        """After a complete run: what the next scan can be given as ``before``."""
        self.clock = time.monotonic
        self._started = self._next_partial = self.clock()
        self._opener = Opener(paths.open_folder(path))
        if before is not None and before[0].device != self._opener.root.device:
            self._before = None
        self._since = before[0].began - settled if before is not None else 0.0
        self._large_before: dict[int, list[LargeFile]] = {}
        for file in before[0].large if before is not None else ():
            self._large_before.setdefault(file.row, []).append(file)
        self._reset()

    def _reset(self) -> None:
        self._links: set[int | tuple[int, int]] = set()
        self._fresh: dict[tuple[int, int], tuple[int, int]] = {}  # sizes read now of files with several names
        self._new_links: dict[tuple[int, int], int] = {}  # how many names those have whose number changed
        self._unreadable: list[str] = []
        self._unreadable_count = 0
        self._mounts: list[str] = []
        self._reused_rows: list[int] = []
        self._files: list[tuple[int, int, Folder]] = []  # heap of the largest files lying in the scanned folder
        self._again = 0  # flags of the folder that is being read
        self._large: list[tuple[int, int, Part, LargeFile]] = []  # heap of the largest files anywhere
        self._order = itertools.count()
        self._gate = -1  # a file of more blocks is looked at
        self._branches: list[_Branch] = []
        self._root_child = _Child(self._path, None)
        self._root = Part()

    def run(self) -> Scan:
        """Scan to the end, or until cancelled (``complete`` is then false).

        Files that vanish meanwhile are left out; folders that can't be read are counted and named.
        """
        self._started = self.clock()
        self._next_partial = self._started + FIRST_PARTIAL
        try:
            while True:
                self._walk()
                if self._cancelled.is_set():
                    return self._so_far()
                if not self._find_unknown_links():
                    return self._whole()
                self._reset()
        finally:
            self._opener.close()

    # Reading

    def _walk(self) -> None:
        self._began = time.time()
        self._unsettled, self._recent = self._began - self._settled, self._began - RECENT
        root = self._opener.root
        before = -1 if self._before is None else self._before[1]
        status = os.fstat(root.fd)
        self._branch_out(
            self._read(self._root, self._root_child, ROOT, self._path, os.dup(root.fd), status, root, "", before)
        )
        turns = deque(self._branches)
        while turns and not self._cancelled.is_set():
            branch = turns.popleft()
            for _ in range(SLICE):
                if not branch.todo:
                    break
                self._visit(branch)
            if branch.todo:
                turns.append(branch)
            else:
                for child in branch.children[branch.position :]:
                    child.finished = True
            if self._on_partial is not None and self.clock() >= self._next_partial:
                self._report()

    def _branch_out(self, todo: list[_Todo]) -> None:
        """Deal the subfolders of the scanned folder out to branches; they are in order, the last one first."""
        size = max(1, -(-len(todo) // MAX_BRANCHES))
        todo = [(ROOT, *item[1:]) for item in reversed(todo)]
        for start in range(0, len(todo), size):
            items = todo[start : start + size]
            children = [_Child(name, self._bytes_before(before)) for _, name, _, _, _, before in items]
            branch = _Branch(Part(), children)
            branch.todo = items[::-1]
            self._branches.append(branch)

    def _bytes_before(self, row: int) -> int | None:
        return self._before[0].all_blocks[row] * 512 if self._before is not None and row >= 0 else None

    def _visit(self, branch: _Branch) -> None:
        """Read the next folder of ``branch``, or take it over from the earlier tree, and note its subfolders."""
        parent, name, inode, place, path, before = branch.todo.pop()
        child = branch.children[branch.position]
        if parent == ROOT:
            while child.name != name:
                child.finished = True
                branch.position += 1
                child = branch.children[branch.position]
        if before >= 0 and self._reuse(branch, child, parent, place, path, before):
            return
        try:
            fd = os.open(path, FLAGS, dir_fd=place.fd if place.fd >= 0 else self._opener.descriptor(place))
            status = os.fstat(fd)
            if status.st_ino != inode or status.st_dev != place.device:
                os.close(fd)
                fd, status = self._opener.open_by_parts(place, path)
        except (FileNotFoundError, NotADirectoryError):
            child.gone |= parent == ROOT  # deleted, or swapped for something else, since it was listed
            return
        except OSError:
            self._count_closed(branch, child, parent, name, place, path)
            return
        if status.st_dev != place.device and not self._cross:
            os.close(fd)
            self._leave_out(branch, child, parent, name)
            return
        todo = self._read(branch.part, child, parent, name, fd, status, place, path, before)
        if todo:
            branch.todo += todo

    def _leave_out(self, branch: _Branch, child: _Child, parent: int, name: str) -> None:
        """Another file system is mounted here. It may be gone next time, without the parent showing it."""
        child.gone |= parent == ROOT
        part, row = (self._root, 0) if parent == ROOT else (branch.part, parent)
        part.flags[row] = AGAIN
        if len(self._mounts) < MAX_UNREADABLE:
            self._mounts.append(paths.shown(join(self._name_of(part, row), name)))

    def _count_closed(self, branch: _Branch, child: _Child, parent: int, name: str, place: Place, path: str) -> None:
        """Count a subfolder that may not be opened with its own blocks, as far as even these may be seen."""
        try:
            status = os.stat(path, dir_fd=self._opener.descriptor(place), follow_symlinks=False)
        except FileNotFoundError:
            child.gone |= parent == ROOT
            return
        except OSError:
            child.gone |= parent == ROOT
            self._note_unreadable(*((self._root, 0) if parent == ROOT else (branch.part, parent)))
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

    def _reuse(self, branch: _Branch, child: _Child, parent: int, place: Place, path: str, before: int) -> bool:
        """Take a folder over from the earlier tree if nothing was added, removed or renamed in it since."""
        assert self._before is not None
        tree = self._before[0]
        if tree.flags[before] or before in self._distrusted or len(path) >= LONG:
            return False
        try:
            status = os.stat(path, dir_fd=self._opener.descriptor(place), follow_symlinks=False)
        except OSError:
            return False
        if (
            status.st_mtime_ns != tree.mtime[before]
            or status.st_ctime_ns != tree.ctime[before]
            or status.st_ino != tree.inode[before]
            or status.st_dev != tree.device
        ):
            return False
        part, row = branch.part, branch.part.count
        part.values += (
            tree.names[before], parent, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_blocks,
            tree.blocks[before], tree.apparent[before], tree.files[before], tree.used[before], 0, len(part.link_inode),
        )  # fmt: skip
        part.count = row + 1
        child.blocks += status.st_blocks + tree.blocks[before]
        child.apparent += tree.apparent[before]
        child.files += tree.files[before]
        if tree.used[before] > child.used:
            child.used = tree.used[before]
        links = tree.links(before)
        if links.start != links.stop:
            self._take_over_links(part, child, tree, links)
        for file in self._large_before.get(before, ()):
            self._remember(part, LargeFile(row, file.name, file.blocks, file.apparent, file.used, file.inode))
        below = list(tree.children(before))
        below.reverse()
        names, inodes = tree.names, tree.inode
        branch.todo += [(row, names[old], inodes[old], place, f"{path}/{names[old]}", old) for old in below]
        self._reused_rows.append(before)
        return True

    def _read(
        self, part: Part, child: _Child, parent: int, name: str, fd: int, status: os.stat_result, place: Place,
        path: str, before: int,
    ) -> list[_Todo]:  # fmt: skip
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
                        if self._on_partial is not None and self.clock() >= self._next_partial:
                            self._report()
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
        if before < 0:
            return [(row, below, inode, above, start + below, -1) for below, inode in todo]
        old = self._rows_before(before)
        return [(row, below, inode, above, start + below, old.get(below, -1)) for below, inode in todo]

    def _rows_before(self, row: int) -> dict[str, int]:
        if self._before is None or row < 0:
            return {}
        tree = self._before[0]
        return {tree.names[child]: child for child in tree.children(row)}

    def _take_over_links(self, part: Part, child: _Child, tree: Tree, links: slice) -> None:
        for column in LINKS:
            getattr(part, column).extend(getattr(tree, column)[links])
        for index in range(links.start, links.stop):
            self._count_link(
                child, tree.link_inode[index], tree.link_device[index], tree.link_blocks[index], tree.link_size[index]
            )

    def _link(self, part: Part, child: _Child, info: os.stat_result, size: int) -> bool:
        """Note one name of a file with several; whether it is the first."""
        part.link_inode.append(info.st_ino)
        part.link_device.append(info.st_dev)
        part.link_blocks.append(info.st_blocks)
        part.link_size.append(size)
        if self._before is not None:
            self._fresh[info.st_dev, info.st_ino] = info.st_blocks, size
            if info.st_ctime > self._since:  # linking a file changes its ctime
                self._new_links[info.st_dev, info.st_ino] = info.st_nlink
        return self._count_link(child, info.st_ino, info.st_dev, info.st_blocks, size)

    def _count_link(self, child: _Child, inode: int, device: int, blocks: int, size: int) -> bool:
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
        if first and (len(self._files) < self._top or (self._files and blocks * 512 > self._files[0][0])):
            path = paths.shown(join(self._path, name))
            row_of_file = Folder(path, blocks * 512, size, 1, used or None, "file")
            heapq.heappush(self._files, (row_of_file.bytes, -next(self._order), row_of_file))
            if len(self._files) > self._top:
                heapq.heappop(self._files)
        return -1

    def _remember(self, part: Part, file: LargeFile) -> None:
        heap = self._large
        if len(heap) < KEPT_LARGE:
            heapq.heappush(heap, (file.blocks, next(self._order), part, file))
        elif file.blocks > heap[0][0]:
            heapq.heapreplace(heap, (file.blocks, next(self._order), part, file))
        if len(heap) == KEPT_LARGE and self._on_file is None:
            self._gate = min(heap[0][0], LARGE_BLOCKS - 1)

    def _note_unreadable(self, part: Part, row: int) -> None:
        """What came out about a folder that has a row already."""
        if not (part.flags.get(row, 0) | part.values[row * WIDTH + WIDTH - 2]) & UNREADABLE:
            part.flags[row] = UNREADABLE | AGAIN
            self._name_unreadable(part, row)

    def _name_unreadable(self, part: Part, row: int) -> None:
        self._unreadable_count += 1
        if len(self._unreadable) < MAX_UNREADABLE:
            self._unreadable.append(paths.shown(self._name_of(part, row)))

    def _name_of(self, part: Part, row: int) -> str:
        if part is self._root:
            return self._path
        parts = []
        while row != ROOT:
            parts.append(part.values[row * WIDTH])
            row = part.values[row * WIDTH + 1]
        return join(self._path, "/".join(reversed(parts)))

    # Files that got further names since the earlier scan

    def _find_unknown_links(self) -> bool:
        """Whether a folder that was taken over holds a name of a file that has more names now than it had then.

        A name added elsewhere does not change the folder of the first one, which was counted as the only one.
        """
        if not self._new_links or not self._reused_rows:
            return False
        names = dict.fromkeys(self._new_links, 0)
        for part in (self._root, *(branch.part for branch in self._branches)):
            for key in zip(part.link_device, part.link_inode, strict=True):
                if key in names:
                    names[key] += 1
        wanted = {key[1] for key, count in self._new_links.items() if names[key] < count} - self._hunted
        if not wanted:
            return False
        self._hunted |= wanted
        found = {row for row in self._reused_rows if not self._cancelled.is_set() and self._holds(row, wanted)}
        self._distrusted |= found
        return bool(found)

    def _holds(self, row: int, wanted: set[int]) -> bool:
        """Whether the folder ``row`` of the earlier tree lists one of the inodes, as far as its listing is true."""
        assert self._before is not None
        tree, root = self._before
        try:
            fd, _ = self._opener.open_by_parts(self._opener.root, tree.below(row, root))
        except OSError:
            return True
        try:
            with os.scandir(fd) as entries:
                for index, entry in enumerate(entries):
                    if entry.inode() in wanted:
                        return True
                    if index == 0 and entry.stat(follow_symlinks=False).st_ino != entry.inode():
                        return True  # an overlay, or a mount point
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    # Results

    def _report(self) -> None:
        assert self._on_partial is not None
        started = time.perf_counter()
        self._on_partial(self._so_far())
        took = time.perf_counter() - started  # long where a folder has very many subfolders
        self._next_partial = self.clock() + max(PARTIAL_EVERY, 10 * took)

    def _so_far(self) -> Scan:
        """What is known now; a hard link counts where it was met first."""
        children = [child for branch in self._branches for child in branch.children if not child.gone]
        rows = [row for _, _, row in self._files]
        rows += [self._row(child) for child in heapq.nlargest(self._top, children, key=_expected)]
        rows.sort(key=lambda row: (-max(row.bytes, row.last_bytes or 0), row.path))
        every = [self._root_child, *(child for branch in self._branches for child in branch.children)]
        return self._result(
            rows[: self._top],
            sum(child.blocks for child in every) * 512,
            sum(child.apparent for child in every),
            sum(child.files for child in every),
            max(child.used for child in every),
        )

    def _row(self, child: _Child) -> Folder:
        return Folder(
            paths.shown(join(self._path, child.name)), child.blocks * 512, child.apparent, child.files,
            child.used or None, "folder", child.finished, None if child.finished else child.before,
        )  # fmt: skip

    def _whole(self) -> Scan:
        tree = self.tree = self._joined()
        folders = (self._folder(tree, row) for row in tree.children(0))
        rows = heapq.nsmallest(
            self._top, [*folders, *(row for _, _, row in self._files)], key=lambda row: (-row.bytes, row.path)
        )
        largest = tree.largest_folders(0, self._top) if self._top else ()
        return self._result(
            rows, tree.all_blocks[0] * 512, tree.all_apparent[0], tree.all_files[0], tree.all_used[0],
            tuple(self._folder(tree, row) for row in largest), complete=True,
        )  # fmt: skip

    def _joined(self) -> Tree:
        """The tree from its branches."""
        tree = Tree(self._path, self._opener.root.device)
        offsets = {id(part): tree.join(part) for part in (self._root, *(branch.part for branch in self._branches))}
        tree.began = self._began
        tree.add_up(self._fresh)
        for _, _, part, file in self._large:
            file.row += offsets[id(part)]
        files = sorted((file for _, _, _, file in self._large), key=lambda file: file.row)
        seen: set[int] = set()
        for file in files:  # of several names of one file the first
            if file.inode not in seen:
                tree.large.append(file)
                if file.inode:
                    seen.add(file.inode)
        tree.large.sort(key=lambda file: -file.blocks)
        tree.large_blocks = self._large[0][0] if len(self._large) == KEPT_LARGE else 0
        if self._before is not None and self._reused_rows:
            tree.large_blocks = max(tree.large_blocks, self._before[0].large_blocks)
        return tree

    @staticmethod
    def _folder(tree: Tree, row: int) -> Folder:
        return Folder(
            paths.shown(tree.path_of(row)), tree.all_blocks[row] * 512, tree.all_apparent[row], tree.all_files[row],
            tree.all_used[row] or None,
        )  # fmt: skip

    def _result(
        self, rows: list[Folder], total: int, apparent: int, files: int, used: float,
        largest: tuple[Folder, ...] = (), complete: bool = False,
    ) -> Scan:  # fmt: skip
        directories = self._root.count + sum(branch.part.count for branch in self._branches)
        rest = Folder(
            self._text,
            total - sum(row.bytes for row in rows),
            apparent - sum(row.apparent_bytes for row in rows),
            files - sum(row.files for row in rows),
            None,
            "rest",
            complete,
        )
        return Scan(
            path=self._text,
            total_bytes=total,
            apparent_bytes=apparent,
            files=files,
            directories=directories,
            seconds=self.clock() - self._started,
            complete=complete,
            folders=(*rows, rest),
            largest=largest,
            unreadable=tuple(self._unreadable),
            unreadable_count=self._unreadable_count,
            other_mounts=tuple(self._mounts),
            last_used=used or None,
            read_directories=directories - len(self._reused_rows),
            reused_directories=len(self._reused_rows),
        )


def _expected(child: _Child) -> int:
    """What decides its place in a list so far."""
    return max(child.blocks * 512, 0 if child.finished else child.before or 0)
