"""The recurrent tasks: what is due when, who marked it, and what was taken back."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.context import Context, Plan
from services.errors import BadInput, HybridError, Refused
from services.settings import Settings, Upkeep
from services.storage.types import Caches
from services.storage.upkeep import actions, facts, samples, tasks
from services.storage.upkeep.samples import DAY
from services.storage.upkeep.tasks import Done, Facts
from services.storage.upkeep.types import Task
from services.workspace import Workspace

NOW = 1_795_000_000.0


@pytest.fixture
def born(workspace: Workspace) -> Workspace:
    """A workspace made at NOW."""
    os.utime(workspace.state / ".gitignore", (NOW, NOW))
    return workspace


def having(workspace: Workspace, own: Mapping[str, str], log: str = Upkeep().log) -> Workspace:
    return Workspace(workspace.root, Settings(upkeep=Upkeep(log=log, tasks=dict(own))))


def one(workspace: Workspace, name: str, now: float, known: Facts | None = None) -> Task:
    return next(t for t in tasks.listed(workspace, known or Facts(), now).tasks if t.id == name)


@pytest.mark.parametrize(
    ("days", "state", "words"),
    [
        (0, "later", "due in 30 days"),
        (29.0, "later", "due in 1 day"),
        (30.1, "due", "due today"),
        (33, "due", "due since 3 days"),
        (40, "overdue", "10 days overdue"),
    ],
)
def test_a_task_never_done_is_due_one_interval_after_the_workspace_was_made(
    born: Workspace, days: float, state: str, words: str
) -> None:
    task = one(born, "drive-space", NOW + days * DAY)
    assert (task.state, task.words, task.last_done_at) == (state, words, None)


def test_done_and_undone(born: Workspace) -> None:
    tasks.mark(born, "versions", "done", "", NOW + 10 * DAY)
    tasks.mark(born, "versions", "done", " kept three ", NOW + 45 * DAY)
    task = one(born, "versions", NOW + 46 * DAY)
    assert (task.state, task.words, task.note, task.last_done_at) == (
        "later",
        "due in 29 days",
        "kept three",
        NOW + 45 * DAY,
    )
    tasks.mark(born, "versions", "undo", "", NOW + 46 * DAY)
    task = one(born, "versions", NOW + 46 * DAY)
    assert (task.state, task.last_done_at, task.note) == ("due", NOW + 10 * DAY, "")
    tasks.mark(born, "versions", "undo", "", NOW + 46 * DAY)
    assert one(born, "versions", NOW + 46 * DAY).last_done_at is None
    with pytest.raises(Refused, match="nothing to take back"):
        tasks.mark(born, "versions", "undo", "", NOW + 46 * DAY)


def test_own_tasks_and_changed_ones(born: Workspace) -> None:
    workspace = having(
        born,
        {
            "backup": "every 10 days: Copy the registry to the other Drive @registry",
            "licence": "yearly: Renew the licence of corpus a@b",
            "versions": "weekly",
            "notebooks": "never",
            "drive-space": "quarterly: Empty the bin of Drive",
            "Bad Name": "weekly: x",
            "no-interval": "sometimes: x",
            "no-title": "weekly",
            "zero": "every 0 days: x",
        },
    )
    found = tasks.listed(workspace, Facts(), NOW)
    by_name = {task.id: task for task in found.tasks}
    assert by_name.keys() == {"backup", "licence", "versions", "drive-space", "caches", "failed-runs", "repository"}
    backup = by_name["backup"]
    assert (backup.title, backup.where, backup.every_days) == ("Copy the registry to the other Drive", "registry", 10)
    assert (by_name["licence"].title, by_name["licence"].where) == ("Renew the licence of corpus a@b", "overview")
    assert by_name["versions"].every_days == 7 and by_name["versions"].where == "registry"
    assert by_name["drive-space"].title == "Empty the bin of Drive"
    assert len(found.problems) == 4 and all(problem.startswith("[upkeep] tasks: ") for problem in found.problems)


def test_the_most_pressing_come_first(born: Workspace) -> None:
    tasks.mark(born, "drive-space", "done", "", NOW + 85 * DAY)
    tasks.mark(born, "repository", "done", "", NOW + 58 * DAY)
    found = tasks.listed(born, Facts(caches="", runs="2 runs failed."), NOW + 92 * DAY)
    assert [task.state for task in found.tasks] == ["overdue", "overdue", "due", "due", "later", "idle"]
    assert found.tasks[0].id == "failed-runs" and found.tasks[-1].id == "caches" and found.due == 4


def test_what_needs_no_doing_is_not_due(born: Workspace) -> None:
    later = NOW + 30 * DAY
    assert one(born, "caches", later, Facts(caches="")).state == "idle"
    over = one(born, "caches", later, Facts(caches="The caches take 4 GB."))
    assert over.state == "overdue" and over.condition == "The caches take 4 GB."
    assert one(born, "caches", later, Facts(caches=None)).state == "overdue"


def end(run: Path, attempt: int, phase: str | None) -> None:
    folder = run / "attempts" / str(attempt)
    folder.mkdir(parents=True)
    line = b"" if phase is None else b'{"v":1,"ev":"end","data":{"code":1,"phase":"%s"}}\n' % phase.encode()
    (folder / "end.json").write_bytes(line.rjust(4096))


def test_facts_are_read_from_what_others_left(born: Workspace) -> None:
    assert facts.read(born) == Facts(caches=None, runs="")
    end(born.runs / "r1", 1, "failed")
    end(born.runs / "r2", 1, "failed")
    end(born.runs / "r2", 2, "succeeded")  # resumed, and well
    end(born.runs / "r3", 9, "succeeded")
    end(born.runs / "r3", 10, "over-budget")
    end(born.runs / "r4", 1, None)  # running
    (born.runs / "stray").write_text("x")
    (born.runs / "empty").mkdir()
    assert facts.read(born).runs == "2 runs failed: r1, r3."
    samples.record_caches(born, Caches((), 4 * 10**9, 3 * 10**9, True), now=NOW)
    assert "1.0 GB more than their budget" in (facts.read(born).caches or "")
    samples.record_caches(born, Caches((), 1, 3 * 10**9, True), now=NOW)
    assert facts.read(born).caches == ""


def test_a_damaged_log_is_read_as_far_as_it_goes(born: Workspace) -> None:
    tasks.mark(born, "versions", "done", "", NOW)
    file = tasks.log_path(born)
    file.write_bytes(file.read_bytes() + b'\xff\n{"task":"versions","at":"x"}\n{"task":"vers')
    found = tasks.listed(born, Facts(), NOW)
    assert found.problems == (f"3 lines of {file} can't be read and are left out.",)
    tasks.mark(born, "notebooks", "done", "", NOW)
    assert one(born, "notebooks", NOW).last_done_at == NOW and one(born, "versions", NOW).last_done_at == NOW


def test_two_people_who_mark_at_once_both_stand(born: Workspace) -> None:
    def work(name: str) -> None:
        for i in range(50):
            tasks.mark(born, name, "done", "x" * 100, NOW + i)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("versions", "notebooks", "repository")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log, problems = tasks.read(tasks.log_path(born))
    assert len(log) == 150 and problems == ()


def test_the_log_of_two_branches_merges_in_any_order(born: Workspace) -> None:
    ours = [Done("versions", NOW), Done("versions", NOW + 2 * DAY)]
    theirs = [Done("versions", NOW + DAY, "undo")]  # of the first, before the second was written
    for log in ([*ours, *theirs], [*theirs, *ours]):
        assert tasks.standing(log)["versions"].at == NOW + 2 * DAY


MARKS = st.lists(st.sampled_from(["done", "undo"]), max_size=20)


@given(MARKS)
def test_an_undo_always_takes_exactly_the_last_mark_back(marks: list[str]) -> None:
    stack: list[float] = []
    log: list[Done] = []
    for i, what in enumerate(marks):
        log.append(Done("a", NOW + i, what))
        if what == "done":
            stack.append(NOW + i)
        elif stack:
            stack.pop()
    assert tasks.standing(log).get("a", Done("a", -1)).at == (stack[-1] if stack else -1)


async def test_the_log_may_lie_where_the_team_shares_it(born: Workspace, tmp_path: Path) -> None:
    for log in (str(tmp_path / "drive" / "upkeep.jsonl"), "upkeep.jsonl"):
        workspace = having(born, {}, log)
        await actions.done(Context(workspace), actions.DoneParams("versions"))
        assert (workspace.root / log).is_file()


async def test_marking_by_the_actions(born: Workspace) -> None:
    ctx = Context(born)
    marked = await actions.done(ctx, actions.DoneParams("versions", "kept 3"))
    assert not isinstance(marked, Plan)
    assert marked.sentence == "versions is marked as done: due in 30 days." and marked.task.note == "kept 3"
    planned = await actions.done(Context(born, dry_run=True), actions.DoneParams("notebooks"))
    assert isinstance(planned, Plan) and "notebooks would be marked" in planned.summary
    undone = await actions.undo(ctx, actions.UndoParams("versions"))
    assert not isinstance(undone, Plan) and undone.task.last_done_at is None
    before = tasks.log_path(born).read_bytes()
    for wrong, error in (
        (actions.done(ctx, actions.DoneParams("version")), BadInput),
        (actions.done(Context(born, dry_run=True), actions.DoneParams("version")), BadInput),
        (actions.undo(ctx, actions.UndoParams("versions")), Refused),
        (actions.undo(Context(born, dry_run=True), actions.UndoParams("versions")), Refused),
        (actions.done(Context(born, read_only=True), actions.DoneParams("versions")), Refused),
    ):
        with pytest.raises(error):
            await wrong
    assert tasks.log_path(born).read_bytes() == before


async def test_a_log_that_can_not_be_written_is_a_sentence(born: Workspace) -> None:
    (born.root / "file").touch()
    workspace = having(born, {}, "file/upkeep.jsonl")
    with pytest.raises(HybridError, match="could not be written") as caught:
        await actions.done(Context(workspace), actions.DoneParams("versions"))
    assert "[upkeep] log" in caught.value.hint


async def test_everything_that_the_list_says_can_be_carried_as_json(born: Workspace) -> None:
    found = await actions.list_tasks(Context(born), actions.NoParams())
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
    assert {task.where for task in found.tasks} <= {"storage", "training", "registry"}
