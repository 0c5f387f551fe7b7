"""Both sides compared: what travels is what differs, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.context import Context, NeedsYes, Plan
from services.drive.folder import FolderStore
from services.errors import BadInput, CheckFailed, HybridError, Refused
from services.transfers import engine, plan
from services.transfers.actions import PlanParams, PullParams, PushParams, VerifyParams, plan_of, pull, push, verify
from services.transfers.types import Moved
from services.workspace import Workspace
from tests.transfers.beds import Tree, plant, tree_of

names = st.sampled_from(["a", "b", "c/d", "c/e", "f g/[v1]", "é.bin", "manifest.txt"])
trees = st.dictionaries(names, st.binary(max_size=40), max_size=7)


def _nothing(_: object) -> None:
    return None


async def _push(store: FolderStore, folder: Path, *, delete: bool = False) -> Moved:
    found = await plan.compare(store, "push", folder, "models/x")
    return await engine.carry_out(store, found, _nothing, delete=delete)


async def _pull(store: FolderStore, folder: Path) -> Moved:
    found = await plan.compare(store, "pull", folder, "models/x")
    return await engine.carry_out(store, found, _nothing)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=trees, second=trees)
def test_push_then_pull_gives_equal_trees_and_sends_nothing_twice(first: Tree, second: Tree) -> None:
    """Two states of a folder, one after the other, so that files change, appear and go."""
    top = Path(tempfile.mkdtemp())

    async def scenario() -> None:
        store = FolderStore(top / "drive", top)
        plant(top / "local", first)
        assert (await _push(store, top / "local")).files == len(first)
        assert (await _push(store, top / "local")).files == 0
        shutil.rmtree(top / "local")
        plant(top / "local", second)
        found = await plan.compare(store, "push", top / "local", "models/x")
        states = {p.plan.path: p.plan.state for p in found.pairs}
        assert states == {
            path: "extra" if path not in second else "new" if path not in first
            else "same" if first[path] == second[path] else "changed"
            for path in first.keys() | second.keys()
        }  # fmt: skip
        moved = await _push(store, top / "local", delete=True)
        assert moved.files == sum(state in ("new", "changed") for state in states.values())
        assert moved.trashed == len(first.keys() - second.keys())
        assert (await _pull(store, top / "back")).files == len(second)
        assert tree_of(top / "back") == second
        assert (await _pull(store, top / "back")).files == 0
        assert (await _push(store, top / "back")).files == 0
        thrown = tree_of(top / "drive" / ".trash") if (top / "drive" / ".trash").exists() else {}
        assert sorted(thrown.values()) == sorted(first[path] for path in first.keys() - second.keys())

    try:
        asyncio.run(scenario())
    finally:
        shutil.rmtree(top)


async def test_a_change_of_the_same_size_is_found(ctx: Context, agreed: Context, tmp_path: Path) -> None:
    folder = plant(tmp_path / "m", {"w.bin": b"one"})
    await push(ctx, PushParams(str(folder), "models/m"))
    (folder / "w.bin").write_bytes(b"two")
    os.utime(folder / "w.bin", (2e9, 2e9))
    with pytest.raises(NeedsYes) as need:
        await push(ctx, PushParams(str(folder), "models/m"))
    assert "1 changed, overwritten" in need.value.plan.summary
    moved = await push(agreed, PushParams(str(folder), "models/m"))
    assert isinstance(moved, Moved) and moved.files == 1
    # Its time is in the future, so the next look is at the bytes.
    seen = await plan_of(ctx, PlanParams("push", str(folder), "models/m"))
    assert (seen.same, seen.changed) == (1, 0)


async def test_dry_run_and_plan_move_nothing(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    folder = plant(tmp_path / "m", {"w.bin": b"one"})
    dry = Context(workspace, dry_run=True)
    told = await push(dry, PushParams(str(folder), "models/m"))
    assert isinstance(told, Plan) and told.steps == ("+ w.bin  3 B",) and told.written_bytes == 3
    assert (await plan_of(ctx, PlanParams("push", str(folder), "models/m"))).new == 1
    assert not (workspace.state / "drive").exists()
    with pytest.raises(Refused, match="read-only"):
        await push(Context(workspace, read_only=True), PushParams(str(folder), "models/m"))


def _with_manifest(tree: Tree) -> Tree:
    entries = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in tree.items()
    ]
    return {**tree, "manifest.json": json.dumps({"format": 1, "files": entries}).encode()}


async def test_the_manifest_goes_last_and_vouches_for_the_bytes(
    ctx: Context, workspace: Workspace, tmp_path: Path
) -> None:
    good = _with_manifest({"w.bin": b"one", "x.bin": b"two"})
    folder = plant(tmp_path / "m", good)
    (folder / "w.bin").write_bytes(b"ONE")  # same size, other bytes
    with pytest.raises(HybridError, match=r"w\.bin .* is not what manifest\.json says"):
        await push(ctx, PushParams(str(folder), "models/m"))
    assert not (workspace.store_path / "models/m/manifest.json").exists()
    (folder / "w.bin").write_bytes(b"one")
    os.utime(folder / "w.bin", (2e9, 2e9))
    await push(Context(workspace, yes=True), PushParams(str(folder), "models/m"))
    (workspace.store_path / "models/m/w.bin").write_bytes(b"0ne")  # rots in the store
    with pytest.raises(HybridError, match="checksum"):
        await pull(ctx, PullParams("models/m", str(tmp_path / "back")))
    assert not (tmp_path / "back" / "w.bin").exists() and not (tmp_path / "back" / "manifest.json").exists()
    with pytest.raises(CheckFailed) as failed:
        await verify(ctx, VerifyParams("models/m", str(folder)))
    assert failed.value.result.changed == ("w.bin",)


async def test_verify_reads_the_bytes(ctx: Context, tmp_path: Path, workspace: Workspace) -> None:
    folder = plant(tmp_path / "m", _with_manifest({"w.bin": b"one", "sub/x.bin": b"two"}))
    await push(ctx, PushParams(str(folder), "models/m"))
    seen = await verify(ctx, VerifyParams("models/m", str(folder)))
    assert seen.ok and (seen.files, seen.by_sha256, seen.by_size) == (3, 3, 0) and seen.manifest == "agrees, 2 files"
    (folder / "w.bin").write_bytes(b"0ne")
    os.utime(folder / "w.bin", (2e9, 2e9))  # newer here: a pull would not look
    (folder / "mine").touch()
    (folder / "sub/x.bin").unlink()
    with pytest.raises(CheckFailed) as failed:
        await verify(ctx, VerifyParams("models/m", str(folder)))
    result = failed.value.result
    assert (result.changed, result.missing, result.extra) == (("w.bin",), ("sub/x.bin",), ("mine",))


async def test_what_cannot_travel_is_named_and_the_rest_goes(
    ctx: Context, workspace: Workspace, tmp_path: Path
) -> None:
    folder = plant(tmp_path / "m", {"w.bin": b"one", "half.bin.part": b"x"})
    os.mkfifo(folder / "pipe")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(HybridError, match=r"3 files of .* did not travel, all others did\. 'half\.bin\.part'"):
        await push(ctx, PushParams(str(folder), "models/m"))
    assert tree_of(workspace.store_path / "models/m") == {"w.bin": b"one"}


async def test_one_file_travels_alone(ctx: Context, workspace: Workspace, tmp_path: Path) -> None:
    folder = plant(tmp_path / "m", {"w.bin": b"one", "other": b"x"})
    await push(ctx, PushParams(str(folder / "w.bin"), "models/m"))
    assert tree_of(workspace.store_path / "models/m") == {"w.bin": b"one"}
    await push(ctx, PushParams(str(folder), "datasets/"))
    assert tree_of(workspace.store_path / "datasets") == {"m/w.bin": b"one", "m/other": b"x"}
    plant(workspace.store_path / "models/m", {"b.bin": b"b"})
    await pull(ctx, PullParams("models/m/b.bin", str(tmp_path / "back")))
    assert tree_of(tmp_path / "back") == {"b.bin": b"b"}


async def test_budgets_and_free_space_are_asked_first(workspace: Workspace, ctx: Context, tmp_path: Path) -> None:
    from services import workspace as workspaces

    folder = plant(tmp_path / "m", {"w.bin": b"one"})
    await push(ctx, PushParams(str(folder), "models/m"))
    (workspace.root / "hybrid.toml").write_text("[disk]\nbudget_gb = 0.000001\nmin_free_gb = 0.0\n")
    tight = workspaces.open_workspace(workspace.root)
    with pytest.raises(NeedsYes) as need:
        await pull(Context(tight), PullParams("models/m", "back"))
    assert any("more than the budget" in step for step in need.value.plan.steps)
    moved = await pull(Context(tight, yes=True), PullParams("models/m", "back"))
    assert isinstance(moved, Moved) and moved.verified == 1
    with (workspace.store_path / "models/m/huge").open("wb") as huge:
        huge.truncate(1 << 43)  # a hole: 8 TB that takes no room in the store
    with pytest.raises(Refused, match=r"has .* free"):
        await pull(Context(tight, yes=True), PullParams("models/m", "back"))


async def test_versions_and_the_log_are_left_alone(agreed: Context, tmp_path: Path) -> None:
    from services.registry.actions import AddParams, add
    from services.transfers.queue_actions import TrashParams, trash

    folder = plant(tmp_path / "m", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"})
    added = await add(agreed, AddParams(model="banking", path=str(folder)))
    place = "models/finetuned/banking-v1"
    for target in (place, f"{place}/sub", "models", "docs/registry", "docs"):
        with pytest.raises(Refused):
            await push(agreed, PushParams(str(folder), target))
        if not target.endswith("sub"):
            with pytest.raises(Refused):
                await trash(agreed, TrashParams(target))
    moved = await pull(agreed, PullParams("banking@latest"))
    assert isinstance(moved, Moved) and moved.local.endswith(".hybrid/models/banking-v1")
    assert tree_of(Path(moved.local)) == tree_of(Path(added.path))
    assert (await verify(agreed, VerifyParams("banking@1"))).manifest.startswith("agrees")


async def test_bad_input_is_said_plainly(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no folder"):
        await push(ctx, PushParams("nowhere", "models/x"))
    with pytest.raises(BadInput, match="is not a path inside the store"):
        await push(ctx, PushParams(str(tmp_path), "../x"))
    with pytest.raises(BadInput, match="There is no models/x in the store"):
        await pull(ctx, PullParams("models/x"))
