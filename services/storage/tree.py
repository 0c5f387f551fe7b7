"""The folders of one scanned tree as columns of numbers: what a scan leaves, and what the index keeps of it.

Folders stand in preorder with siblings by name: a folder before what lies below it, which ends before ``end``. Row 0
is the root. A hard link counts in the folder that comes first in this order, so that sizes don't jump from one scan to
the next. A million files in a hundred thousand folders take about 12 MB.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

AGAIN = 1
"""Flag of a folder that has to be read again even if it looks unchanged."""

UNREADABLE = 2
"""Flag of a folder whose content could not be read, at least in part."""

OWN = ("parent", "inode", "mtime", "ctime", "own", "blocks", "apparent", "files", "used", "flags", "first_link")
"""Columns of a folder itself: its row's parent; who it is and when it changed (nanoseconds); blocks of 512 bytes of
itself and of its files with one name; these files' apparent bytes; how many names of any number of links; newest
use; where its hard links begin."""

LINKS = ("link_inode", "link_device", "link_blocks", "link_size")
"""Columns of files with several names, one row a name."""

TOTALS = ("end", "all_blocks", "all_apparent", "all_files", "all_used")
"""Columns of a folder with all that is below it."""

WIDTH = 1 + len(OWN)
"""Values of a folder in a part: its name and what ``OWN`` lists."""


class Run(NamedTuple):
    """Neighbouring folders ``start:stop`` of an earlier tree with all that is below them, in a part that they were
    taken over into: at ``row``, before which ``read`` were read, their hard links at ``links``. Their parent in the
    part is ``parent``.
    """

    tree: Tree
    start: int
    stop: int
    row: int
    read: int
    parent: int
    links: int

    def parents(self) -> list[int]:
        """The parents of its folders in the part."""
        start, shift, parent = self.start, self.row - self.start, self.parent
        return [old + shift if old >= start else parent for old in self.tree.parent[start : self.stop]]


class Part:
    """Folders of one branch in preorder, as a scan reads them.

    ``values`` has ``WIDTH`` of them for each folder that was read: quicker to grow than columns, and, unlike a tuple
    for each, nothing that the garbage collector has to look through again and again. ``runs`` are the others. A parent
    below zero is -1 - the index in ``above`` of part and row of a folder that was read elsewhere, and that goes before
    this part into a tree.
    """

    __slots__ = (
        "above", "count", "flags", "link_blocks", "link_device", "link_inode", "link_size", "offset", "runs", "values",
    )  # fmt: skip

    def __init__(self, above: list[tuple[Part, int]]) -> None:
        self.above = above
        self.offset = 0  # row of its first folder in the tree that it was joined to
        self.count = 0
        self.values: list[Any] = []
        self.runs: list[Run] = []
        self.flags: dict[int, int] = {}  # what came out later about a row
        self.link_inode, self.link_device = array("Q"), array("Q")
        self.link_blocks, self.link_size = array("q"), array("q")

    def take(self, tree: Tree, start: int, stop: int, parent: int) -> slice:
        """Add a run of folders, with their hard links; where these stand in ``tree``."""
        read = len(self.values) // WIDTH
        self.runs.append(Run(tree, start, stop, self.count, read, parent, len(self.link_inode)))
        self.count += stop - start
        links = tree.links(start, stop)
        for column in LINKS:
            getattr(self, column).extend(getattr(tree, column)[links])
        return links

    def who(self, row: int) -> tuple[str, int, int]:
        """Name, parent and flags of a folder."""
        read = row
        index = bisect_right(self.runs, row, key=operator.attrgetter("row")) - 1
        if index >= 0:
            run = self.runs[index]
            place = row - run.row
            if place < run.stop - run.start:
                old = run.start + place
                parent = run.tree.parent[old]
                parent = parent - run.start + run.row if parent >= run.start else run.parent
                return run.tree.names[old], parent, run.tree.flags[old] | self.flags.get(row, 0)
            read = run.read + place - (run.stop - run.start)
        at = read * WIDTH
        return self.values[at], self.values[at + 1], self.values[at + WIDTH - 2] | self.flags.get(row, 0)


class LargeFile:
    """One of the largest files: ``row`` is its folder's, ``inode`` 0 unless it has several names."""

    __slots__ = ("apparent", "blocks", "inode", "name", "row", "used")

    def __init__(self, row: int, name: str, blocks: int, apparent: int, used: float, inode: int) -> None:
        self.row = row
        self.name = name
        self.blocks = blocks
        self.apparent = apparent
        self.used = used
        self.inode = inode


class Tree:
    """See the module.

    ``large`` are the largest files, complete down to files of more than ``large_blocks``; ``began`` the Unix time at
    which the scan began.
    """

    def __init__(self, path: str, device: int) -> None:
        self.path = path
        self.device = device
        self.names: list[str] = []
        self.parent, self.files, self.first_link = array("I"), array("I"), array("I")
        self.inode = array("Q")
        self.mtime, self.ctime = array("q"), array("q")
        self.own, self.blocks, self.apparent = array("q"), array("q"), array("q")
        self.used = array("d")
        self.flags = array("B")
        self.link_inode, self.link_device = array("Q"), array("Q")
        self.link_blocks, self.link_size = array("q"), array("q")
        self.end, self.all_files = array("I"), array("I")
        self.all_blocks, self.all_apparent = array("q"), array("q")
        self.all_used = array("d")
        self.large: list[LargeFile] = []
        self.large_blocks = 0
        self.began = 0.0

    def __len__(self) -> int:
        return len(self.parent)

    def join(self, part: Part) -> None:
        """Add the folders of ``part``; their parents move with them."""
        part.offset, links = len(self), len(self.link_inode)
        above = [other.offset + row for other, row in part.above]
        read = 0
        for run in part.runs:
            self._join_read(part, read, run.read, above, links)
            read = run.read
            self._join_run(run, part.offset, above, links)
        self._join_read(part, read, len(part.values) // WIDTH, above, links)
        for row, flags in part.flags.items():
            self.flags[part.offset + row] |= flags
        for column in LINKS:
            getattr(self, column).extend(getattr(part, column))

    def _join_read(self, part: Part, start: int, stop: int, above: list[int], links: int) -> None:
        if start == stop:
            return
        values = part.values if stop - start == part.count else part.values[start * WIDTH : stop * WIDTH]
        self.names += values[::WIDTH]
        self._join_parents(values[1::WIDTH], part.offset, above)
        for place, column in enumerate(OWN[1:-1], 2):
            getattr(self, column).extend(values[place::WIDTH])
        self.first_link.extend([first + links for first in values[WIDTH - 1 :: WIDTH]])

    def _join_run(self, run: Run, offset: int, above: list[int], links: int) -> None:
        old, rows = run.tree, slice(run.start, run.stop)
        self.names += old.names[rows]
        self._join_parents(run.parents(), offset, above)
        for column in OWN[1:-1]:
            getattr(self, column).extend(getattr(old, column)[rows])
        shift = links + run.links - old.first_link[run.start]
        self.first_link.extend([first + shift for first in old.first_link[rows]])

    def _join_parents(self, parents: list[int], offset: int, above: list[int]) -> None:
        self.parent.extend([parent + offset if parent >= 0 else above[-1 - parent] for parent in parents])

    def links(self, row: int, stop: int = 0) -> slice:
        """Where in the columns of hard links those of the folder ``row`` stand, or of the folders up to ``stop``."""
        stop = stop or row + 1
        last = self.first_link[stop] if stop < len(self.first_link) else len(self.link_inode)
        return slice(self.first_link[row], last)

    def add_up(self, fresh: dict[tuple[int, int], tuple[int, int]]) -> None:
        """Fill in the totals, each hard link once; ``fresh`` has the newest sizes of some, by device and inode."""
        blocks = list(map(operator.add, self.own, self.blocks))  # a list is quicker than an array at single values
        apparent, files, used = self.apparent.tolist(), self.files.tolist(), self.used.tolist()
        for row, charged_blocks, charged_size in self._charged(fresh):
            blocks[row] += charged_blocks
            apparent[row] += charged_size
        end = list(range(1, len(self) + 1))
        parent = self.parent.tolist()
        for row in range(len(self) - 1, 0, -1):
            above = parent[row]
            blocks[above] += blocks[row]
            apparent[above] += apparent[row]
            files[above] += files[row]
            if used[row] > used[above]:
                used[above] = used[row]
            if end[row] > end[above]:
                end[above] = end[row]
        self.end, self.all_files, self.all_used = array("I", end), array("I", files), array("d", used)
        self.all_blocks, self.all_apparent = array("q", blocks), array("q", apparent)

    def _charged(self, fresh: dict[tuple[int, int], tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Row, blocks and size of each file with several names, once."""
        if not self.link_inode:
            return
        seen: set[tuple[int, int]] = set()
        row, rows, first = 0, len(self), self.first_link
        for index, key in enumerate(zip(self.link_device, self.link_inode, strict=True)):
            if key in seen:
                continue
            seen.add(key)
            while row + 1 < rows and first[row + 1] <= index:
                row += 1
            yield (row, *fresh.get(key, (self.link_blocks[index], self.link_size[index])))

    def charged_in(self, row: int) -> set[int]:
        """Inodes of the files with several names that count in the folder ``row`` itself."""
        links = self.links(row)
        own = set(self.link_inode[links])
        return own.difference(self.link_inode[: links.start]) if own else own

    def children(self, row: int) -> Iterator[int]:
        """Rows of the subfolders, by name."""
        child, end = row + 1, self.end[row]
        while child < end:
            yield child
            child = self.end[child]

    def flagged(self, row: int, flag: int) -> list[int]:
        """The rows with ``flag`` of the folder ``row`` and all below it."""
        flags = self.flags[row : self.end[row]]
        if not any(value & flag for value in set(flags)):
            return []
        return [row + place for place, value in enumerate(flags) if value & flag]

    def find(self, path: str) -> int | None:
        """The row of the folder ``path``; None when it is not in this tree."""
        if path == self.path:
            return 0
        if not path.startswith(self.path.rstrip("/") + "/"):
            return None
        row = 0
        for name in path[len(self.path.rstrip("/")) + 1 :].split("/"):
            found = next((child for child in self.children(row) if self.names[child] == name), None)
            if found is None:
                return None
            row = found
        return row

    def below(self, row: int, root: int = 0) -> str:
        """The path of the folder ``row`` below the folder ``root``, "" for that itself."""
        parts = []
        while row != root:
            parts.append(self.names[row])
            row = self.parent[row]
        return "/".join(reversed(parts))

    def path_of(self, row: int) -> str:
        """The whole path of the folder ``row``."""
        return join(self.path, self.below(row))

    def largest_folders(self, root: int, limit: int) -> list[int]:
        """The largest below ``root``; one with more than half its bytes in one subfolder is represented by that."""
        start, end = root + 1, self.end[root]
        largest_child = array("q", bytes(8 * (end - root)))
        total, parent = self.all_blocks, self.parent
        for row in range(start, end):
            above = parent[row] - root
            if total[row] > largest_child[above]:
                largest_child[above] = total[row]
        fits = [row for row in range(start, end) if largest_child[row - root] * 2 <= total[row]]
        return sorted(fits, key=total.__getitem__, reverse=True)[:limit]


def join(folder: str, name: str) -> str:
    """``folder/name``; the folder itself for ""."""
    return f"{folder.rstrip('/')}/{name}" if name else folder
