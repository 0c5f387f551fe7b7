"""What a plan and a trash batch remember of the trees they are about: enough to tell any entry from another.

Names are bytes, as the file system has them. A folder's names are joined by NUL and its entries' figures are plain
tuples: 50,000 files are encoded and decoded in some tens of milliseconds.
"""

from __future__ import annotations

import os

import msgspec

from services.storage.reclaim import CleanPlan

Row = tuple[int, int, int, int, int, int, int]
"""Of one entry: st_mode, st_dev, st_ino, st_mtime_ns, st_size, st_blocks, st_nlink."""

Key = tuple[int, int]
"""Device and inode."""

FORMAT = 1


class Dir(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One folder. ``parent`` is its parent's place in the list (-1 for the top), which comes before it."""

    parent: int
    depth: int
    name: bytes
    mode: int
    uid: int
    gid: int
    dev: int
    ino: int
    mtime_ns: int
    blocks: int
    names: bytes
    rows: list[Row]

    def entries(self) -> list[str]:
        """The names of all entries that are no folders, in the order of ``rows``."""
        return os.fsdecode(self.names).split("\0") if self.rows else []


class Target(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One path that goes whole: ``row`` for a file or link, else ``dirs``, the top first, parents before children.

    ``line`` is its line in the plan. ``size`` and ``freed`` (bytes) add up over all targets: each inode is counted
    once, and as freed only where its last name was met.
    """

    line: int
    path: bytes
    parent_dev: int
    parent_ino: int
    row: Row | None
    dirs: list[Dir]
    size: int
    freed: int
    files: int

    def text(self) -> str:
        """Its path as the os module takes it."""
        return os.fsdecode(self.path)

    def where(self, index: int, name: str = "") -> list[str]:
        """The names on the way from the top (left out) to the folder ``index``, and ``name`` in it."""
        names = [name] if name else []
        while index > 0:
            names.append(os.fsdecode(self.dirs[index].name))
            index = self.dirs[index].parent
        return names[::-1]

    def path_of(self, index: int, name: str = "") -> str:
        """The path that an entry of it had at its old place."""
        return "/".join([self.text(), *self.where(index, name)])


class StoredPlan(msgspec.Struct, frozen=True, array_like=True):
    """A plan as it is kept, with what execution compares against."""

    format: int
    plan: CleanPlan
    targets: list[Target]


def row_of(status: os.stat_result) -> Row:
    """The figures that are kept of an entry."""
    return (
        status.st_mode,
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_size,
        status.st_blocks,
        status.st_nlink,
    )


def same(status: os.stat_result, row: Row) -> bool:
    """Whether an entry is still what the plan saw: type, device, inode, time of change and size.

    Not its permissions and names: a file that got another name meanwhile may go all the same, the name stays.
    """
    return (
        status.st_ino == row[2]
        and status.st_mtime_ns == row[3]
        and status.st_size == row[4]
        and status.st_dev == row[1]
        and (status.st_mode ^ row[0]) & 0o170000 == 0
    )
