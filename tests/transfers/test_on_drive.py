"""Transfers on Google Drive (the server on loopback): killed half-way they go on inside a file."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from pathlib import Path

import pytest

from services.context import Context
from services.drive import google_init, google_session
from services.errors import HybridError
from services.transfers import items
from services.transfers.actions import PlanParams, PullParams, PushParams, VerifyParams, plan_of, pull, push, verify
from services.transfers.queue_actions import (
    ListParams,
    PriorityParams,
    TransferParams,
    TrashParams,
    cancel,
    list_level,
    pause,
    priority,
    resume,
    trash,
)
from services.transfers.types import Moved, TransferView, Trashed
from services.transfers.view import read, read_all
from services.workspace import Workspace
from tests.drive.google_bed import SignedIn
from tests.drive_bed.serve import Account, DriveServer
from tests.transfers.beds import plant, tree_of, until, worker_of

MB = 1_000_000
SLOW = 16 * MB  # bytes a second and connection


@pytest.fixture
def account(drive_server: DriveServer) -> Account:
    return drive_server.account(scope="drive")


@pytest.fixture
async def ctx(signed_in: SignedIn, account: Account, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A workspace whose store is a fresh Drive; it may write and has a yes."""
    from services import workspace as workspaces

    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    workspace = signed_in("work", account)
    await google_init.init(Context(workspace), google_init.InitParams())
    await google_session.close(workspace)
    toml = workspace.root / "hybrid.toml"
    toml.write_text(f"{toml.read_text()}[disk]\nbudget_gb = 1000000.0\nmin_free_gb = 0.0\n")
    return Context(workspaces.open_workspace(workspace.root), yes=True)


def _kill(workspace: Workspace) -> None:
    worker = worker_of(workspace.root)
    assert worker is not None
    worker.kill()
    worker.wait(5)


async def _killed_half_way(ctx: Context, queued: TransferView, server: DriveServer) -> TransferView:
    until(ctx.workspace, queued.id, lambda t: t.done_bytes > t.total_bytes // 3 > 0)
    _kill(ctx.workspace)
    seen = until(ctx.workspace, queued.id, lambda t: t.state == "interrupted")
    assert 0 < seen.done_bytes < seen.total_bytes
    server.clear()
    await resume(ctx, TransferParams(queued.id))
    return until(ctx.workspace, queued.id, lambda t: t.state in ("done", "failed"), 30)


async def test_killed_half_way_both_ways(ctx: Context, drive_server: DriveServer, tmp_path: Path) -> None:
    tree = {"model.safetensors": os.urandom(40 * MB), "sub/tokenizer.json": os.urandom(300_000), "empty": b""}
    entries = ",".join(
        f'{{"path":"{p}","size":{len(d)},"sha256":"{hashlib.sha256(d).hexdigest()}"}}' for p, d in tree.items()
    )
    tree["manifest.json"] = f'{{"format":1,"files":[{entries}]}}'.encode()
    folder = plant(tmp_path / "m", tree)
    total = sum(map(len, tree.values()))

    drive_server.fault(path="/upload/", rate=SLOW, times=0)
    sent = await push(ctx, PushParams(str(folder), "models/base-models/m", background=True))
    assert isinstance(sent, TransferView)
    done = await _killed_half_way(ctx, sent, drive_server)
    assert done.state == "done" and done.attempt == 2, done
    received = sum(r.bytes_in for r in drive_server.requests if "/upload/" in r.path)
    assert total <= received < 1.05 * total
    for path, data in tree.items():
        [held] = [f for f in drive_server.named(path.rpartition("/")[2]) if not f.trashed and f.size is not None]
        assert held.read() == data
    assert (await plan_of(ctx, PlanParams("push", str(folder), "models/base-models/m"))).same == 4

    drive_server.fault(path="alt=media", rate=SLOW // 4, times=0)
    back = await pull(ctx, PullParams("models/base-models/m", "back", background=True))
    assert isinstance(back, TransferView)
    done = await _killed_half_way(ctx, back, drive_server)
    assert done.state == "done" and done.attempt == 2, done
    assert tree_of(ctx.workspace.root / "back") == tree
    seen = await verify(ctx, VerifyParams("models/base-models/m", "back"))
    assert seen.ok and seen.by_sha256 == 4 and seen.manifest == "agrees, 3 files"
    _no_secret(ctx.workspace, drive_server)


def _no_secret(workspace: Workspace, server: DriveServer) -> None:
    """No token and no session address in what transfers write."""
    text = b"".join(p.read_bytes() for p in items.queue(workspace).rglob("*") if p.is_file()).decode(errors="replace")
    assert "upload_id" not in text and not re.search(r"ya29\.|1//|Bearer", text)


async def test_retries_are_counted_and_a_pause_keeps_the_bytes(
    ctx: Context, drive_server: DriveServer, tmp_path: Path
) -> None:
    folder = plant(tmp_path / "m", {"w.bin": os.urandom(30 * MB)})
    drive_server.fault(path="/upload/", method="PUT", drop_request_at=4 * MB, rate=SLOW, times=1)
    drive_server.fault(path="/upload/", rate=SLOW, times=0)
    queued = await push(ctx, PushParams(str(folder), "models/m", background=True))
    assert isinstance(queued, TransferView)
    until(ctx.workspace, queued.id, lambda t: t.retries >= 1 and t.done_bytes > 8 * MB)
    paused = await pause(ctx, TransferParams(queued.id))
    assert isinstance(paused, TransferView) and paused.state == "paused"
    drive_server.clear()
    await resume(ctx, TransferParams(queued.id))
    done = until(ctx.workspace, queued.id, lambda t: t.state in ("done", "failed"), 30)
    assert done.state == "done" and done.retries >= 1 and done.trouble
    assert sum(r.bytes_in for r in drive_server.requests if "/upload/" in r.path) < 1.1 * 30 * MB


async def test_a_raised_one_starts_at_once(ctx: Context, drive_server: DriveServer, tmp_path: Path) -> None:
    """The running one makes room, keeps what it has inside its file, and goes on by itself; an equal one waits."""
    folder = plant(tmp_path / "m", {"w.bin": os.urandom(30 * MB)})
    small = plant(tmp_path / "s", {"x": b"x"})
    drive_server.fault(path="/upload/", rate=SLOW // 4, times=0)
    large = await _queued(ctx, folder, "models/large")
    until(ctx.workspace, large, lambda t: t.done_bytes > MB)
    equal, raised = await _queued(ctx, small, "models/equal"), await _queued(ctx, small, "models/raised")
    assert read(ctx.workspace, items.queue(ctx.workspace) / large).attempt == 1
    await priority(ctx, PriorityParams(raised, "up"))
    until(ctx.workspace, raised, lambda t: t.state == "done")
    seen = until(ctx.workspace, large, lambda t: t.state == "running" and t.attempt == 2)  # older than the equal one
    assert 0 < seen.done_bytes < seen.total_bytes == 30 * MB
    assert read(ctx.workspace, items.queue(ctx.workspace) / equal).state == "queued"
    await priority(ctx, PriorityParams(large, "down"))  # the other way round: the running one is lowered
    waits = until(ctx.workspace, large, lambda t: t.state == "queued")
    assert "made room" in waits.note
    until(ctx.workspace, equal, lambda t: t.state == "done")
    drive_server.clear()
    done = until(ctx.workspace, large, lambda t: t.state in ("done", "failed"), 30)
    assert (done.state, done.attempt) == ("done", 3)
    assert sum(r.bytes_in for r in drive_server.requests if "/upload/" in r.path) < 1.1 * 30 * MB


async def _queued(ctx: Context, folder: Path, to: str) -> str:
    queued = await push(ctx, PushParams(str(folder), to, background=True))
    assert isinstance(queued, TransferView)
    return queued.id


async def test_a_pull_in_the_foreground_is_seen_and_cancelled(
    ctx: Context, drive_server: DriveServer, tmp_path: Path
) -> None:
    """With its rate and its file on the way; what came is gone on from."""
    tree = {"w.bin": os.urandom(30 * MB)}
    await push(ctx, PushParams(str(plant(tmp_path / "m", tree)), "models/m"))
    drive_server.fault(path="alt=media", rate=SLOW // 2, times=0)
    pulling = asyncio.create_task(pull(ctx, PullParams("models/m", "back")))
    found = await asyncio.to_thread(_under_way, ctx.workspace)
    assert found.foreground and found.direction == "pull" and found.rate and found.eta_s
    assert found.files[0].path == "w.bin" and found.total_bytes == 30 * MB
    await cancel(ctx, TransferParams(found.id))
    with pytest.raises(HybridError, match="was cancelled from the queue"):
        await pulling
    drive_server.clear()
    back = await pull(ctx, PullParams("models/m", "back"))
    assert isinstance(back, Moved) and tree_of(ctx.workspace.root / "back") == tree
    assert 30 * MB <= sum(r.bytes_out for r in drive_server.requests if "alt=media" in r.query) < 1.1 * 30 * MB


def _under_way(workspace: Workspace) -> TransferView:
    end = time.monotonic() + 15
    while not (found := [t for t in read_all(workspace).transfers if t.state == "running" and t.done_bytes > 8 * MB]):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found[0]


async def test_levels_say_what_cannot_be_fetched(
    ctx: Context, drive_server: DriveServer, account: Account, tmp_path: Path
) -> None:
    folder = plant(tmp_path / "m", {"w.bin": b"w", "sub/x": b"x"})
    await push(ctx, PushParams(str(folder), "models/m"))
    [place] = drive_server.named("m")
    account.put("plan", b"", parent=place.id, mime="application/vnd.google-apps.document")
    for data in (b"one", b"two"):
        account.put("twin", data, parent=place.id)
    await google_session.close(ctx.workspace)
    level = await list_level(ctx, ListParams("models/m"))
    told = {e.name: e.skipped for e in level.entries}
    assert told["w.bin"] == "" and "Google document" in told["plan"] and "2 different things" in told["twin"]
    assert level.entries[0].kind == "folder" and level.google_drive
    assert {e.name for e in (await list_level(ctx, ListParams())).entries} >= {"models", "docs"}
    back = await pull(ctx, PullParams("models/m", "back"))
    assert isinstance(back, Moved) and tree_of(ctx.workspace.root / "back") == {"w.bin": b"w", "sub/x": b"x"}
    assert len(back.problems) == 2
    gone = await trash(ctx, TrashParams("models/m/sub"))
    assert isinstance(gone, Trashed) and gone.files == 1
    assert "sub" not in {e.name for e in (await list_level(ctx, ListParams("models/m"))).entries}
