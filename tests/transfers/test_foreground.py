"""Pushes and pulls in the foreground: real commands, seen in the queue, cancelled from there, interrupted, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from services.context import Context
from services.drive.open import open_store
from services.errors import BadInput, Refused
from services.transfers import foreground, items, plan
from services.transfers.actions import PushParams, push
from services.transfers.queue_actions import (
    PriorityParams,
    TransferParams,
    TransfersParams,
    cancel,
    pause,
    priority,
    resume,
    transfers,
)
from services.transfers.types import Moved, TransferLines, TransferView
from services.transfers.view import read, read_all
from services.workspace import Workspace
from tests.transfers.beds import plant, slow_tree, tree_of, until

CHECKOUT = Path(__file__).resolve().parents[2]
TREE = slow_tree()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plant(tmp_path / "m", TREE)


def _command(workspace: Workspace, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hybrid_tui", "--workspace", str(workspace.root), "--run", *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _pushing(workspace: Workspace, source: Path) -> tuple[subprocess.Popen[str], TransferView]:
    """A command that pushes, and its transfer, when the first bytes have arrived."""
    command = _command(workspace, "drive.push", f"path={source}", "to=models/m", "--json")
    while not (found := read_all(workspace).transfers):
        assert command.poll() is None, command.communicate()
    return command, until(workspace, found[0].id, lambda t: t.state == "running" and t.done_bytes and t.rate)


async def test_it_is_seen_and_cancelled_from_the_queue(ctx: Context, workspace: Workspace, source: Path) -> None:
    command, seen = _pushing(workspace, source)
    assert seen.foreground and seen.total_bytes == 9_000_000 and "the command" in seen.note
    lines = await transfers(ctx, TransfersParams())
    assert isinstance(lines, TransferLines) and not lines.worker
    assert lines.transfers[0].what == "push models/m, in the foreground"
    with pytest.raises(Refused, match="can't be paused"):
        await pause(ctx, TransferParams(seen.id))
    with pytest.raises(Refused, match="waits for no other"):
        await priority(ctx, PriorityParams(seen.id, "up"))
    with pytest.raises(Refused, match="nothing to resume"):
        await resume(ctx, TransferParams(seen.id))
    assert (await cancel(ctx, TransferParams(seen.id))).state == "cancelled"  # type: ignore[union-attr]
    out, said = command.communicate(timeout=10)
    assert command.returncode == 1 and "was cancelled from the queue; what arrived stays" in said, said
    assert msgspec.json.decode(out)["error"]["exit_code"] == 1
    await resume(ctx, TransferParams(seen.id))  # from now on it is the worker's
    on = until(workspace, seen.id, lambda t: t.attempt == 2 and t.done_bytes > seen.done_bytes)
    assert not on.foreground


def test_ctrl_c_is_what_it_was(workspace: Workspace, source: Path) -> None:
    command, seen = _pushing(workspace, source)
    command.send_signal(signal.SIGINT)
    out, said = command.communicate(timeout=10)
    assert (command.returncode, out) == (130, "")
    assert said == "Interrupted. What arrived stays: the same command goes on from there.\n"
    after = read(workspace, items.queue(workspace) / seen.id)
    assert (after.state, after.reason) == ("cancelled", "Its command was stopped.")


async def test_killed_it_waits_for_a_person(ctx: Context, workspace: Workspace, source: Path, tmp_path: Path) -> None:
    """A worker that comes by for another transfer does not take it."""
    command, seen = _pushing(workspace, source)
    command.kill()
    command.communicate(timeout=10)
    assert read(workspace, items.queue(workspace) / seen.id).state == "interrupted"
    other = await push(ctx, PushParams(str(plant(tmp_path / "s", {"x": b"x"})), "models/s", background=True))
    assert isinstance(other, TransferView)
    until(workspace, other.id, lambda t: t.state == "done")
    stays = read(workspace, items.queue(workspace) / seen.id)
    assert stays.state == "interrupted" and stays.attempt == 1 and "in the background" in stays.hint
    await resume(ctx, TransferParams(seen.id))
    until(workspace, seen.id, lambda t: t.state == "done", 30)
    assert tree_of(workspace.store_path / "models/m") == TREE


async def test_the_result_is_the_commands_and_few_stay(
    ctx: Context, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "KEPT", 2)
    folder = plant(tmp_path / "m", {"w": b"w"})
    command = _command(workspace, "drive.push", f"path={folder}", "to=models/m", "--json")
    out, said = command.communicate(timeout=20)
    assert (command.returncode, said) == (0, "")
    moved = msgspec.json.decode(out, type=Moved)
    assert (moved.files, moved.bytes, moved.verified) == (1, 1, 1)
    assert [(t.state, t.done_bytes) for t in read_all(workspace).transfers] == [("done", 1)]
    again = await push(ctx, PushParams(str(folder), "models/m"))
    assert isinstance(again, Moved) and again.files == 0
    assert len(read_all(workspace).transfers) == 1  # nothing was to move, so nothing is shown
    for n in range(3):
        plant(folder, {f"x{n}": b"x"})
        await push(ctx, PushParams(str(folder), "models/m"))
    assert [t.state for t in read_all(workspace).transfers] == ["done"] * 2


async def test_a_failure_is_told_in_both_places(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    entry = '{"path":"w","size":2,"sha256":"' + "0" * 64 + '"}'
    tree = {"w": b"w", "manifest.json": f'{{"format":1,"files":[{entry}]}}'.encode()}
    with pytest.raises(BadInput, match="has not the size") as raised:
        await push(ctx, PushParams(str(plant(tmp_path / "m", tree)), "models/m"))
    [seen] = read_all(workspace).transfers
    assert (seen.state, seen.reason, seen.hint) == ("failed", str(raised.value), raised.value.hint)


async def test_stopped_as_it_begins_it_does_not_look_alive(ctx: Context, workspace: Workspace, source: Path) -> None:
    """In the panel, whose process goes on and would hold the lock."""
    store = open_store(workspace)
    found = await plan.compare(store, "push", source, "models/m")
    spec = items.Spec(
        1, items.new_id(), "push", str(source), "models/m", "", False, False, "", "m", time.time(), foreground=True
    )
    moving = asyncio.create_task(foreground.carry_out(workspace, spec, store, found, lambda _: None))
    await asyncio.sleep(0)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    [seen] = read_all(workspace).transfers
    assert (seen.state, seen.done_bytes) == ("cancelled", 0) and not items.holder(items.queue(workspace) / seen.id)


async def test_a_queue_that_cannot_be_written_stops_nothing(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    items.queue(workspace).write_text("in the way")
    moved = await push(ctx, PushParams(str(plant(tmp_path / "m", {"w": b"w"})), "models/m"))
    assert isinstance(moved, Moved) and moved.files == 1
    assert tree_of(workspace.store_path / "models/m") == {"w": b"w"}
