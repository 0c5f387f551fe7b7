"""Datasets in the store, a folder and Drive's test server: sent once, found by hash, verified on their way back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.context import Context, NeedsYes, Plan
from services.data import prompts, store
from services.data.types import DatasetInfo, Row, Turn
from services.data.versions import PullParams, PushParams, VersionsParams, pull, push, versions
from services.drive import google_init, google_session
from services.errors import BadInput, HybridError, Refused
from tests.drive.google_bed import config, signed_in

__all__ = ["config", "signed_in"]


def _dataset(ctx: Context, texts: str = "abc", name: str = "mine", prompt: str = prompts.CLASSIFY) -> DatasetInfo:
    talk = (Turn("user", "v"), Turn("assistant", "no"))
    rows: store.Rows = {
        "train": [Row(text, "yes") for text in texts],
        "val": [Row("v", "no", talk)],
        "test": [Row("t", "no")],
    }
    info = store.build_info(name, "classify", prompt, rows, source="/home/me/secret/mine.csv", seed=0)
    return store.write(Context(ctx.workspace, yes=True), "data.prepare", info, rows)


def _other(ctx: Context, folder: Path) -> Context:
    """Another workspace on the same store."""
    made = workspaces.init(folder)
    (folder / "hybrid.toml").write_text(f'[store]\npath = "{ctx.workspace.root / ".hybrid/drive"}"\n')
    return Context(workspaces.open_workspace(made.root))


def _stamps(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


async def test_pushed_here_and_pulled_there_it_is_the_same(ctx, tmp_path):
    info = _dataset(ctx)
    sent = await push(ctx, PushParams("mine"))
    assert sent.version == info.sha256[:12] and sent.sent_bytes == sent.size_bytes > 0
    other = _other(ctx, tmp_path / "other")
    got = await pull(other, PullParams("mine"))
    assert got.sha256 == info.sha256 and got.fetched_bytes == sent.size_bytes
    for split in store.SPLITS:
        assert (Path(got.path) / f"{split}.jsonl").read_bytes() == (Path(info.path) / f"{split}.jsonl").read_bytes()
    about = store.load_info(Path(got.path))
    assert about.source == "mine.csv" and about.prompt == info.prompt and about.format == "chat"
    assert (await pull(other, PullParams("mine"))).fetched_bytes == 0
    assert (await push(other, PushParams("mine"))).sent_bytes == 0


async def test_the_same_content_is_not_sent_twice_and_nothing_is_rewritten(ctx):
    _dataset(ctx)
    first = await push(ctx, PushParams("mine"))
    stamps = _stamps(first.where)
    again = await push(ctx, PushParams("mine"))
    assert again.sent_bytes == 0 and again.version == first.version
    assert _stamps(first.where) == stamps
    plan = await push(Context(ctx.workspace, dry_run=True), PushParams("mine"))
    assert isinstance(plan, Plan) and plan.summary.startswith("nothing")


async def test_versions_are_found_by_the_beginning_of_their_hash(ctx):
    first = await push(ctx, PushParams(_dataset(ctx).name))
    second = await push(ctx, PushParams(_dataset(ctx, "xyz").name))
    listed = await versions(ctx, VersionsParams())
    assert [(v.version, v.latest, v.here) for v in listed.versions] == [
        (second.version, True, True),
        (first.version, False, False),
    ]
    with pytest.raises(NeedsYes, match="replace other content"):
        await pull(ctx, PullParams(f"mine@{first.version[:5]}"))
    got = await pull(Context(ctx.workspace, yes=True), PullParams(f"mine@{first.version[:5]}"))
    assert got.sha256 == first.sha256 == store.load_info(Path(got.path)).sha256
    for word, message in (
        ("mine@ffffffffffff", "no version 'ffffffffffff'"),
        ("mine@ab", "too short"),
        ("mien", "no dataset 'mien'; did you mean 'mine'"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            await pull(ctx, PullParams(word))
        assert first.version in caught.value.hint or "mine" in caught.value.hint
    with pytest.raises(BadInput, match="can't name a dataset"):
        await pull(ctx, PullParams("../x"))


async def test_changed_files_are_neither_pushed_nor_pulled(ctx, tmp_path):
    info = _dataset(ctx)
    sent = await push(ctx, PushParams("mine"))
    train = Path(sent.where) / "train.jsonl"
    train.write_bytes(train.read_bytes().replace(b'"a"', b'"z"'))
    with pytest.raises(HybridError, match="checksum"):
        await pull(_other(ctx, tmp_path / "other"), PullParams("mine"))
    assert not (tmp_path / "other/.hybrid/datasets/mine").exists()
    (Path(info.path) / "train.jsonl").write_bytes(b"")
    with pytest.raises(BadInput, match="not those that were stored"):
        await push(ctx, PushParams("mine"))


async def test_an_unfinished_push_is_named_and_finished_by_the_next(ctx):
    _dataset(ctx)
    sent = await push(ctx, PushParams("mine"))
    (Path(sent.where) / "manifest.json").unlink()
    (Path(sent.where) / "test.jsonl").write_bytes(b"half")
    listed = await versions(ctx, VersionsParams("mine"))
    assert not listed.versions and "unfinished" in listed.problems[0]
    assert (await push(ctx, PushParams("mine"))).sent_bytes > 0
    assert len((await versions(ctx, VersionsParams("mine"))).versions) == 1
    (Path(sent.where) / "dataset.json").unlink()
    assert (await push(ctx, PushParams("mine"))).sent_bytes == sent.size_bytes
    assert json.loads((Path(sent.where) / "manifest.json").read_bytes())["name"] == "mine"


async def test_the_same_rows_with_another_prompt_are_refused(ctx):
    _dataset(ctx)
    await push(ctx, PushParams("mine"))
    _dataset(ctx, prompt="Say {text}")
    with pytest.raises(BadInput, match="another task or prompt"):
        await push(ctx, PushParams("mine"))


async def test_read_only_and_dry_run_write_nothing(ctx):
    _dataset(ctx)
    with pytest.raises(Refused):
        await push(Context(ctx.workspace, read_only=True), PushParams("mine"))
    plan = await push(Context(ctx.workspace, dry_run=True), PushParams("mine"))
    assert isinstance(plan, Plan) and len(plan.steps) == 4
    assert not (ctx.workspace.root / ".hybrid/drive").exists()
    await push(ctx, PushParams("mine"))
    _dataset(ctx, "xyz")
    plan = await pull(Context(ctx.workspace, dry_run=True), PullParams("mine"))
    assert isinstance(plan, Plan) and "replace other content" in plan.summary


async def test_two_pushes_at_once_end_with_one_whole_version(ctx):
    _dataset(ctx)
    results = await asyncio.gather(*(push(ctx, PushParams("mine")) for _ in range(2)), return_exceptions=True)
    assert any(not isinstance(result, BaseException) for result in results)
    await push(ctx, PushParams("mine"))
    assert (await pull(ctx, PullParams("mine"))).fetched_bytes == 0


async def test_on_google_drive_it_is_sent_once_and_comes_back_on_another_box(signed_in, drive_server, monkeypatch):
    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    account = drive_server.account()
    mine = Context(signed_in("work", account))
    await google_init.init(mine, google_init.InitParams())
    mine = Context(workspaces.open_workspace(mine.workspace.root))
    info = _dataset(mine)
    sent = await push(mine, PushParams("mine"))
    assert sent.sent_bytes > 0
    assert (await push(mine, PushParams("mine"))).sent_bytes == 0
    other = Context(signed_in("other", account))
    await google_init.init(other, google_init.InitParams())
    other = Context(workspaces.open_workspace(other.workspace.root))
    got = await pull(other, PullParams(f"mine@{sent.version}"))
    assert got.sha256 == info.sha256 and store.read_rows(Path(got.path), "val")[0].messages
    assert [v.here for v in (await versions(other, VersionsParams())).versions] == [True]
    for context in (mine, other):
        await google_session.close(context.workspace)
