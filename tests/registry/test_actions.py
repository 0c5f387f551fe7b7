"""The registry's actions as a person calls them, on real files."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from services.context import Context, Plan, Progress
from services.errors import BadInput, HybridError, Refused, StoreUnreachable
from services.registry.actions import (
    AddParams,
    HistoryParams,
    ListParams,
    PromoteParams,
    RollbackParams,
    ShowParams,
    add,
    history,
    list_versions,
    promote,
    resolve,
    rollback,
    show,
)
from services.registry.types import Promotion, Version
from tests.registry.conftest import MakeAdapter


async def _add(ctx: Context, folder: Path, model: str = "banking") -> Version:
    version = await add(ctx, AddParams(model=model, path=str(folder)))
    assert isinstance(version, Version)
    return version


async def _promote(ctx: Context, version: int | str, to: str = "deployed", expected: int | None = None) -> Promotion:
    done = await promote(ctx, PromoteParams(model="banking", version=str(version), to=to, expected=expected))
    assert isinstance(done, Promotion)
    return done


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


async def test_an_empty_registry_is_an_empty_listing_and_creates_nothing(ctx: Context) -> None:
    listing = await list_versions(ctx, ListParams())
    assert (listing.models, listing.versions, listing.records, listing.problems) == ((), (), 0, ())
    assert "not Google Drive" in listing.store
    assert not ctx.workspace.store_path.exists()
    with pytest.raises(BadInput, match="no model 'banking'") as caught:
        await show(ctx, ShowParams(ref="banking@1"))
    assert "registry.add" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config.json": "{}", "model.safetensors": "w"}, "full"),
        ({"config.json": "{}", "model.safetensors": "w", "head.safetensors": "h"}, "classifier"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "w", "head.safetensors": "h"}, "classifier"),
        ({"adapter_config.json": '{"task_type": "SEQ_CLS"}', "adapter_model.safetensors": "w"}, "classifier"),
        ({"adapter_config.json": '{"task_type": "CAUSAL_LM"}', "adapter_model.safetensors": "w"}, "adapter"),
        ({"config.json": "{}", "head.safetensors": "h"}, "files"),
    ],
)
async def test_what_a_folder_is_stands_in_record_and_metadata(
    ctx: Context, tmp_path: Path, files: dict[str, str], kind: str
) -> None:
    source = tmp_path / "result"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    version = await add(ctx, AddParams(model="banking", path=str(source), base_model="smollm2"))
    assert isinstance(version, Version) and (version.type, version.base_model) == (kind, "smollm2")
    about = json.loads((Path(version.path) / "metadata.json").read_text())
    assert (about["type"], about["base_model"]) == (kind, "smollm2")
    listed = json.loads((Path(version.path) / "manifest.json").read_text())["files"]
    assert {f["path"] for f in listed} == {*files, "metadata.json", "README.md"}


async def test_a_version_is_the_folder_with_manifest_and_record(ctx: Context, adapter: MakeAdapter) -> None:
    source = adapter(size=2_500_000)
    told: list[Progress] = []
    version = await _add(Context(ctx.workspace, told.append), source)
    assert (version.model, version.version, version.id, version.type) == ("banking", 1, "banking@1", "adapter")
    assert version.base_model == "smollm2"
    assert version.metrics == {"accuracy": 0.858, "macro_f1": 0.848}
    assert version.aliases == ("latest",)
    folder = Path(version.path)
    assert folder == ctx.workspace.store_path / "models/finetuned/banking-v1"
    kept = _tree(folder)
    for name, data in _tree(source).items():
        assert kept[name] == data
    listed = json.loads(kept["manifest.json"])["files"]
    assert {f["path"]: (f["size"], f["sha256"]) for f in listed} == {
        n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in kept.items() if n != "manifest.json"
    }
    assert version.digest == hashlib.sha256(kept["manifest.json"]).hexdigest()
    assert version.size_bytes == sum(f["size"] for f in listed) and version.files == len(listed)
    assert told[-1].done == told[-1].total == sum(len(d) for d in _tree(source).values())
    assert not list((ctx.workspace.store_path / "models/finetuned/.incoming").iterdir())


async def test_what_a_folder_lacks_is_written(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.gguf").write_bytes(b"GGUF")
    version = await add(ctx, AddParams(model="m", path=str(tmp_path / "weights"), base_model="llama", note="from Ann"))
    assert isinstance(version, Version)
    assert (version.type, version.base_model, version.note) == ("gguf", "llama", "from Ann")
    assert json.loads((Path(version.path) / "metadata.json").read_text())["base_model"] == "llama"
    assert "llama" in (Path(version.path) / "README.md").read_text()


async def test_figures_may_stand_in_benchmark_json_alone(ctx: Context, adapter: MakeAdapter) -> None:
    folder = adapter()
    (folder / "metadata.json").unlink()
    (folder / "benchmark.json").write_text('{"accuracy": 0.5, "device": "cpu", "curve": [1, 2]}')
    assert (await _add(ctx, folder)).metrics == {"accuracy": 0.5}


async def test_an_interrupted_addition_leaves_nothing(ctx: Context, adapter: MakeAdapter) -> None:
    started = asyncio.Event()
    watched = Context(ctx.workspace, lambda _: started.set())
    folder = adapter(size=80_000_000)
    task = asyncio.ensure_future(add(watched, AddParams(model="banking", path=str(folder))))
    await asyncio.wait_for(started.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await list_versions(ctx, ListParams())).versions == ()
    assert not list((ctx.workspace.store_path / "models/finetuned/.incoming").iterdir())


async def test_a_runs_result_is_taken_by_its_id(ctx: Context, adapter: MakeAdapter) -> None:
    run = ctx.workspace.runs / "k3v9"
    run.mkdir(parents=True)
    with pytest.raises(BadInput, match="has no result"):
        await add(ctx, AddParams(model="banking", run="k3v9"))
    adapter().rename(run / "output")
    version = await add(ctx, AddParams(model="banking", run="k3v9"))
    assert isinstance(version, Version) and version.version == 1
    for bad in ("nope", "../runs/k3v9", ".."):
        with pytest.raises(BadInput):
            await add(ctx, AddParams(model="banking", run=bad))


async def test_versions_count_up_and_the_same_key_is_one_version(ctx: Context, adapter: MakeAdapter) -> None:
    folder = adapter()
    assert [(await _add(ctx, folder)).version for _ in range(2)] == [1, 2]
    keyed = AddParams(model="banking", path=str(folder), key="run-7")
    numbers = []
    for _ in range(2):
        version = await add(ctx, keyed)
        assert isinstance(version, Version)
        numbers.append(version.version)
    assert numbers == [3, 3]
    assert len((await list_versions(ctx, ListParams())).versions) == 3


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "..", "a..b", "/etc", "-x", ".hidden", "a\nb", "a b", "x" * 65, "é", "nul", "COM1.x", "a\x00", "v."],
)
async def test_bad_model_names_are_refused_in_a_sentence(ctx: Context, adapter: MakeAdapter, name: str) -> None:
    with pytest.raises(BadInput, match="can't be a model's name") as caught:
        await add(ctx, AddParams(model=name, path=str(adapter())))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert not ctx.workspace.store_path.exists()


async def test_two_models_may_not_differ_in_case_alone(ctx: Context, adapter: MakeAdapter) -> None:
    await _add(ctx, adapter())
    with pytest.raises(BadInput, match="'banking'"):
        await _add(ctx, adapter("other"), model="Banking")


async def test_bad_folders_are_refused_in_a_sentence(ctx: Context, adapter: MakeAdapter, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in [(tmp_path / "absent", "no folder"), (tmp_path / "empty", "is empty")]:
        with pytest.raises(BadInput, match=words):
            await _add(ctx, path)
    torn = adapter("torn")
    (torn / "metadata.json").write_text('{"base')
    with pytest.raises(BadInput, match=r"metadata\.json is not valid JSON"):
        await _add(ctx, torn)
    linked = adapter("linked")
    (linked / "sub").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="link to a folder"):
        await _add(ctx, linked)
    dangling = adapter("dangling")
    (dangling / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match="can't be read"):
        await _add(ctx, dangling)
    with pytest.raises(BadInput, match="path=DIR or run=ID"):
        await add(ctx, AddParams(model="banking"))
    with pytest.raises(BadInput, match="is not a folder"):
        await _add(ctx, torn / "metadata.json")
    assert not ctx.workspace.store_path.exists()


async def test_links_to_files_are_followed(ctx: Context, adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = adapter()
    (tmp_path / "blob").write_bytes(b"weights")
    (folder / "extra.bin").symlink_to(tmp_path / "blob")
    kept = Path((await _add(ctx, folder)).path) / "extra.bin"
    assert kept.read_bytes() == b"weights" and not kept.is_symlink()


async def test_dry_run_shows_plans_and_writes_nothing(ctx: Context, adapter: MakeAdapter) -> None:
    dry = Context(ctx.workspace, dry_run=True, read_only=True)
    plan = await add(dry, AddParams(model="banking", path=str(adapter())))
    assert isinstance(plan, Plan) and "banking@1" in plan.summary
    assert not ctx.workspace.store_path.exists()
    await _add(ctx, adapter("b", accuracy=0.8))
    await _add(ctx, adapter("c", accuracy=0.9))
    await _promote(ctx, 1)
    before = _tree(ctx.workspace.store_path)
    moved = await promote(dry, PromoteParams(model="banking", version="2"))
    assert isinstance(moved, Plan) and "from 1 to 2" in moved.summary
    assert "accuracy: 80.0 % → 90.0 % (+10.0 points)" in moved.steps
    with pytest.raises(Refused):
        await rollback(dry, RollbackParams(model="banking"))
    assert _tree(ctx.workspace.store_path) == before


async def test_read_only_refuses_every_write(ctx: Context, adapter: MakeAdapter) -> None:
    folder = adapter()
    await _add(ctx, folder)
    before = _tree(ctx.workspace.store_path)
    locked = Context(ctx.workspace, read_only=True)
    for call in (
        add(locked, AddParams(model="banking", path=str(folder))),
        promote(locked, PromoteParams(model="banking", version="1")),
        rollback(locked, RollbackParams(model="banking")),
    ):
        with pytest.raises(Refused, match="read-only"):
            await call
    assert (await list_versions(locked, ListParams())).versions[0].version == 1
    assert _tree(ctx.workspace.store_path) == before


async def test_an_alias_moves_only_from_where_it_was_believed(ctx: Context, adapter: MakeAdapter) -> None:
    for n in range(3):
        await _add(ctx, adapter(f"a{n}"))
    first = await _promote(ctx, 1, expected=0)
    assert (first.version, first.previous, first.changed) == (1, 0, True)
    await _promote(ctx, 3, expected=1)
    with pytest.raises(Refused, match=r"banking@deployed was moved to 3 by \S+@\S+/\d+ at 20") as caught:
        await _promote(ctx, 2, expected=1)
    assert caught.value.exit_code == 3 and caught.value.hint
    with pytest.raises(Refused, match="points nowhere yet"):
        await _promote(ctx, 2, to="candidate", expected=1)
    assert (await _promote(ctx, 2)).previous == 3
    assert (await show(ctx, ShowParams(ref="banking@deployed"))).version == 2


async def test_promoting_to_where_it_is_writes_nothing(ctx: Context, adapter: MakeAdapter) -> None:
    await _add(ctx, adapter())
    await _promote(ctx, 1)
    again = await _promote(ctx, 1)
    assert not again.changed and again.version == 1
    assert (await history(ctx, HistoryParams())).total == 3


async def test_rollback_goes_back_step_by_step(ctx: Context, adapter: MakeAdapter) -> None:
    for n in range(3):
        await _add(ctx, adapter(f"a{n}"))
        await _promote(ctx, n + 1)
    for back in (2, 1):
        done = await rollback(ctx, RollbackParams(model="banking"))
        assert isinstance(done, Promotion) and done.version == back
    with pytest.raises(Refused, match="no earlier version is left"):
        await rollback(ctx, RollbackParams(model="banking"))
    with pytest.raises(BadInput, match="no alias 'candidate'"):
        await rollback(ctx, RollbackParams(model="banking", alias="candidate"))
    with pytest.raises(Refused, match="was moved to 1"):
        await rollback(ctx, RollbackParams(model="banking", expected=3))
    statuses = {v.version: v.status for v in (await list_versions(ctx, ListParams())).versions}
    assert statuses == {1: "deployed", 2: "retired", 3: "retired"}


@pytest.mark.parametrize("alias", ["latest", "2", "v2", "A", "a b", "", "-x", "x" * 33, "a/b"])
async def test_bad_aliases_are_refused(ctx: Context, adapter: MakeAdapter, alias: str) -> None:
    await _add(ctx, adapter())
    with pytest.raises(BadInput, match=r"alias|latest"):
        await _promote(ctx, 1, to=alias)


async def test_references_resolve_to_an_absolute_folder(ctx: Context, adapter: MakeAdapter) -> None:
    for n in range(2):
        await _add(ctx, adapter(f"a{n}"))
    await _promote(ctx, 1, to="candidate")
    for wanted, number in [("1", 1), ("v2", 2), (2, 2), ("", 2), ("latest", 2), ("candidate", 1)]:
        found = await resolve(ctx, "banking", wanted)
        assert found.version == number
        assert Path(found.path).is_absolute() and (Path(found.path) / "adapter_model.safetensors").is_file()
    assert (await show(ctx, ShowParams(model="banking", version="candidate"))).version == 1
    for model, wanted, words in [
        ("bankin", "1", "did you mean 'banking'"),
        ("banking", "9", "no banking@9"),
        ("banking", "candidat", "did you mean 'candidate'"),
    ]:
        with pytest.raises(BadInput, match=words):
            await resolve(ctx, model, wanted)


async def test_history_tells_every_record_newest_first(ctx: Context, adapter: MakeAdapter) -> None:
    await _add(ctx, adapter("a"))
    await _add(ctx, adapter("b"), model="cards")
    await promote(ctx, PromoteParams(model="banking", version="1", note="beats base"))
    told = await history(ctx, HistoryParams())
    assert [e.what for e in told.entries] == [
        "moved banking@deployed to 1", "added cards@1", "added banking@1", "opened the registry",
    ]  # fmt: skip
    assert told.entries[0].note == "beats base"
    assert all(e.accepted for e in told.entries)
    assert [e.model for e in (await history(ctx, HistoryParams(model="cards"))).entries] == ["cards"]
    limited = await history(ctx, HistoryParams(limit=2))
    assert len(limited.entries) == 2 and limited.total == 4


async def test_results_carry_integer_versions_as_json(ctx: Context, adapter: MakeAdapter) -> None:
    added = json.loads(msgspec.json.encode(await _add(ctx, adapter())))
    moved = json.loads(msgspec.json.encode(await _promote(ctx, "latest")))
    assert added["version"] == 1 and moved["version"] == 1


async def test_damage_is_reported_by_name_and_stops_writes_only(ctx: Context, adapter: MakeAdapter) -> None:
    folder = adapter()
    await _add(ctx, folder)
    second = await _add(ctx, folder)
    record = ctx.workspace.store_path / f"docs/registry/log/{second.record}.json"
    record.write_bytes(record.read_bytes()[:50])
    before = _tree(ctx.workspace.store_path)
    listing = await list_versions(ctx, ListParams())
    assert [v.version for v in listing.versions] == [1]
    assert record.name in listing.problems[0]
    assert record.name in (await history(ctx, HistoryParams())).problems[0]
    for call in (
        add(ctx, AddParams(model="banking", path=str(folder))),
        promote(ctx, PromoteParams(model="banking", version="1")),
    ):
        with pytest.raises(HybridError, match=record.name) as caught:
            await call
        assert caught.value.hint
    assert _tree(ctx.workspace.store_path) == before


async def test_a_foreign_folder_with_the_next_name_is_left_alone(ctx: Context, adapter: MakeAdapter) -> None:
    mine = ctx.workspace.store_path / "models/finetuned/banking-v1"
    mine.mkdir(parents=True)
    (mine / "adapter_model.safetensors").write_bytes(b"placed by hand")
    source = adapter()
    version = await _add(ctx, source)
    assert (mine / "adapter_model.safetensors").read_bytes() == b"placed by hand"
    kept = Path((await resolve(ctx, "banking", version.version)).path)
    assert kept != mine
    assert (kept / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()


async def test_an_unreachable_store_is_met_with_exit_code_4(
    ctx: Context, adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _add(ctx, adapter())
    ctx.workspace.store_path.rename(ctx.workspace.store_path.with_name("kept"))
    ctx.workspace.store_path.write_text("a file")
    for call in (list_versions(ctx, ListParams()), promote(ctx, PromoteParams(model="banking", version="1"))):
        with pytest.raises(StoreUnreachable) as caught:
            await call
        assert caught.value.exit_code == 4
