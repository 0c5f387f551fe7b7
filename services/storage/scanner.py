"""What fills a folder, as ``du`` counts it, while it is still counting.

Bytes are allocated blocks (``st_blocks`` of 512), folders included, and a file with several names counts once: the
total equals ``du -s -x -B1`` to the byte, and ``du -s -B1`` where no other file system is mounted below or
``cross_mounts`` is on. (One difference to ``-x``: a single file that is mounted over another, as containers do with
/etc/hosts, is counted; on overlay file systems a file's device number says nothing.) Symbolic links are counted,
never followed. Apparent bytes are the lengths of regular files and symbolic links.

The subfolders of the scanned folder are read in turn, a few folders of each at a time, so that all of them grow on
screen together and the largest is seen to be so early. A scan that takes longer than ``HELP_AFTER`` has a process read
along with it (``pool``), from the end of what is still to be read.

A scan that is given the tree of an earlier one reads again only the folders in which a name was added, removed or
renamed since (that changes a folder's mtime and ctime), and those in which files are likely to grow in place (that does
not): where a file was written within ``RECENT`` before it was last read, or has ``LARGE_BLOCKS``. So the one change it
can't see is a smaller file, not written lately, that is written to in place in a folder left otherwise alone.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from services.storage import paths
from services.storage.branches import Branch, Child, Todo
from services.storage.earlier import Earlier
from services.storage.pool import Batch, Pool, processors
from services.storage.reader import KEPT_LARGE, Reader
from services.storage.tree import LargeFile, Part, Tree, join
from services.storage.types import Folder, Scan
from services.storage.walk import Opener
from services.turns import short_turns

FIRST_PARTIAL = 0.1
PARTIAL_EVERY = 0.2
"""Seconds until the first result so far, and between those after it."""

SLICE = 32
"""Folders read in one branch before the next has its turn."""

MAX_BRANCHES = 256
"""Parts that are read in turn; more subfolders than that share them."""

SETTLED = 2.0
"""Seconds for which a folder must have been left alone to be trusted: a change within the same tick of the file
system's clock (2 s on FAT, 1 s on ext3) as the reading would not show."""

HELP_AFTER = 0.02
"""Seconds after which a scan gets help: about what it takes to start a process."""


class Scanner(Reader):
    """One scan of one folder; ``run`` works in the calling thread.

    ``path`` is as ``paths.actual`` gives it. ``top`` bounds the rows of ``Scan.folders`` and of ``Scan.largest``.
    ``before`` is an earlier scan's tree and the row in it that ``path`` has. ``on_partial`` is called from the
    scanning thread with the result so far, at most five times a second. Setting ``cancelled`` stops the scan soon,
    from any thread. ``on_file`` is called with the name, blocks of 512 bytes and apparent bytes of each file, once.

    ``help_after`` seconds a second process is started to read along, where there is a second processor; 0 waits for it
    before anything below ``path`` is read, None does without it. So do scans with ``before``, ``cross_mounts`` or
    ``on_file``: what these need stays in this thread.

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
        help_after: float | None = HELP_AFTER,
    ) -> None:
        self._path = path
        self._text = paths.shown(path)
        self._top = top
        self._on_partial = on_partial
        self._on_file = on_file
        self.tree: Tree | None = None
        """After a complete run: what the next scan can be given as ``before``."""
        self.clock = time.monotonic
        self._started = self._next_partial = self.clock()
        super().__init__(Opener(paths.open_folder(path)), cross_mounts, settled, cancelled)
        self._hunted: set[int] = set()  # inodes that got names since, and were looked for
        alone = before is not None or cross_mounts or on_file is not None
        self._help_after = None if alone or (help_after and processors() < 2) else help_after
        self._pool: Pool | None = None
        if before is not None and before[0].device == self._opener.root.device:
            self._earlier = Earlier(*before)
        self._since = before[0].began - settled if before is not None else 0.0
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        self._files: list[tuple[int, int, Folder]] = []  # heap of the largest files lying in the scanned folder
        self._branches: list[Branch] = []
        self._children: list[Child] = []
        self._root_child = Child(self._path, None)
        if self._earlier is not None:
            self._earlier.start_again()

    def run(self) -> Scan:
        """Scan to the end, or until cancelled (``complete`` is then false).

        Files that vanish meanwhile are left out; folders that can't be read are counted and named.
        """
        self._started = self.clock()
        self._next_partial = self._started + FIRST_PARTIAL
        try:
            with short_turns():
                return self._until_done()
        finally:
            if self._pool is not None:
                self._pool.close()
            self._opener.close()

    def _until_done(self) -> Scan:
        while True:
            self._walk()
            if self._cancelled.is_set():
                return self._so_far()
            if not self._find_unknown_links():
                return self._whole()
            self._reset()

    # Reading

    def _walk(self) -> None:
        self._begin(time.time())
        root = self._opener.root
        before = -1 if self._earlier is None else self._earlier.root
        status = os.fstat(root.fd)
        self._branch_out(
            self._read(self._root, self._root_child, -1, self._path, os.dup(root.fd), status, root, "", before)
        )
        turns = deque(self._branches)
        started = time.monotonic()
        while not self._cancelled.is_set():
            if self._pool is not None:
                self._share(self._pool, turns)
            elif self._help_after is not None and time.monotonic() - started >= self._help_after:
                self._pool = Pool(root.fd, self._began, self._settled, wait=not self._help_after)
                continue
            if turns:
                self._take_turn(turns)
            elif self._pool is None or not self._pool.busy:
                return
            self._tick()

    def _take_turn(self, turns: deque[Branch]) -> None:
        branch = turns.popleft()
        until = branch.part.count + SLICE
        while branch.todo and branch.part.count < until:
            self._visit(branch)
        if branch.todo:
            turns.append(branch)
        else:
            branch.close()

    def _branch_out(self, todo: list[Todo]) -> None:
        """Deal the subfolders of the scanned folder out to branches; they are in order, the last one first."""
        size = max(1, -(-len(todo) // MAX_BRANCHES))
        todo = todo[::-1]
        for start in range(0, len(todo), size):
            items = todo[start : start + size]
            children = [Child(item[1], self._bytes_before(item[5])) for item in items]
            self._children += children
            self._branches.append(Branch(items, [(self._root, 0)] * len(items), children))

    def _parts(self) -> Iterator[Part]:
        """What is read, in preorder."""
        yield self._root
        waiting = self._branches[::-1]
        while waiting:
            branch = waiting.pop()
            yield branch.part
            waiting += branch.pieces

    # The helper

    def _share(self, pool: Pool, turns: deque[Branch]) -> None:
        """Take in what the helper has read and give it more to read; wait for it where nothing else is to be done."""
        for piece, batch in pool.receive(wait=not turns and bool(pool.lent)):
            self._take_in(piece, batch)
            if not batch.whole:
                continue
            if piece.todo:
                turns.append(piece)
            else:
                piece.close()
        for piece, told in pool.returned():
            for child, sums in zip(piece.children, told, strict=False):
                child.blocks -= sums[0]
                child.apparent -= sums[1]
                child.files -= sums[2]
            turns.append(piece)
        pool.lend(turns, self._gate)

    def _take_in(self, piece: Branch, batch: Batch) -> None:
        """Add what the helper has read of ``piece``, so far or as a whole."""
        for child, now, last in zip(piece.children, batch.sums, batch.last, strict=False):
            child.blocks += now[0] - last[0]
            child.apparent += now[1] - last[1]
            child.files += now[2] - last[2]
            child.used = max(child.used, now[3])
        if not batch.whole:
            return
        part = piece.part
        part.values, part.count = batch.values, batch.rows
        part.link_inode, part.link_device, part.link_blocks, part.link_size = batch.links
        first = 0
        for position, (child, sums) in enumerate(zip(piece.children, batch.sums, strict=False)):
            for index in range(first, sums[4]):
                self._count_link(
                    child, part.link_inode[index], part.link_device[index], part.link_blocks[index],
                    part.link_size[index],
                )  # fmt: skip
            first = sums[4]
            if sums[5]:
                self._lost(piece, child, -1 - position)
        for row in batch.unreadable:
            self._name_unreadable(part, row)
        for parent in batch.hidden:
            self._note_unreadable(piece, parent)
        for parent, name in batch.mounts:
            self._leave_out(piece, piece.children[-1 - parent if parent < 0 else 0], parent, name)
        for file in batch.large:
            self._remember(part, LargeFile(*file))
        root = self._opener.root
        piece.todo = [(parent, name, inode, root, path, -1, -1) for parent, name, inode, path in batch.todo]
        piece.reach(batch.position)

    def _bytes_before(self, row: int) -> int | None:
        return self._earlier.bytes_of(row) if self._earlier is not None and row >= 0 else None

    # Files that got further names since the earlier scan

    def _find_unknown_links(self) -> bool:
        """Whether a folder that was taken over holds a name of a file that has more names now than it had then.

        A name added elsewhere does not change the folder of the first one, which was counted as the only one.
        """
        earlier = self._earlier
        if not self._new_links or earlier is None or not earlier.reused:
            return False
        names = dict.fromkeys(self._new_links, 0)
        for part in self._parts():
            for key in zip(part.link_device, part.link_inode, strict=True):
                if key in names:
                    names[key] += 1
        wanted = {key[1] for key, count in self._new_links.items() if names[key] < count} - self._hunted
        if not wanted:
            return False
        self._hunted |= wanted
        found = {row for row in itertools.chain(*earlier.reused) if self._lists(row, wanted)}
        earlier.distrust(found)
        return bool(found)

    def _lists(self, row: int, wanted: set[int]) -> bool:
        """Whether the folder ``row`` of the earlier tree lists one of the inodes, as far as its listing is true."""
        assert self._earlier is not None
        if self._cancelled.is_set():
            return False
        try:
            fd, _ = self._opener.open_by_parts(self._opener.root, self._earlier.tree.below(row, self._earlier.root))
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

    def _tick(self) -> None:
        if self._on_partial is not None and self.clock() >= self._next_partial:
            self._report()

    def _look_at_own(self, name: str, info: os.stat_result, size: int, used: float, first: bool) -> None:
        blocks = info.st_blocks
        if first and (len(self._files) < self._top or (self._files and blocks * 512 > self._files[0][0])):
            path = paths.shown(join(self._path, name))
            row_of_file = Folder(path, blocks * 512, size, 1, used or None, "file")
            heapq.heappush(self._files, (row_of_file.bytes, -next(self._order), row_of_file))
            if len(self._files) > self._top:
                heapq.heappop(self._files)

    def _report(self) -> None:
        assert self._on_partial is not None
        started = time.perf_counter()
        self._on_partial(self._so_far())
        took = time.perf_counter() - started  # long where a folder has very many subfolders
        self._next_partial = self.clock() + max(PARTIAL_EVERY, 10 * took)

    def _so_far(self) -> Scan:
        """What is known now; a hard link counts where it was met first."""
        children = [child for child in self._children if not child.gone]
        rows = [row for _, _, row in self._files]
        rows += [self._row(child) for child in heapq.nlargest(self._top, children, key=_expected)]
        rows.sort(key=lambda row: (-max(row.bytes, row.last_bytes or 0), row.path))
        every = [self._root_child, *self._children]
        return self._result(
            rows[: self._top],
            sum(child.blocks for child in every) * 512,
            sum(child.apparent for child in every),
            sum(child.files for child in every),
            max(child.used for child in every),
        )

    def _row(self, child: Child) -> Folder:
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
        for part in self._parts():
            tree.join(part)
        tree.began = self._began
        tree.add_up(self._fresh)
        for _, _, part, file in self._large:
            file.row += part.offset
        files = sorted((file for _, _, _, file in self._large), key=lambda file: file.row)
        seen: set[int] = set()
        for file in files:  # of several names of one file the first
            if file.inode not in seen:
                tree.large.append(file)
                if file.inode:
                    seen.add(file.inode)
        tree.large.sort(key=lambda file: -file.blocks)
        tree.large_blocks = self._large[0][0] if len(self._large) == KEPT_LARGE else 0
        if self._earlier is not None and self._earlier.reused:
            tree.large_blocks = max(tree.large_blocks, self._earlier.tree.large_blocks)
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
        directories = sum(part.count for part in self._parts())
        reused = sum(map(len, self._earlier.reused)) if self._earlier is not None else 0
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
            unreadable=tuple(paths.shown(path) for path in self._unreadable),
            unreadable_count=self._unreadable_count,
            other_mounts=tuple(paths.shown(path) for path in self._mounts),
            last_used=used or None,
            read_directories=directories - reused,
            reused_directories=reused,
        )


def _expected(child: Child) -> int:
    """What decides its place in a list so far."""
    return max(child.blocks * 512, 0 if child.finished else child.before or 0)
