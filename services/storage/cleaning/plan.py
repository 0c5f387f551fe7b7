"""Making a plan: every chosen path is walked once and all in it noted; what must stay is held, with its reason."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import msgspec

from services import formats
from services.storage import paths
from services.storage.cleaning import places, store, tree
from services.storage.cleaning.guards import Entries, Guards
from services.storage.cleaning.records import FORMAT, Key, StoredPlan, Target
from services.storage.reclaim import CleanPlan, Held, Item, PlanLine

Report = Callable[[int], None]
"""Called with the number of files noted so far."""


class Source(msgspec.Struct, frozen=True):
    """One thing chosen, with the places it may lie in. ``marked``: a path out of the explorer."""

    item: Item
    roots: tuple[str, ...]
    marked: bool = False


def marked(text: str, roots: tuple[str, ...]) -> Source:
    """A path out of the explorer as an item: nobody knows what it is, so its risk is high."""
    item = Item(
        f"path:{text}", "path", text, (text,), 0, 0, 0, None, "Only undo brings it back, until the trash is emptied.",
        "high",
    )  # fmt: skip
    return Source(item, roots, marked=True)


class Planner:
    """Makes one plan."""

    def __init__(self, guards: Guards, excludes: tuple[str, ...], stop: threading.Event, report: Report) -> None:
        self._guards = guards
        self._excludes = excludes
        self._stop = stop
        self._report = report
        self._files = 0
        self._taken: set[str] = set()
        self.held: list[Held] = []

    def plan(self, sources: list[Source], scope: str, held: tuple[Held, ...] = ()) -> StoredPlan:
        """Walk everything. Raises Stopped when cancelled."""
        found: list[tuple[int, list[Target]]] = []
        # A folder before what lies in it: then that is part of it, unless the folder is held.
        order = sorted(range(len(sources)), key=lambda i: min(map(len, sources[i].item.paths), default=0))
        for index in order:
            targets = self._targets(sources[index])
            if targets:
                self._taken |= {target.text() for target in targets}
                found.append((index, targets))
        found.sort(key=lambda pair: pair[0])
        targets, bytes_ = _accounted([t for _, group in found for t in group])
        lines = _lines([sources[i] for i, _ in found], [len(group) for _, group in found], targets)
        plan = CleanPlan(
            id=store.new_id(),
            created_at=time.time(),
            scope=scope,
            lines=lines,
            held=(*held, *self.held),
            freed_bytes=sum(t.freed for t in targets),
            moves_bytes=bytes_,
            files=sum(t.files for t in targets),
            notes=self._guards.hidden(),
        )
        return StoredPlan(FORMAT, plan, targets)

    def _targets(self, source: Source) -> list[Target]:
        """All paths of one item; none of them if one must stay: it goes whole, or not at all."""
        targets: list[Target] = []
        for text in source.item.paths:
            path = places.written(text)
            real, reason = places.located(path, source.roots, itself=not source.marked)
            if not reason and self._is_taken(real):
                continue
            if not reason:
                reason = self._guards.path(real)
            if reason:
                self.held.append(Held(paths.shown(real or path), reason))
                return []
            try:
                target = self._walk(source, real)
            except FileNotFoundError:
                if source.marked:
                    self.held.append(Held(paths.shown(real), "There is nothing any more."))
                continue
            except tree.Unfit as unfit:
                where = f": {paths.shown(unfit.path)}" if unfit.path else ""
                self.held.append(Held(paths.shown(real), f"{_capital(str(unfit))}{where}."))
                return []
            except OSError as error:
                self.held.append(Held(paths.shown(real), f"It can't be reached: {error.strerror}."))
                return []
            if reason := self._guards.user_of(target):
                self.held.append(Held(paths.shown(real), reason))
                return []
            targets.append(target)
        return targets

    def _is_taken(self, path: str) -> bool:
        here = path
        while here != "/":
            if here in self._taken:
                return True
            here = os.path.dirname(here)
        return False

    def _walk(self, source: Source, path: str) -> Target:
        above, _, name = path.rpartition("/")
        parent = tree.open_folder(above or "/")
        try:
            entries = Entries(path, self._excludes, repositories=not source.marked and source.item.risk != "high")
            entries.top()
            row, dirs = tree.snapshot(parent, name, look=entries.look, stop=self._stop)
            status = os.fstat(parent)
        finally:
            os.close(parent)
        files = 1 if row is not None else sum(len(d.rows) for d in dirs)
        self._files += files
        self._report(self._files)
        return Target(0, os.fsencode(path), status.st_dev, status.st_ino, row, dirs, 0, 0, files)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _accounted(targets: list[Target]) -> tuple[list[Target], int]:
    """The targets with their bytes, and the sum: a file counts once, and as freed where its last name goes."""
    links: dict[Key, int] = {}
    done: list[Target] = []
    for target in targets:
        blocks = sum(d.blocks for d in target.dirs)
        freed = blocks
        for rows in [[target.row]] if target.row is not None else [d.rows for d in target.dirs]:
            for row in rows:
                if row[6] == 1:
                    blocks += row[5]
                    freed += row[5]
                    continue
                key = (row[1], row[2])
                names = links[key] = links.get(key, 0) + 1
                blocks += row[5] * (names == 1)
                freed += row[5] * (names == row[6])
        done.append(msgspec.structs.replace(target, size=blocks * 512, freed=freed * 512))
    return done, sum(t.size for t in done)


def _lines(sources: list[Source], counts: list[int], targets: list[Target]) -> tuple[PlanLine, ...]:
    """One line an item; sets each target's ``line``."""
    lines = []
    start = 0
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        own = targets[start : start + count]
        targets[start : start + count] = [msgspec.structs.replace(t, line=number) for t in own]
        start += count
        item = source.item
        lines.append(
            PlanLine(
                item=item.id,
                title=item.name,
                paths=tuple(paths.shown(t.text()) for t in own),
                bytes=sum(t.size for t in own),
                freed_bytes=sum(t.freed for t in own),
                files=sum(t.files for t in own),
                risk=item.risk,
                restore=item.restore,
            )
        )
    return tuple(lines)


def exact(size: int) -> str:
    """A size for reading and for checking: "3.2 GB (3,214,567,890 bytes)"."""
    return f"{formats.size(size)} ({size:,} bytes)"
