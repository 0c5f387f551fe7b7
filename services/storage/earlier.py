"""What an earlier scan left of a tree, and how much of it still holds.

Rows are looked at in runs: neighbouring subfolders of one folder with all that is below them, which stand one after
the other in the earlier tree. A run in which no folder changed is taken over at once, column by column.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from collections.abc import Iterator

from services.storage.tree import LargeFile, Tree
from services.storage.walk import LONG

SPAN = 256
"""Rows that are looked at before another branch has its turn."""

_UNKNOWN, _HOLDS, _READ = 0, 1, 2  # what is known of a row: nothing, it is as it was, it has to be read again


class Earlier:
    """The tree of an earlier scan and the row in it that the scanned folder has; ``reused`` are the runs taken over."""

    def __init__(self, tree: Tree, root: int) -> None:
        self.tree = tree
        self.root = root
        self._state = bytearray(_READ if flags else _UNKNOWN for flags in tree.flags)
        self._large: dict[int, list[LargeFile]] = {}
        for file in tree.large:
            self._large.setdefault(file.row, []).append(file)
        self._large_rows = sorted(self._large)
        self.reused: list[range] = []

    def start_again(self) -> None:
        """Forget what was looked at, but not what must be read."""
        self._state = self._state.replace(bytes([_HOLDS]), bytes([_UNKNOWN]))
        self.reused = []

    def distrust(self, rows: set[int]) -> None:
        """These have to be read, however they look."""
        for row in rows:
            self._state[row] = _READ

    def bytes_of(self, row: int) -> int:
        """What it took, with all that is below it."""
        return self.tree.all_blocks[row] * 512

    def subfolders(self, row: int) -> dict[str, int]:
        """The rows of the subfolders, by name."""
        return {self.tree.names[child]: child for child in self.tree.children(row)}

    def reach(self, start: int, stop: int) -> int:
        """How much of the run ``start:stop`` is looked at together: whole subfolders, or only the first one's row."""
        end = self.tree.end
        if stop - start <= SPAN:
            return stop
        reached = end[start]
        if reached - start > SPAN:
            return start + 1
        while end[reached] - start <= SPAN:
            reached = end[reached]
        return reached

    def whole(self, row: int, start: int) -> int:
        """Where the subfolders end that lie before ``row`` with all that is below them; the first is ``start``."""
        end = self.tree.end
        while start < row and end[start] <= row:
            start = end[start]
        return start

    def holding(self, fd: int, path: str, start: int, stop: int) -> int:
        """The first row of ``start:stop`` that does not hold, ``stop`` if all do; ``path`` below ``fd`` is the first's.

        A row holds when nothing was added, removed or renamed in its folder since.
        """
        tree, state = self.tree, self._state
        until = state.find(_READ, start, stop)
        until = stop if until < 0 else until
        first = state.find(_UNKNOWN, start, until)
        if first < 0:
            return until
        row, device, look = first, tree.device, os.stat
        columns = (getattr(tree, name)[first:until] for name in ("mtime", "ctime", "inode", "own"))
        for place, mtime, ctime, inode, own in zip(self._paths(path, start, first, until), *columns, strict=True):
            try:
                status = look(place, dir_fd=fd, follow_symlinks=False)
            except OSError:
                break
            if (
                status.st_mtime_ns != mtime
                or status.st_ctime_ns != ctime
                or status.st_ino != inode
                or status.st_blocks != own
                or status.st_dev != device
                or len(place) >= LONG
            ):
                break
            row += 1
        if row < until:
            state[row] = _READ
        state[first:row] = bytes([_HOLDS]) * (row - first)
        return row

    def _paths(self, path: str, start: int, first: int, stop: int) -> Iterator[str]:
        """The paths of the rows ``first:stop``, of a run that begins at ``start`` with ``path``."""
        names = self.tree.names
        above = path[: len(path) - len(names[start])]
        paths: list[str] = []
        for name, parent in zip(names[start:stop], self.tree.parent[start:stop], strict=True):
            paths.append(f"{paths[parent - start]}/{name}" if parent >= start else above + name)
        return itertools.islice(paths, first - start, None)

    def large(self, start: int, stop: int, row: int) -> Iterator[LargeFile]:
        """The remembered files in the rows ``start:stop``, which are in another tree from ``row`` on."""
        rows = self._large_rows
        for old in rows[bisect_left(rows, start) : bisect_left(rows, stop)]:
            for file in self._large[old]:
                yield LargeFile(old - start + row, file.name, file.blocks, file.apparent, file.used, file.inode)
