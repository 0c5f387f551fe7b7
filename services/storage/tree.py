"""The folders of one scanned tree as columns of numbers: what a scan leaves, and what the index keeps of it.

Folders stand in preorder with siblings by name: a folder before what lies below it, which ends before ``end``. Row 0
is the root. A hard link counts in the folder that comes first in this order, so that sizes don't jump from one scan to
the next. A million files in a hundred thousand folders take about 12 MB.
"""

from __future__ import annotations

import heapq
import operator
from array import array
from collections.abc import Iterator
from typing import Any

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


class Part:
    """Folders of one branch in preorder, as a scan reads them.

    ``values`` has ``WIDTH`` of them for each folder: quicker to grow than columns, and, unlike a tuple for each,
    nothing that the garbage collector has to look through again and again. A parent below zero is -1 - the index in
    ``above`` of part and row of a folder that was read elsewhere, and that goes before this part into a tree.
    """

    __slots__ = ("above", "count", "flags", "link_blocks", "link_device", "link_inode", "link_size", "offset", "values")

    def __init__(self, above: list[tuple[Part, int]]) -> None:
        self.above = above
        self.offset = 0  # row of its first folder in the tree that it was joined to
        self.count = 0
        self.values: list[Any] = []
        self.flags: dict[int, int] = {}  # what came out later about a row
        self.link_inode, self.link_device = array("Q"), array("Q")
        self.link_blocks, self.link_size = array("q"), array("q")


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
        offset, links = len(self), len(self.link_inode)
        part.offset = offset
        above = [other.offset + row for other, row in part.above]
        self.names += part.values[::WIDTH]
        self.parent.extend([parent + offset if parent >= 0 else above[-1 - parent] for parent in part.values[1::WIDTH]])
        for place, column in enumerate(OWN[1:-1], 2):
            getattr(self, column).extend(part.values[place::WIDTH])
        self.first_link.extend([first + links for first in part.values[WIDTH - 1 :: WIDTH]])
        for row, flags in part.flags.items():
            self.flags[offset + row] |= flags
        for column in LINKS:
            getattr(self, column).extend(getattr(part, column))

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
        fits = (row for row in range(start, end) if largest_child[row - root] * 2 <= total[row])
        return heapq.nsmallest(limit, fits, key=lambda row: (-total[row], row))


def join(folder: str, name: str) -> str:
    """``folder/name``; the folder itself for ""."""
    return f"{folder.rstrip('/')}/{name}" if name else folder
