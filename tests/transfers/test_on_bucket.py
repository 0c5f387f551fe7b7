"""Transfers to a bucket (moto's S3 on loopback): the same words, another store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("obstore")

from services import workspace as workspaces
from services.context import Context
from services.transfers.actions import PlanParams, PullParams, PushParams, VerifyParams, plan_of, pull, push, verify
from services.transfers.queue_actions import ListParams, TrashParams, list_level, trash
from services.transfers.types import Moved, TransferView
from services.workspace import Workspace
from tests.drive.s3_bed import s3, s3_server
from tests.transfers.beds import plant, tree_of, until

__all__ = ["s3", "s3_server"]


async def test_there_and_back(s3: str, workspace: Workspace, tmp_path: Path) -> None:
    toml = workspace.root / "hybrid.toml"
    toml.write_text(f'{toml.read_text()}[store]\nkind = "bucket"\nurl = "{s3}"\n')
    workspace = workspaces.open_workspace(workspace.root)
    ctx = Context(workspace, yes=True)
    tree = {"w.bin": os.urandom(600_000), "sub/[v1] x": b"x"}
    folder = plant(tmp_path / "m", tree)
    queued = await push(ctx, PushParams(str(folder), "models/", background=True))
    assert isinstance(queued, TransferView)
    done = until(workspace, queued.id, lambda t: t.state in ("done", "failed"))
    assert done.state == "done", done
    level = await list_level(ctx, ListParams("models/m"))
    assert [(e.name, e.size_bytes) for e in level.entries] == [("sub", None), ("w.bin", 600_000)]
    assert [e.name for e in (await list_level(ctx, ListParams())).entries] == ["models"]
    assert (await plan_of(ctx, PlanParams("push", str(folder), "models/m"))).same == 2
    (folder / "w.bin").write_bytes(os.urandom(600_000))  # the same size
    assert (await plan_of(ctx, PlanParams("push", str(folder), "models/m"))).changed == 1
    back = await pull(ctx, PullParams("models/m", "back"))
    assert isinstance(back, Moved) and tree_of(workspace.root / "back") == tree
    assert (await verify(ctx, VerifyParams("models/m", "back"))).ok
    await trash(ctx, TrashParams("models/m/sub"))
    assert [e.name for e in (await list_level(ctx, ListParams("models/m"))).entries] == ["w.bin"]
