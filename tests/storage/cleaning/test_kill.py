"""kill -9 before each step of each thing a clean-up does, in a real process; then the next action ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.storage.cleaning import quarantine
from services.storage.cleaning.history import read
from services.storage.cleaning.store import Store
from services.storage.cleaning.work import Cleaner
from services.workspace import Workspace
from tests.storage.cleaning.beds import batches, fingerprint, grow, plan_of, undo_all

CHECKOUT = Path(__file__).parents[3]
Job = Callable[[Cleaner, Store], object]


class Bed:
    """Two trees, and after each kill what must be true of them."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace = workspace
        self.folder = folder
        self.store = Store(workspace)

    def grow(self, number: int) -> None:
        self.cache = self.folder / str(number)
        rng = random.Random(number)
        self.tops = [self.cache / "one", self.cache / "two"]
        for top in self.tops:
            grow(top, rng, lambda: rng.randbytes(20), entries=12)
        self.before = fingerprint(self.cache)

    def killed_at(self, step: int, job: Job) -> bool:
        """Do ``job`` in a child that dies before its ``step``-th step; false when it had fewer."""
        child = os.fork()
        if child == 0:
            try:
                steps = 0

                def count(_: str) -> None:
                    nonlocal steps
                    steps += 1
                    if steps == step:
                        os.kill(os.getpid(), signal.SIGKILL)

                with self.store.lock():
                    job(Cleaner(self.store, step=count), self.store)
                os._exit(0)
            except BaseException:
                os._exit(3)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    def recover(self) -> list[str]:
        with self.store.lock():
            return Cleaner(self.store).recover()


@pytest.fixture
def bed(workspace: Workspace, tmp_path: Path) -> Bed:
    return Bed(workspace, tmp_path / "cache")


def through(bed: Bed, prepare: Callable[[], Job], check: Callable[[], None]) -> int:
    """``prepare`` and kill at step 1, 2, … until the job ends by itself; ``check`` after each recovery."""
    step = 0
    while True:
        step += 1
        bed.grow(step)
        job = prepare()
        killed = bed.killed_at(step, job)
        bed.recover()
        assert bed.recover() == [], "recovering twice must find nothing"
        for _, note in batches(bed.workspace):
            assert note.phase == "trashed"
        check()
        if not killed:
            return step


def test_moving_to_the_trash(bed: Bed) -> None:
    def prepare() -> Job:
        stored = plan_of(bed.workspace, bed.tops, bed.cache)
        return lambda cleaner, _: cleaner.execute(stored, now=False)

    def check() -> None:
        there = [top.exists() for top in bed.tops]
        assert there in ([True, True], [False, False])
        assert (not all(there)) == bool(batches(bed.workspace)), "either at its place or listed"
        assert undo_all(bed.workspace) == []
        inside = {k: v for k, v in fingerprint(bed.cache).items() if k}
        assert inside == {k: v for k, v in bed.before.items() if k}

    assert through(bed, prepare, check) > 6


@pytest.fixture(params=[quarantine.AT_TWO, 1], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting as few and as many files do it."""
    monkeypatch.setattr(quarantine, "AT_TWO", request.param)
    monkeypatch.setattr(quarantine, "processors", lambda: 2)


@pytest.mark.usefixtures("threads")
def test_freeing_at_once(bed: Bed) -> None:
    def prepare() -> Job:
        stored = plan_of(bed.workspace, bed.tops, bed.cache)
        return lambda cleaner, _: cleaner.execute(stored, now=True)

    def check() -> None:
        there = [top.exists() for top in bed.tops]
        assert there in ([True, True], [False, False]), "back at its place, or freed"
        if all(there):
            inside = {k: v for k, v in fingerprint(bed.cache).items() if k}
            assert inside == {k: v for k, v in bed.before.items() if k}
        assert not batches(bed.workspace)
        assert not list((bed.workspace.state / "trash").iterdir())

    assert through(bed, prepare, check) > 6


def trashed(bed: Bed) -> None:
    with bed.store.lock():
        Cleaner(bed.store).execute(plan_of(bed.workspace, bed.tops, bed.cache), now=False)


def test_undoing(bed: Bed) -> None:
    def prepare() -> Job:
        trashed(bed)
        batch, note = batches(bed.workspace)[0]
        return lambda cleaner, _: cleaner.undo(batch, note)

    def check() -> None:
        assert undo_all(bed.workspace) == []
        assert fingerprint(bed.cache) == bed.before
        assert not batches(bed.workspace)

    assert through(bed, prepare, check) > 3


@pytest.mark.usefixtures("threads")
def test_emptying(bed: Bed) -> None:
    def prepare() -> Job:
        trashed(bed)
        every = batches(bed.workspace)
        return lambda cleaner, _: cleaner.purge(every)

    def check() -> None:
        left = batches(bed.workspace)
        assert undo_all(bed.workspace) == []
        inside = {k: v for k, v in fingerprint(bed.cache).items() if k}
        assert inside == ({k: v for k, v in bed.before.items() if k} if left else {})
        assert not list((bed.workspace.state / "trash").iterdir())

    assert through(bed, prepare, check) > 4


def test_an_inode_that_became_another_files_is_not_in_use(bed: Bed, tmp_path: Path) -> None:
    """What a killed deleting had got to is gone; a process that opened a new file with such an inode holds nothing."""
    bed.grow(1)
    trashed(bed)
    every = batches(bed.workspace)
    planned = {row[2] for t in bed.store.stored(every[0][0]).targets for d in t.dirs for row in d.rows}
    step = 0
    while True:  # until it had deleted something
        step += 1
        if not bed.killed_at(step, lambda cleaner, _: cleaner.purge(every)):
            pytest.fail("it was never killed while it deleted")
        left = {e.stat(follow_symlinks=False).st_ino for e in _below(bed.workspace.state / "trash")}
        if planned - left:
            break
    files = [open(tmp_path / f"new{n}", "wb") for n in range(500)]  # noqa: SIM115
    reader, writer = os.pipe()
    held = [file for file in files if os.fstat(file.fileno()).st_ino in planned - left]
    if not held:
        pytest.skip("this file system does not give a free inode number out again")
    holder = os.fork()
    if holder == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    for file in files:
        file.close()
    try:
        bed.recover()
        assert not batches(bed.workspace)
    finally:
        os.close(writer)
        os.close(reader)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def _below(top: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(top):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def test_each_clean_up_is_in_the_history_once(bed: Bed) -> None:
    def prepare() -> Job:
        stored = plan_of(bed.workspace, bed.tops, bed.cache)
        return lambda cleaner, _: cleaner.execute(stored, now=True)

    def check() -> None:
        events = read(bed.store.folder / "history.jsonl").events
        assert len({(e.batch, e.what) for e in events}) == len(events)
        new = [e.what for e in events if e.batch not in seen]
        assert new.count("freed") == (not bed.tops[0].exists())
        seen.update(e.batch for e in events)

    seen: set[str] = set()
    through(bed, prepare, check)


@pytest.mark.parametrize("round_", range(4))
def test_a_command_killed_at_any_moment(
    workspace: Workspace, tmp_path: Path, round_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real command, killed from outside while it deletes: the rest is freed by the next action, nothing else is."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for number in range(60):
        (home / "cache" / str(number)).mkdir(parents=True)
        for name in range(50):
            (home / "cache" / str(number) / str(name)).touch()
    (home / "neighbour").write_text("stays")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "hybrid_tui", "--workspace", str(workspace.root), "--yes", "--run"]
    what = ["storage.clean", f"paths={home / 'cache'}", "now=true"]
    with subprocess.Popen([*command, *what], env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 20
        while (home / "cache").exists() and time.monotonic() < until:
            time.sleep(0.0005)
        time.sleep(0.002 * round_)
        process.kill()
    left = subprocess.run([*command, "storage.trash"], env=environment, capture_output=True, text=True)
    assert left.returncode == 0, left.stderr
    assert not batches(workspace)
    files = [p for p in (home / "cache").rglob("*") if p.is_file()] if (home / "cache").exists() else []
    assert len(files) in (0, 3000), "all back or all freed"
    assert not list((workspace.state / "trash").iterdir())
    assert (home / "neighbour").read_text() == "stays"
