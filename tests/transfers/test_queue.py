"""The queue and its worker: real processes, killed, paused, cancelled, gone on with."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from services.context import Context
from services.errors import BadInput, Refused
from services.transfers import items
from services.transfers.actions import PullParams, PushParams, pull, push
from services.transfers.queue_actions import (
    ClearParams,
    PriorityParams,
    TransferParams,
    TransfersParams,
    cancel,
    clear,
    pause,
    priority,
    resume,
    transfers,
)
from services.transfers.types import TransferLines, TransferView
from services.transfers.view import read
from services.workspace import Workspace
from tests.transfers.beds import plant, slow_tree, tree_of, until, worker_of

CHECKOUT = Path(__file__).resolve().parents[2]


async def _queued(ctx: Context, folder: Path, to: str) -> TransferView:
    queued = await push(ctx, PushParams(str(folder), to, background=True))
    assert isinstance(queued, TransferView)
    return queued


def _underway(seen: TransferView) -> bool:
    return seen.state == "running" and seen.done_bytes > 0


async def test_both_ways_in_the_background(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    tree = {"w.bin": os.urandom(300_000), "sub/x": b"x", "manifest.json": b"{}"}
    there = await _queued(ctx, plant(tmp_path / "m", tree), "models/m")
    done = until(workspace, there.id, lambda t: t.state == "done")
    assert (done.done_files, done.total_files, done.done_bytes, done.moved_bytes) == (3, 3, 300_003, 300_003)
    back = await pull(ctx, PullParams("models/m", "back", background=True))
    assert isinstance(back, TransferView)
    until(workspace, back.id, lambda t: t.state == "done")
    assert tree_of(workspace.root / "back") == tree
    lines = await transfers(ctx, TransfersParams(state="done"))
    assert isinstance(lines, TransferLines) and lines.transfers[1].what == "push models/m"
    seen = await transfers(ctx, TransfersParams(whole=True))
    assert [t.id for t in seen.transfers] == [back.id, there.id]  # the latest to end comes first
    assert (await clear(ctx, ClearParams())).cleared == (back.id, there.id)  # type: ignore[union-attr]
    assert (await transfers(ctx, TransfersParams(whole=True))).transfers == ()


async def test_killed_again_and_again_it_ends_with_equal_trees(
    ctx: Context, workspace: Workspace, tmp_path: Path
) -> None:
    """kill -9 of the worker at random moments; what it had finished is not sent again."""
    tree = slow_tree(files=30, size=3_000_000)
    dice = random.Random(7)
    queued = await _queued(ctx, plant(tmp_path / "m", tree), "models/m")
    kills = 0
    while (seen := read(workspace, items.queue(workspace) / queued.id)).state != "done":
        await asyncio.sleep(dice.uniform(0.0, 0.25))
        worker = worker_of(workspace.root)
        if worker is None or kills == 6:
            until(workspace, queued.id, lambda t: t.state in ("done", "interrupted", "running", "queued"))
        elif read(workspace, items.queue(workspace) / queued.id).attempt == kills + 1:
            worker.send_signal(signal.SIGKILL)
            worker.wait(5)
            kills += 1
            seen = read(workspace, items.queue(workspace) / queued.id)
            assert seen.state in ("interrupted", "done"), seen
            if seen.state == "interrupted":
                await resume(ctx, TransferParams(queued.id[-4:]))
    assert kills >= 2
    assert seen.attempt == kills + 1 or seen.attempt == kills
    assert tree_of(workspace.store_path / "models/m") == tree  # no torn file, no leftover
    assert (seen.done_files, seen.done_bytes, seen.total_bytes) == (30, 90_000_000, 90_000_000)
    assert 90_000_000 <= seen.moved_bytes < 90_000_000 + kills * 3_000_000 + 1  # at most the file in hand, each time


async def test_pause_resume_cancel(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    tree = slow_tree()
    queued = await _queued(ctx, plant(tmp_path / "m", tree), "models/m")
    until(workspace, queued.id, _underway)
    paused = await pause(ctx, TransferParams(queued.id))
    assert isinstance(paused, TransferView) and paused.state == "paused"
    assert 0 < paused.done_bytes < paused.total_bytes and paused.rate is None
    had = paused.done_bytes
    with pytest.raises(BadInput, match="There is no transfer"):
        await resume(ctx, TransferParams("none"))
    resumed = await resume(ctx, TransferParams(queued.id))
    assert isinstance(resumed, TransferView)
    until(workspace, queued.id, lambda t: t.state == "running" and t.done_bytes > had)
    ended = await cancel(ctx, TransferParams(queued.id))
    assert isinstance(ended, TransferView) and ended.state == "cancelled"
    with pytest.raises(Refused, match="is cancelled"):
        await pause(ctx, TransferParams(queued.id))
    arrived = {p: d for p, d in tree_of(workspace.store_path / "models/m").items() if not p.endswith(".hybrid-part")}
    assert 0 < len(arrived) < 900 and all(tree[path] == data for path, data in arrived.items())
    await resume(ctx, TransferParams(queued.id))
    done = until(workspace, queued.id, lambda t: t.state == "done")
    assert done.attempt == 3 and tree_of(workspace.store_path / "models/m") == tree


async def test_priority_decides_then_age(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    """Set before there is a worker that could begin."""
    small = plant(tmp_path / "s", {"x": b"x"})
    place = items.place(workspace.settings)
    first, second, third = (items.add(workspace, _spec(workspace, small, place, f"models/{n}")).name for n in range(3))
    await priority(ctx, PriorityParams(second, "down"))
    await priority(ctx, PriorityParams(third, "up"))
    order = [t.id for t in (await transfers(ctx, TransfersParams(whole=True))).transfers]
    assert order == [third, first, second]
    items.start_worker(workspace)
    until(workspace, second, lambda t: t.state == "done")
    ends = {t.id: t.ended_at or 0.0 for t in (await transfers(ctx, TransfersParams(whole=True))).transfers}
    assert 0.0 < ends[third] <= ends[first] <= ends[second]


async def test_an_unreachable_store_is_waited_for(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    """The mount goes away, the transfer waits and says so, the mount comes back."""
    from services import workspace as workspaces

    mount = tmp_path / "mount"
    mount.mkdir()
    settings = workspace.root / "hybrid.toml"
    settings.write_text(f'{settings.read_text()}[store]\npath = "{mount}"\n')
    mounted = workspaces.open_workspace(workspace.root)
    ctx = Context(mounted)
    tree = slow_tree()
    queued = await _queued(ctx, plant(tmp_path / "m", tree), "models/m")
    until(mounted, queued.id, _underway)
    mount.rename(tmp_path / "unplugged")
    waiting = until(mounted, queued.id, lambda t: t.state in ("retrying", "failed"))
    assert waiting.state == "retrying" and "can't be reached" in waiting.note
    (tmp_path / "unplugged").rename(mount)
    until(mounted, queued.id, lambda t: t.state == "done")
    assert tree_of(mounted.store_path / "models/m") == tree


async def test_a_failure_says_why_and_what_next(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    folder = plant(tmp_path / "m", {"x": b"x"})
    await push(ctx, PushParams(str(folder), "models/m"))
    plant(folder, {"y": b"y"})
    queued = items.add(workspace, _spec(workspace, folder, place="drive::elsewhere"))
    items.start_worker(workspace)
    failed = until(workspace, queued.name, lambda t: t.state == "failed")
    assert "another store" in failed.reason and "queue it again" in failed.hint
    (folder / "x").write_bytes(b"longer")
    changed = items.add(workspace, _spec(workspace, folder, place=items.place(workspace.settings)))
    items.start_worker(workspace)
    failed = until(workspace, changed.name, lambda t: t.state == "failed")
    assert "'x' would be overwritten" in failed.reason
    assert tree_of(workspace.store_path / "models/m") == {"x": b"x"}


def _spec(workspace: Workspace, folder: Path, place: str, to: str = "models/m") -> items.Spec:
    return items.Spec(1, items.new_id(), "push", str(folder), to, "", False, False, place, "m", time.time())


def test_one_worker_a_workspace_and_none_that_idles(workspace: Workspace) -> None:
    """Many started at once: all end by themselves, without a word."""
    items.queue(workspace).mkdir(parents=True)
    command = [sys.executable, "-m", "services.transfers.worker", str(workspace.root)]
    started = [
        subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)
    ]
    for worker in started:
        said, _ = worker.communicate(timeout=20)
        assert (worker.returncode, said) == (0, b"")
    assert items.living(workspace) == ""


def test_the_worker_outlives_its_starter(workspace: Workspace, tmp_path: Path) -> None:
    """Started by a command that ends at once; a process group of its own."""
    folder = plant(tmp_path / "m", slow_tree())
    words = ["--run", "drive.push", f"path={folder}", "to=models/m", "background=true", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_tui", "--workspace", str(workspace.root), *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, check=True,
    )  # fmt: skip
    worker = worker_of(workspace.root)
    assert worker is not None and os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
    queued = msgspec.json.decode(done.stdout, type=TransferView)
    until(workspace, queued.id, lambda t: t.state == "done")


def test_events_are_private_and_hold_no_address(workspace: Workspace) -> None:
    """Specs and events are the person's own to read."""
    folder = items.add(workspace, _spec(workspace, workspace.root, "folder::x"))
    assert oct(items.queue(workspace).stat().st_mode)[-3:] == "700"
    assert oct((folder / "spec.json").stat().st_mode)[-3:] == "600"
