"""Run by test_mounts.py inside a mount namespace of its own: ``python -m … CASE FOLDER``. An assertion fails it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from services import workspace as workspaces
from services.errors import HybridError
from services.storage.cleaning.records import StoredPlan
from services.storage.cleaning.store import Store
from services.storage.cleaning.work import Cleaner
from services.storage.reclaim import Cleaned
from services.workspace import Workspace
from tests.storage.cleaning.beds import batches, fingerprint, plan_of, undo_all


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def fill(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/c"):
        (folder / name).write_text(name * 2000)
    os.utime(folder / "deep", ns=(10**18, 10**18))
    return folder


def execute(workspace: Workspace, stored: StoredPlan, *, now: bool = False, step=lambda _: None) -> Cleaned:  # type: ignore[no-untyped-def]
    store = Store(workspace)
    with store.lock():
        return Cleaner(store, step=step).execute(stored, now=now)


def bind_inside(base: Path, workspace: Workspace) -> None:
    """A folder mounted into the tree holds it, though its device is the same."""
    tree, other = fill(base / "cache" / "tree"), fill(base / "other")
    mount("--bind", other, tree / "deep")
    stored = plan_of(workspace, [tree], base / "cache")
    assert not stored.targets
    assert "mounted in it" in stored.plan.held[0].reason, stored.plan.held


def bind_after_the_plan(base: Path, workspace: Workspace) -> None:
    """Mounted after the plan, before and after the move: what it shows is not touched."""
    for when in ("begin", "journal verify", "journal purge", "delete"):
        tree, other = fill(base / when / "tree"), fill(base / f"{when} other")
        before = fingerprint(other)
        stored = plan_of(workspace, [tree], base / when)
        done: list[str] = []

        def step(name: str, when: str = when, tree: Path = tree, other: Path = other, done: list[str] = done) -> None:
            if name == when and not done:
                done.append(name)
                place = tree if tree.exists() else max((workspace.state / "trash").glob("*/0"), key=_moved)
                mount("--bind", other, place / "deep")

        result = execute(workspace, stored, now="purge" in when or when == "delete", step=step)
        assert done and result.held, when
        assert fingerprint(other) == before, when


def _moved(path: Path) -> int:
    return path.parent.stat().st_mtime_ns


def full_disk(base: Path, workspace: Workspace) -> None:
    """A disk with no byte left can be cleaned, from the room set aside; without that it is told in a sentence."""
    for reserve in (True, False):
        disk = base / f"disk{reserve}"
        disk.mkdir()
        mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", disk)
        own = workspaces.init(disk / "work")
        Store(own).prepare()
        tree = fill(disk / "work" / "tree")
        (tree / "big").write_bytes(b"x" * 4_000_000)
        before = fingerprint(tree)
        if not reserve:
            (Store(own).folder / "reserve").unlink()
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        if reserve:
            free = os.statvfs(disk).f_bfree
            done = execute(own, plan_of(own, [tree], own.root), now=True)
            assert not tree.exists() and not done.held and os.statvfs(disk).f_bfree > free
            continue
        try:
            execute(own, plan_of(own, [tree], own.root), now=True)
        except (HybridError, OSError) as error:
            assert "full" in str(error) or "No space" in str(error), error
        else:
            raise AssertionError("it should not have been able to keep its journal")
        assert fingerprint(tree) == before


def read_only(base: Path, workspace: Workspace) -> None:
    """A tree on a read-only file system is held; a read-only workspace refuses."""
    disk = base / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    tree = fill(disk / "tree")
    own = workspaces.init(disk / "work")
    stored, other = plan_of(workspace, [tree], disk), plan_of(own, [tree], disk)
    mount("-o", "remount,ro", disk)
    done = execute(workspace, stored)
    assert len(done.held) == 1 and "read-only" in done.held[0].reason.lower(), done.held
    try:
        execute(own, other)
    except HybridError as error:
        assert "can't be written" in str(error) or "read-only" in str(error), error
    else:
        raise AssertionError("the workspace can't be written")
    assert (tree / "deep" / "b").exists()


def another_disk(base: Path, workspace: Workspace) -> None:
    """What lies on another file system gets a trash there, and comes back the same; also when unmounted meanwhile."""
    disk = base / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    tree = fill(disk / "cache" / "tree")
    before = fingerprint(tree)
    done = execute(workspace, plan_of(workspace, [tree], disk / "cache"))
    assert not tree.exists() and not done.held
    place = disk / f".hybrid-trash-{os.geteuid()}"
    assert place.stat().st_mode & 0o777 == 0o700 and list(place.iterdir())
    hidden = base / "hidden"
    hidden.mkdir()
    mount("--move", disk, hidden)
    try:
        undo_all(workspace)
    except HybridError as error:
        assert "can't be reached" in str(error)
    else:
        raise AssertionError("its disk is not there")
    assert batches(workspace)
    mount("--move", hidden, disk)
    assert undo_all(workspace) == []
    assert fingerprint(tree) == before
    again = execute(workspace, plan_of(workspace, [tree], disk / "cache"), now=True)
    assert not tree.exists() and not again.batch and not list(place.iterdir())


def overlay(base: Path, workspace: Workspace) -> None:
    """A folder of an overlay's lower layer can't be renamed: it is moved file by file, and comes back the same."""
    disk = base / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    for name in ("upper", "work", "merged"):
        (disk / name).mkdir()
    fill(disk / "lower" / "cache" / "tree")
    (disk / "lower" / "cache" / "tree" / "link").symlink_to("deep")
    options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work,redirect_dir=off,xino=on"
    mount("-t", "overlay", "-o", options, "overlay", disk / "merged")
    tree = disk / "merged" / "cache" / "tree"
    before = fingerprint(tree)
    done = execute(workspace, plan_of(workspace, [tree], tree.parent))
    assert not tree.exists() and not done.held and done.files == 4, done
    assert undo_all(workspace) == []
    assert fingerprint(tree) == before
    done = execute(workspace, plan_of(workspace, [tree], tree.parent), now=True)
    assert not tree.exists() and not done.held and done.files == 4, done
    assert (disk / "lower" / "cache" / "tree" / "a").exists()


if __name__ == "__main__":
    case, folder = sys.argv[1:]
    os.environ["HOME"] = folder
    globals()[case](Path(folder), workspaces.init(Path(folder) / "workspace"))
