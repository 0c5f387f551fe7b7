"""Cleaning, undoing, emptying, as the actions do it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hybrid_tui import actions as table
from services import workspace as workspaces
from services.context import Context, NeedsYes, Plan, Progress
from services.errors import BadInput, Refused
from services.settings import Cleaning
from services.storage.cleaning import actions, quarantine
from services.storage.cleaning.params import (
    CleanParams,
    HistoryParams,
    PlanParams,
    PurgeParams,
    TrashParams,
    UndoParams,
)
from services.storage.cleaning.store import Store
from services.storage.cleaning.tree import Stopped
from services.storage.cleaning.work import Cleaner
from services.storage.reclaim import Cleaned, CleanPlan, KindItems, Purged, Restored, TrashList
from services.workspace import Workspace
from tests.storage.cleaning.beds import batches, fingerprint, item, plan_of, undo_all

Box = tuple[Context, Path]


@pytest.fixture
def box(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """A home with a cache of two folders, and a context that says yes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / ".cache"
    for name, size in (("one", 100_000), ("two", 50_000)):
        (cache / name / "deep").mkdir(parents=True)
        (cache / name / "deep" / "file").write_bytes(os.urandom(size))
        os.link(cache / name / "deep" / "file", cache / name / "same")
        (cache / name / "link").symlink_to("deep")
        (cache / name / "deep").chmod(0o555)
        os.utime(cache / name, ns=(10**18, 10**18))
    return Context(workspace, yes=True), cache


def listed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The kinds of this box: one, with both folders as its items."""
    import sys
    import types

    things = tuple(item(name, cache / name) for name in ("one", "two"))
    kind = KindItems("test", "Test", (str(cache),), True, None, None, None, None, "It comes back.", "low", things)

    def list_kinds(_workspace: object, names: tuple[str, ...] = (), **_: object) -> tuple[KindItems, ...]:
        return (kind,) if not names or "test" in names else ()

    module = types.ModuleType("services.storage.kinds.listing")
    module.list_kinds = list_kinds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "services.storage.kinds.listing", module)
    monkeypatch.setattr("services.storage.kinds.listing", module, raising=False)


def both(cache: Path) -> tuple[str, ...]:
    return str(cache / "one"), str(cache / "two")


async def clean(ctx: Context, **values: object) -> Cleaned:
    done = await actions.clean(ctx, CleanParams(**values))  # type: ignore[arg-type]
    assert isinstance(done, Cleaned)
    return done


async def undo(ctx: Context, batch: str = "") -> Restored:
    done = await actions.undo(ctx, UndoParams(batch))
    assert isinstance(done, Restored)
    return done


async def trash(ctx: Context) -> TrashList:
    return await actions.trash(ctx, TrashParams())


async def test_undo_is_identical_also_the_folder_it_lay_in(box: Box) -> None:
    ctx, cache = box
    before = fingerprint(cache)
    done = await clean(ctx, paths=both(cache))
    assert not list(cache.iterdir()) and not done.held
    assert done.files == 6 and abs(done.disk_freed_bytes) < done.freed_bytes + 10_000_000
    (batch,) = (await trash(ctx)).batches
    assert (batch.id, batch.state, batch.files) == (done.batch, "whole", 6)
    restored = await undo(ctx)
    assert (restored.batch, restored.files, restored.kept) == (done.batch, 6, ())
    assert fingerprint(cache) == before
    assert not (await trash(ctx)).batches


async def test_all_that_is_safe_goes_when_nothing_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, cache = box
    listed(monkeypatch, cache)
    plan = await actions.plan(ctx, PlanParams())
    assert [line.item for line in plan.lines] == ["test:one", "test:two"]
    assert "2 items of test" in plan.scope
    done = await clean(ctx, items=("test:two",), now=True)
    assert (done.files, done.batch) == (3, "")
    assert [p.name for p in cache.iterdir()] == ["one"]


async def test_a_plan_is_executed_exactly_and_once(box: Box) -> None:
    ctx, cache = box
    plan = await actions.plan(ctx, PlanParams(paths=(both(cache)[0],)))
    (cache / "later").mkdir()
    done = await clean(ctx, plan=plan.id, now=True)
    assert sorted(p.name for p in cache.iterdir()) == ["later", "two"]
    assert done.plan == plan.id and done.freed_bytes == plan.freed_bytes
    with pytest.raises(BadInput, match="no plan"):
        await clean(ctx, plan=plan.id)
    with pytest.raises(BadInput, match="kinds= can't be given with it"):
        await clean(ctx, plan=plan.id, kinds=("pip",))
    with pytest.raises(BadInput, match="no plan"):
        await clean(ctx, plan="../../../etc/passwd")


@pytest.mark.parametrize("now", [False, True])
async def test_what_changed_after_the_plan_stays_at_its_place(box: Box, now: bool) -> None:
    ctx, cache = box
    plan = await actions.plan(ctx, PlanParams(paths=both(cache)))
    (cache / "one" / "new").write_text("new")
    (cache / "one" / "deep" / "file").write_text("changed")
    (cache / "two").rename(cache / "moved")
    (cache / "two").symlink_to(cache / "moved")
    done = await clean(ctx, plan=plan.id, now=now)
    reasons = {Path(held.path).relative_to(cache).as_posix(): held.reason for held in done.held}
    assert reasons == {
        "one/new": "It appeared after the plan was made.",
        "one/deep/file": "It was changed after the plan was made.",
        "one/same": "It was changed after the plan was made.",
        "two": "It was changed after the plan was made.",
    }
    assert (cache / "one" / "new").read_text() == "new"
    assert (cache / "one" / "deep" / "file").read_text() == "changed"
    assert not (cache / "one" / "link").is_symlink()
    assert (cache / "two" / "deep" / "file").stat().st_size == 50_000
    if not now:
        await undo(ctx)
        assert (cache / "one" / "link").is_symlink()
    assert not (await trash(ctx)).batches


async def test_undo_overwrites_nothing_and_can_be_taken_up_again(box: Box) -> None:
    ctx, cache = box
    before = fingerprint(cache / "one", folder_times=False)
    await clean(ctx, paths=both(cache))
    (cache / "one" / "deep").mkdir(parents=True)
    (cache / "one" / "deep" / "file").write_text("another")
    (cache / "two").write_text("a file now")
    restored = await undo(ctx)
    assert {held.path: held.reason for held in restored.kept} == {
        str(cache / "one" / "deep" / "file"): "Its old place is taken.",
        str(cache / "two"): "Its old place is taken.",
    }
    assert (cache / "one" / "deep" / "file").read_text() == "another"
    (batch,) = (await trash(ctx)).batches
    assert (batch.state, batch.files) == ("partly", 4)
    (cache / "one" / "deep" / "file").unlink()
    (cache / "one" / "deep").chmod(0o555)
    (cache / "two").unlink()
    assert not (await undo(ctx, batch.id)).kept
    assert fingerprint(cache / "one", folder_times=False) == before
    assert (cache / "two" / "same").stat().st_nlink == 2


async def test_folders_above_are_made_again(box: Box) -> None:
    ctx, cache = box
    await clean(ctx, paths=both(cache))
    cache.rmdir()
    assert not (await undo(ctx)).kept
    assert (cache / "one" / "deep" / "file").stat().st_size == 100_000


async def test_a_yes_is_needed_and_told_exactly_and_nothing_is_written_without(box: Box) -> None:
    ctx, cache = box
    before = fingerprint(cache)
    asking = Context(ctx.workspace)
    plan: CleanPlan = await actions.plan(ctx, PlanParams(paths=both(cache)))
    for now, words in ((False, "to the trash"), (True, "for good")):
        with pytest.raises(NeedsYes) as caught:
            await clean(asking, plan=plan.id, now=now)
        assert words in caught.value.plan.summary
        assert f"{plan.freed_bytes:,} bytes" in caught.value.plan.summary
        assert caught.value.plan.freed_bytes == plan.freed_bytes
    with pytest.raises(Refused, match="read-only"):
        await clean(Context(ctx.workspace, read_only=True, yes=True), paths=both(cache))
    assert fingerprint(cache) == before


async def test_dry_run_and_read_only_write_nothing_at_all(box: Box) -> None:
    ctx, cache = box
    before = fingerprint(ctx.workspace.root)
    dry = await actions.clean(Context(ctx.workspace, dry_run=True, yes=True), CleanParams(paths=both(cache)))
    assert isinstance(dry, Plan) and dry.freed_bytes > 150_000
    assert not any("plan=" in step for step in dry.steps), "it was not kept"
    plan = await actions.plan(Context(ctx.workspace, read_only=True), PlanParams(paths=both(cache)))
    assert plan.id == "" and plan.files == 6
    await trash(Context(ctx.workspace, read_only=True))
    assert fingerprint(ctx.workspace.root) == before


@pytest.mark.parametrize(
    ("name", "word"), [("older_than_days", "-1"), ("under_gb", "-3"), ("risk", "lots"), ("now", "perhaps")]
)
def test_an_unusable_parameter_is_told(name: str, word: str) -> None:
    with pytest.raises(BadInput, match=f"storage.clean: {name}={word} is not usable"):
        table.convert(table.find("storage.clean"), {name: word})


def test_parameters_in_words() -> None:
    words = {"paths": "~/a,~/b", "older_than_days": "2.5", "now": "true"}
    params = table.convert(table.find("storage.clean"), words)
    assert params == CleanParams(paths=("~/a", "~/b"), older_than_days=2.5, now=True)


async def test_keep_and_exclude_come_from_the_settings_too(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, cache = box
    listed(monkeypatch, cache)
    file = ctx.workspace.root / "hybrid.toml"
    file.write_text('[cleaning]\nkeep = ["test:o*"]\nexclude = ["nothing", "lin?"]\n')
    own = Context(workspaces.open_workspace(ctx.workspace.root), yes=True)
    assert not own.workspace.warnings
    plan = await actions.plan(own, PlanParams(kinds=("test",)))
    assert [held.reason for held in plan.held] == [
        "It is on the list of what is kept ('test:o*').",
        "It holds something excluded: link.",
    ]
    monkeypatch.setenv("HYBRID_CLEANING_KEEP", "a, test:two")
    assert workspaces.open_workspace(ctx.workspace.root).settings.cleaning.keep == ("a", "test:two")


async def test_purge_asks_and_frees(box: Box) -> None:
    ctx, cache = box
    await clean(ctx, paths=(both(cache)[0],))
    second = await clean(ctx, paths=(both(cache)[1],))
    (size,) = [b.bytes for b in (await trash(ctx)).batches if b.id == second.batch]
    with pytest.raises(NeedsYes, match=f"1 batch .*{size:,} bytes"):
        await actions.purge(Context(ctx.workspace), PurgeParams(second.batch))
    done = await actions.purge(ctx, PurgeParams(second.batch))
    assert isinstance(done, Purged) and done.batches == (second.batch,) and done.bytes == size
    assert len((await trash(ctx)).batches) == 1
    assert isinstance(await actions.purge(ctx, PurgeParams(older_than_days=1)), Purged)
    assert len((await trash(ctx)).batches) == 1
    await actions.purge(ctx, PurgeParams())
    assert not list((ctx.workspace.state / "trash").iterdir()) and not (await trash(ctx)).batches
    with pytest.raises(BadInput, match="trash is empty"):
        await undo(ctx)
    history = await actions.history_of(ctx, HistoryParams())
    assert [event.what for event in history.events] == ["purged", "purged", "trashed", "trashed"]


async def test_the_time_in_the_trash_ends_at_the_next_clean_up_which_says_so(box: Box) -> None:
    ctx, cache = box
    first = await clean(ctx, paths=(both(cache)[0],))
    settings = msgspec.structs.replace(ctx.workspace.settings, cleaning=Cleaning(trash_days=0))
    later = Context(Workspace(ctx.workspace.root, settings))
    with pytest.raises(NeedsYes) as caught:
        await clean(later, paths=(both(cache)[1],))
    assert any("time is over for 1 batch" in step for step in caught.value.plan.steps)
    assert [b.id for b in (await trash(later)).batches] == [first.batch]
    done = await clean(Context(later.workspace, yes=True), paths=(both(cache)[1],))
    assert any("time in the trash was over: 1 batch" in note for note in done.notes)
    assert [b.id for b in (await trash(later)).batches] == [done.batch]


async def test_the_history_bears_a_torn_and_a_damaged_line(box: Box) -> None:
    ctx, cache = box
    await clean(ctx, paths=(both(cache)[0],), now=True)
    file = ctx.workspace.state / "cleaning" / "history.jsonl"
    file.write_bytes(file.read_bytes() + b'{"at": "x"}\n{"at": 12')
    history = await actions.history_of(ctx, HistoryParams())
    assert len(history.events) == 1
    assert [p.split(": ")[1].split(" ")[1] for p in history.problems] == ["2", "3"]
    await clean(ctx, paths=(both(cache)[1],), now=True)
    assert len((await actions.history_of(ctx, HistoryParams())).events) == 2
    assert b'{"at": 12\n' in file.read_bytes()


async def test_a_second_clean_up_at_the_same_time_is_refused(box: Box) -> None:
    ctx, cache = box
    store = Store(ctx.workspace)
    store.prepare()
    with (store.folder / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="Another clean-up of this workspace is at work"):
            await clean(ctx, paths=both(cache))
        assert not (await trash(ctx)).batches
    assert (await clean(ctx, paths=both(cache))).files == 6


@pytest.mark.parametrize("now", [False, True])
def test_cancelling_puts_back_or_keeps_the_rest_in_the_trash(box: Box, now: bool) -> None:
    ctx, cache = box
    before = fingerprint(cache)
    stop = threading.Event()
    store = Store(ctx.workspace)
    stored = plan_of(ctx.workspace, [cache / "one", cache / "two"], cache)

    def step(name: str) -> None:
        if name == ("delete" if now else "journal verify"):
            stop.set()

    with store.lock():
        cleaner = Cleaner(store, stop=stop, step=step)
        if now:
            done = cleaner.execute(stored, now=True)
            assert done.batch and done.files < 6
            ((batch, note),) = batches(ctx.workspace)
            assert not Cleaner(store).undo(batch, note).kept
            assert (cache / "two" / "deep" / "file").exists()
        else:
            with pytest.raises(Stopped):
                cleaner.execute(stored, now=False)
            assert fingerprint(cache) == before
    assert not batches(ctx.workspace)


async def test_a_damaged_journal_is_told_and_stops_nothing_else(box: Box) -> None:
    ctx, cache = box
    first = await clean(ctx, paths=(both(cache)[0],))
    (ctx.workspace.state / "cleaning" / "batches" / f"{first.batch}.log").write_bytes(b"\x00\x00\n")
    done = await clean(ctx, paths=(both(cache)[1],))
    assert any("is damaged" in note for note in done.notes)
    listed = await trash(ctx)
    assert [b.id for b in listed.batches] == [done.batch]
    assert any("is damaged" in note for note in listed.notes)
    assert (ctx.workspace.state / "trash" / first.batch / "0" / "same").exists()


def test_a_tree_deeper_than_any_path_goes_and_comes_back(box: Box) -> None:
    ctx, cache = box
    here = os.getcwd()
    (cache / "deep").mkdir()
    try:
        os.chdir(cache / "deep")
        for _ in range(300):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        Path("end").write_text("end")
    finally:
        os.chdir(here)
    store = Store(ctx.workspace)
    for now in (False, True):
        stored = plan_of(ctx.workspace, [cache / "deep"], cache)
        assert stored.plan.files == 1
        with store.lock():
            done = Cleaner(store).execute(stored, now=now)
            assert (done.files, done.held) == (1, ())
            assert not (cache / "deep").exists()
            for batch, note in batches(ctx.workspace):
                assert not Cleaner(store).undo(batch, note).kept


async def test_many_files_are_planned_quickly_and_reported(box: Box) -> None:
    ctx, cache = box
    for number in range(50):
        (cache / "many" / str(number)).mkdir(parents=True)
        for name in range(100):
            (cache / "many" / str(number) / str(name)).touch()
    seen: list[Progress] = []
    reporting = Context(ctx.workspace, seen.append, yes=True)
    started = time.perf_counter()
    plan = await actions.plan(ctx, PlanParams(paths=(str(cache / "many"),)))
    assert time.perf_counter() - started < 3
    assert (ctx.workspace.state / "cleaning" / "plans" / plan.id).stat().st_size < 5000 * 40
    await clean(reporting, plan=plan.id, now=True)
    await asyncio.sleep(0)
    assert seen and seen[-1].unit == "files"


def as_nobody(work: Callable[[], None]) -> None:
    """Run ``work`` in a child without root's rights."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_roots_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders without write permission go and come back as they were; what belongs to root stays, in a sentence."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        base = Path(folder)
        monkeypatch.setenv("HOME", str(base / "home"))
        base.chmod(0o755)
        (base / "home").mkdir()
        (base / "home" / "roots" / "inner").mkdir(parents=True)
        (base / "home" / "roots" / "inner" / "file").touch()
        for path in (base, base / "home"):
            os.chown(path, 65534, 65534)

        def work() -> None:
            workspace = workspaces.init(base / "work")
            store = Store(workspace)
            module = base / "home" / "mod"
            (module / "v1").mkdir(parents=True)
            (module / "v1" / "code.go").write_text("x")
            (module / "v1").chmod(0o555)
            module.chmod(0o555)
            before = fingerprint(module)
            for now in (False, True):
                stored = plan_of(workspace, [module, base / "home" / "roots" / "inner"], base / "home")
                assert "other users" in stored.plan.notes[0] or "another user" in stored.plan.notes[0]
                with store.lock():
                    done = Cleaner(store).execute(stored, now=now)
                assert [held.reason for held in done.held] == [
                    "You may not move it: it, or the folder it lies in, belongs to another user."
                ]
                assert not module.exists() and done.files == 1
                if not now:
                    assert undo_all(workspace) == []
                    assert fingerprint(module) == before
            assert not batches(workspace)

        as_nobody(work)
        assert (base / "home" / "roots" / "inner" / "file").exists()


def test_two_threads_delete_just_what_the_plan_shows(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "AT_TWO", 500)
    monkeypatch.setattr(quarantine, "processors", lambda: 2)
    cache = tmp_path / "cache"
    tree = cache / "tree"
    for number in range(120):
        folder = tree / f"part{number // 25}" / f"folder{number}" / "deep"
        folder.mkdir(parents=True)
        for index in range(10):
            (folder / f"file{index}").write_bytes(b"x" * 1000)
    stored = plan_of(workspace, [tree], cache)
    kept = {tree / f"part{n // 25}" / f"folder{n}" / "deep": n for n in (3, 59, 60, 61, 119)}
    for folder, number in kept.items():
        (folder / "new").write_text(f"new{number}")
        (folder / "file5").write_text(f"changed{number}")
    at: list[int] = []
    with Store(workspace).lock():
        cleaner = Cleaner(Store(workspace), step=lambda name: at.append(threading.get_ident()))
        done = cleaner.execute(stored, now=True)
    assert len(set(at)) == 2
    assert done.files == 1200 - len(kept) and len(done.held) == 2 * len(kept)
    left = sorted(path for path in cache.rglob("*") if path.is_file())
    assert left == sorted(folder / name for folder in kept for name in ("new", "file5"))
    for folder, number in kept.items():
        assert ((folder / "new").read_text(), (folder / "file5").read_text()) == (f"new{number}", f"changed{number}")
    assert not batches(workspace) and not list((workspace.state / "trash").iterdir())
    folders = sum(folder.blocks for folder in stored.targets[0].dirs)
    rows = [row for folder in stored.targets[0].dirs for row in folder.rows]
    assert done.freed_bytes == 512 * (folders + sum(row[5] for row in rows) - len(kept) * rows[0][5])
