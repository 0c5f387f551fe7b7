"""Sizes of the things a kind lists: allocated blocks, hard links counted right, and what removal would really free.

Bytes are ``st_blocks`` of 512, folders included, as ``du`` counts them. Symbolic links count with their own blocks and
are never followed; other file systems mounted below are left out.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Set

_TYPE = 0o170000


class Tally:
    """What was counted so far. ``fenced``: something below was left out, so its whole must not be removed."""

    __slots__ = ("fenced", "files", "links", "newest", "single", "unreadable")

    def __init__(self) -> None:
        self.single = 0  # blocks of folders and of files with one name
        self.files = 0
        self.newest = 0.0
        self.links: dict[tuple[int, int], tuple[int, int, int]] = {}  # inode → blocks, names it has, names seen
        self.unreadable = 0
        self.fenced = False

    @property
    def bytes(self) -> int:
        """Allocated bytes; a file with several names counts once."""
        return 512 * (self.single + sum(blocks for blocks, _, _ in self.links.values()))

    @property
    def freed_bytes(self) -> int:
        """Bytes that go when all of it goes: a file with several names only if all of them were seen."""
        return 512 * (self.single + sum(blocks for blocks, names, seen in self.links.values() if seen >= names))

    @property
    def last_used(self) -> float | None:
        """The newest access or change of a regular file, Unix seconds."""
        return self.newest or None

    def add(self, status: os.stat_result) -> None:
        """Count one name of something that is not a folder."""
        self.files += 1
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            _, _, seen = self.links.get(key, (0, 0, 0))
            self.links[key] = (status.st_blocks, status.st_nlink, seen + 1)
        else:
            self.single += status.st_blocks
        if status.st_mode & _TYPE == stat.S_IFREG:
            self.newest = max(self.newest, status.st_atime, status.st_mtime)

    def merge(self, other: Tally) -> None:
        """Add what ``other`` counted elsewhere."""
        self.single += other.single
        self.files += other.files
        self.newest = max(self.newest, other.newest)
        self.unreadable += other.unreadable
        self.fenced = self.fenced or other.fenced
        for key, (blocks, names, seen) in other.links.items():
            _, _, before = self.links.get(key, (0, 0, 0))
            self.links[key] = (blocks, names, before + seen)


def walk(
    path: str,
    tally: Tally,
    stop: threading.Event,
    tick: Callable[[], None] = lambda: None,
    *,
    fences: Set[str] = frozenset(),
    skip: Set[str] = frozenset(),
) -> None:
    """Count ``path`` and all below it into ``tally``. What vanishes meanwhile is left out.

    ``fences`` are folders of other kinds: left out and noted in ``tally.fenced``; ``skip`` is left out silently.
    ``tick`` is called after each folder.
    """
    if path in skip:
        return
    try:
        status = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode):
        tally.add(status)
        return
    if path in fences:
        tally.fenced = True
        return
    device = status.st_dev
    tally.single += status.st_blocks
    todo = [path]
    while todo and not stop.is_set():
        try:
            entries = os.scandir(todo.pop())
        except FileNotFoundError:
            continue
        except OSError:
            tally.unreadable += 1
            continue
        with entries:
            _folder(entries, tally, todo, device, fences, skip)
        tick()


def _folder(
    entries: Iterator[os.DirEntry[str]],
    tally: Tally,
    todo: list[str],
    device: int,
    fences: Set[str],
    skip: Set[str],
) -> None:
    single = files = 0
    newest = tally.newest
    links = tally.links
    for entry in entries:
        if skip and entry.path in skip:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        kind = status.st_mode & _TYPE
        if kind == stat.S_IFDIR:
            if status.st_dev != device or (fences and entry.path in fences):
                tally.fenced = True
                continue
            single += status.st_blocks
            todo.append(entry.path)
            continue
        files += 1
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            known = links.get(key)
            links[key] = (status.st_blocks, status.st_nlink, known[2] + 1 if known else 1)
        else:
            single += status.st_blocks
        if kind == stat.S_IFREG:
            if status.st_atime > newest:  # max() takes three times as long
                newest = status.st_atime
            if status.st_mtime > newest:
                newest = status.st_mtime
    tally.single += single
    tally.files += files
    tally.newest = newest
