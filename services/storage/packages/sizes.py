"""What each distribution of an environment takes on disk, so that all of them and the orphans make up the whole.

Every file of a package folder belongs to the first distribution (by name) whose RECORD claims it; a compiled file in
``__pycache__`` to the owner of its source; a folder to the owner of all that is in it. What nobody claims is an orphan.
An inode counts once. So: distributions inside the folder + orphans + folders of several = ``du -s -B1`` of it.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.storage import paths
from services.storage.packages import records
from services.storage.packages.places import Place
from services.storage.packages.records import Record
from services.storage.packages.types import Orphan

_ORPHAN, _SEVERAL = -1, -2


@dataclass(frozen=True, slots=True)
class Name:
    """One name of a file: its inode, the bytes allocated to that, and how many names it has in all."""

    inode: tuple[int, int]
    bytes: int
    links: int


@dataclass
class Measured:
    """An environment's distributions (``records``) and, index by index, what they take.

    ``owned`` are the files of each and ``folders_of`` the folders that hold nothing else, by absolute path.
    ``claimed_again`` are the files that several distributions claim, with all of these.
    """

    place: Place
    records: list[Record] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    owned: list[list[tuple[str, Name]]] = field(default_factory=list)
    folders_of: list[list[tuple[str, int]]] = field(default_factory=list)
    orphans: dict[str, list[int]] = field(default_factory=dict)
    total: int = 0
    folder_bytes: int = 0
    outside_bytes: int = 0
    problem: str = ""
    complete: bool = True
    claimed_again: dict[str, set[int]] = field(default_factory=dict)

    def freed(self, indices: Iterable[int]) -> int:
        """What deleting these distributions together gives back: files of which no name and no claim is left."""
        gone = set(indices)
        names: Counter[tuple[int, int]] = Counter()
        known: dict[tuple[int, int], Name] = {}
        folders = 0
        for index in gone:
            for path, name in self.owned[index]:
                if self.claimed_again.get(path, gone) <= gone:
                    names[name.inode] += 1
                    known[name.inode] = name
            folders += sum(size for _, size in self.folders_of[index])
        return folders + sum(known[inode].bytes for inode, count in names.items() if count >= known[inode].links)

    def orphan_rows(self) -> tuple[Orphan, ...]:
        """Orphans by their first name in the package folder, largest first."""
        rows = [Orphan(paths.shown(path), size, count) for path, (size, count) in self.orphans.items()]
        return tuple(sorted(rows, key=lambda row: (-row.bytes, row.path)))


def measure(place: Place, stop: threading.Event) -> Measured:
    """Measure ``place``. What vanishes meanwhile is left out; what can't be read is said in ``problem``."""
    result = Measured(place)
    seen: set[tuple[int, int]] = set()
    outside: list[tuple[int, str]] = []
    for folder in place.folders:
        if stop.is_set():
            result.complete = False
            break
        _Folder(folder, result, seen, stop).run(outside)
    owner: dict[str, int] = {}
    for index, path in outside:
        if owner.setdefault(path, index) == index:
            _count_outside(result, index, path, seen)
        else:
            result.claimed_again.setdefault(path, {owner[path]}).add(index)
            result.shared[index] += 1
            result.shared[owner[path]] += 1
    return result


def _count_outside(result: Measured, index: int, path: str, seen: set[tuple[int, int]]) -> None:
    """A script or data file that a RECORD claims outside of the package folders."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        result.missing[index] += 1
        return
    name = _name(status)
    result.files[index] += 1
    result.owned[index].append((path, name))
    if name.inode not in seen:
        seen.add(name.inode)
        result.bytes[index] += name.bytes
        result.outside_bytes += name.bytes


def _name(status: os.stat_result) -> Name:
    return Name((status.st_dev, status.st_ino), status.st_blocks * 512, status.st_nlink)


class _Folder:
    """One package folder on its way into a ``Measured``."""

    def __init__(self, folder: str, result: Measured, seen: set[tuple[int, int]], stop: threading.Event) -> None:
        self.folder = folder
        self.result = result
        self.seen = seen
        self.stop = stop
        self.names: dict[str, Name] = {}
        self.directories: dict[str, int] = {}  # relative path ("" is the folder itself) → bytes, parents first
        self.owner: dict[str, int] = {}
        self.first = len(result.records)

    def run(self, outside: list[tuple[int, str]]) -> None:
        self._walk()
        found = records.read_all(self.folder)
        result = self.result
        result.records += found
        for column in (result.bytes, result.files, result.missing, result.shared):
            column += [0] * len(found)
        result.owned += [[] for _ in found]
        result.folders_of += [[] for _ in found]
        self._claim(outside)
        self._count()
        self._folders()

    def _walk(self) -> None:
        unreadable = 0
        todo = [""]
        try:
            self.directories[""] = os.lstat(self.folder).st_blocks * 512
        except OSError:
            return
        while todo and not self.stop.is_set():
            below = todo.pop()
            try:
                with os.scandir(f"{self.folder}/{below}" if below else self.folder) as entries:
                    for entry in entries:
                        path = f"{below}/{entry.name}" if below else entry.name
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if stat.S_ISDIR(status.st_mode):
                            self.directories[path] = status.st_blocks * 512
                            todo.append(path)
                        else:
                            self.names[path] = _name(status)
            except OSError:
                unreadable += 1
        if unreadable:
            self.result.problem = f"{unreadable} folder{'s' * (unreadable != 1)} in it may not be read."
        self.result.complete &= not self.stop.is_set()

    def _claim(self, outside: list[tuple[int, str]]) -> None:
        for index, record in enumerate(self.result.records[self.first :], self.first):
            for path in (*record.files, *self._below(record.tops)):
                if path in self.names:
                    self._claim_one(path, index)
                elif path.startswith("../") or path.startswith("/"):
                    outside.append((index, os.path.normpath(os.path.join(self.folder, path))))  # noqa: PTH118
                elif path not in self.directories and not path.endswith(".pyc"):
                    self.result.missing[index] += 1
        for path in self.names:
            if path not in self.owner and (source := _source(path)):
                self.owner[path] = self.owner.get(source, _ORPHAN)

    def _claim_one(self, path: str, index: int) -> None:
        before = self.owner.setdefault(path, index)
        if before != index:
            self.result.shared[before] += 1
            self.result.shared[index] += 1
            self.result.claimed_again.setdefault(f"{self.folder}/{path}", {before}).add(index)

    def _below(self, tops: Iterable[str]) -> Iterable[str]:
        whole = tuple(f"{top}/" for top in tops)
        return [path for path in self.names if path in tops or path.startswith(whole)] if whole else ()

    def _count(self) -> None:
        result = self.result
        for path, name in self.names.items():
            index = self.owner.get(path, _ORPHAN)
            new = name.inode not in self.seen
            self.seen.add(name.inode)
            size = name.bytes if new else 0
            result.total += size
            if index == _ORPHAN:
                self._orphan(path, size, 1)
                continue
            result.bytes[index] += size
            result.files[index] += 1
            result.owned[index].append((f"{self.folder}/{path}", name))

    def _orphan(self, path: str, size: int, files: int) -> None:
        row = self.result.orphans.setdefault(f"{self.folder}/{path.partition('/')[0]}", [0, 0])
        row[0] += size
        row[1] += files

    def _folders(self) -> None:
        """A folder is its content's: one distribution's, nobody's (or empty), or several's."""
        content: dict[str, set[int]] = {path: set() for path in self.directories}
        for path in self.names:
            content[posixpath.dirname(path)].add(self.owner.get(path, _ORPHAN))
        for path in reversed(self.directories):
            size, owners = self.directories[path], content[path] or {_ORPHAN}
            owner = next(iter(owners)) if len(owners) == 1 else _SEVERAL
            self.result.total += size
            if path == "" or owner == _SEVERAL:
                self.result.folder_bytes += size
            elif owner == _ORPHAN:
                self._orphan(path, size, 0)
            else:
                self.result.bytes[owner] += size
                self.result.folders_of[owner].append((f"{self.folder}/{path}", size))
            if path:
                content[posixpath.dirname(path)].add(owner)


def _source(path: str) -> str:
    """The source that a compiled file in ``__pycache__`` was made from (PEP 3147), "" for any other file."""
    folder, name = posixpath.split(path)
    if not path.endswith(".pyc") or posixpath.basename(folder) != "__pycache__":
        return ""
    return posixpath.join(posixpath.dirname(folder), f"{name.partition('.')[0]}.py")
