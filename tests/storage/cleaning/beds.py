"""What the clean-up's tests stand on: trees with everything that file systems hold, and fingerprints of them."""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from services.storage.cleaning.guards import Guards
from services.storage.cleaning.plan import Planner, Source, marked
from services.storage.cleaning.records import StoredPlan
from services.storage.cleaning.store import Note, Store
from services.storage.cleaning.work import Cleaner
from services.storage.reclaim import Item
from services.workspace import Workspace

Print = dict[str, tuple[object, ...]]


def fingerprint(top: Path | str, *, folder_times: bool = True) -> Print:
    """Every entry below ``top`` (itself as "."): type, mode, time of change, content, which names are one file."""
    found: Print = {}
    names: dict[tuple[int, int], str] = {}
    todo = [""]
    while todo:
        where = todo.pop()
        path = os.path.join(os.fspath(top), where)
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFREG:
            content = Path(path).read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFDIR:
            todo += [os.path.join(where, name) for name in os.listdir(path)]
        when = status.st_mtime_ns if folder_times or kind != stat.S_IFDIR else 0
        found[where] = (status.st_mode, when, content, (status.st_dev, status.st_ino))
    for where in sorted(found):  # the first name stands for the inode, which a copy would not share
        names.setdefault(found[where][3], where)  # type: ignore[arg-type]
    return {where: (*figures[:3], names[figures[3]]) for where, figures in found.items()}  # type: ignore[index]


NAMES = ("file", "ünïcode", "with space", "new\nline", os.fsdecode(b"\xff\xfe"), "-rf", "*", "a" * 200)


def grow(top: Path, rng: random.Random, token: Callable[[], bytes], *, entries: int) -> None:
    """A tree of about ``entries`` entries; each regular file holds a content of its own."""
    top.mkdir(parents=True)
    folders, files = [top], []
    for number in range(entries):
        folder = rng.choice(folders[-4:])
        path = folder / f"{rng.choice(NAMES)}{number}"
        draw = rng.random()
        if draw < 0.3:
            path.mkdir(mode=rng.choice((0o755, 0o700, 0o555)))
            folders.append(path)
        elif draw < 0.4 and files:
            os.link(rng.choice(files), path)
        elif draw < 0.5:
            path.symlink_to(rng.choice(["nowhere", "..", str(top), *map(str, folders)]))
        elif draw < 0.53:
            os.mkfifo(path)
        else:
            path.write_bytes(token())
            if draw < 0.6:
                os.truncate(path, 100_000)
            path.chmod(rng.choice((0o644, 0o600, 0o444)))
            files.append(path)
    for number, folder in enumerate(folders):
        os.utime(folder, ns=(10**18, 10**18 + number))


def plan_of(workspace: Workspace, tops: list[Path], root: Path, *, excludes: tuple[str, ...] = ()) -> StoredPlan:
    """A plan, kept, for ``tops`` below ``root``; each a marked path."""
    sources = [marked(str(top), (str(root),)) for top in tops]
    return keep(workspace, sources, excludes)


def keep(workspace: Workspace, sources: list[Source], excludes: tuple[str, ...] = ()) -> StoredPlan:
    stored = Planner(Guards(workspace), excludes, threading.Event(), lambda _: None).plan(sources, "test")
    Store(workspace).keep_plan(stored)
    return stored


def item(name: str, *paths: Path, risk: str = "low") -> Item:
    """A cache kind's item."""
    return Item(f"test:{name}", "test", name, tuple(map(str, paths)), 0, 0, 0, None, "It comes back.", risk)  # type: ignore[arg-type]


def batches(workspace: Workspace) -> list[tuple[str, Note]]:
    """What lies in the trash."""
    store = Store(workspace)
    found = [(batch, store.journal(batch).read()) for batch in store.ids()]
    return [(batch, note) for batch, note in found if note is not None]


def undo_all(workspace: Workspace) -> list[str]:
    """Undo every batch, latest first; the reasons of what was kept."""
    store = Store(workspace)
    kept = []
    with store.lock():
        for batch, note in batches(workspace):
            kept += [f"{held.path}: {held.reason}" for held in Cleaner(store).undo(batch, note).kept]
    return kept
