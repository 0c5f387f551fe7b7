"""The files for people: complete, rebuilt at will, and never overwriting a hand's work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.context import Context
from services.registry.actions import AddParams, ListParams, PromoteParams, add, list_versions, promote
from services.registry.registry import open_registry
from services.registry.types import Version
from tests.registry.conftest import MakeAdapter

KEYS = {
    "id", "type", "size_mb", "base_model", "training_date", "metrics", "status", "deployed_at", "version", "digest",
    "aliases",
}  # fmt: skip


@pytest.fixture
async def filled(ctx: Context, adapter: MakeAdapter) -> Context:
    for n in range(2):
        await add(ctx, AddParams(model="banking", path=str(adapter(f"a{n}"))))
    await promote(ctx, PromoteParams(model="banking", version="1"))
    return ctx


def _view(ctx: Context) -> Path:
    return ctx.workspace.store_path / "docs/model_registry.json"


async def test_the_view_has_every_key_of_the_layout(filled: Context) -> None:
    models = json.loads(_view(filled).read_text())["models"]
    assert [m["id"] for m in models] == ["banking@1", "banking@2"]
    assert all(m.keys() >= KEYS for m in models)
    assert models[0]["status"] == "deployed" and models[0]["deployed_at"].endswith("Z")
    assert models[0]["aliases"] == ["deployed"] and models[1]["aliases"] == ["latest"]
    assert models[1]["deployed_at"] is None
    for folder in ("models/base-models", "datasets", "notebooks", "results/benchmarks", "results/training_logs"):
        assert (filled.workspace.store_path / folder).is_dir()


async def test_the_pointer_names_what_is_deployed(filled: Context) -> None:
    pointer = json.loads((filled.workspace.store_path / "models/deployed/current").read_text())["deployed"]["banking"]
    assert pointer["version"] == 1
    assert (filled.workspace.store_path / pointer["path"] / "manifest.json").is_file()


async def test_a_lost_view_comes_back_the_same(filled: Context, adapter: MakeAdapter) -> None:
    before = _view(filled).read_bytes()
    await promote(filled, PromoteParams(model="banking", version="2", to="candidate"))
    await promote(filled, PromoteParams(model="banking", version="2"))
    _view(filled).unlink()
    await promote(filled, PromoteParams(model="banking", version="1"))
    after = json.loads(_view(filled).read_bytes())
    assert after["records"] == json.loads(before)["records"] + 3
    assert after["models"][0]["status"] == "deployed"


@pytest.mark.parametrize("edit", ["value", "layout", "garbage", "empty"])
async def test_a_hand_edit_is_noticed_and_set_aside(filled: Context, adapter: MakeAdapter, edit: str) -> None:
    view = _view(filled)
    text = view.read_text()
    changed = {
        "value": text.replace('"deployed"', '"candidate"', 1),
        "layout": text.replace("\n", "\n\n", 1),
        "garbage": "not JSON at all",
        "empty": "",
    }[edit]
    view.write_text(changed)
    listing = await list_versions(filled, ListParams())
    assert any("model_registry.json was edited by hand" in p for p in listing.problems)
    assert view.read_text() == changed
    version = await add(filled, AddParams(model="banking", path=str(adapter("next"))))
    assert isinstance(version, Version)
    assert any("edited by hand" in w for w in version.warnings)
    [aside] = view.parent.glob("model_registry.edited-*.json")
    assert aside.read_text() == changed
    assert len(json.loads(view.read_text())["models"]) == 3
    assert not (await list_versions(filled, ListParams())).problems


async def test_two_edits_in_one_second_are_both_kept(filled: Context) -> None:
    for n, target in enumerate(["2", "1"]):
        _view(filled).write_text(f"edit {n}")
        await promote(filled, PromoteParams(model="banking", version=target))
    asides = _view(filled).parent.glob("model_registry.edited-*.json")
    assert sorted(p.read_text() for p in asides) == ["edit 0", "edit 1"]


async def test_a_slow_writer_does_not_leave_an_old_view(filled: Context) -> None:
    registry = open_registry(filled.workspace)
    write, overtaken = registry.store.write, []

    async def slow(path: str, data: bytes) -> None:
        if not overtaken:  # between our look at the standing view and our write, another shell promotes
            overtaken.append(path)
            await promote(filled, PromoteParams(model="banking", version="2"))
        await write(path, data)

    registry.store.write = slow  # type: ignore[method-assign]
    _view(filled).unlink()
    await registry.settle()
    assert overtaken
    view = json.loads(_view(filled).read_text())
    assert view["records"] == 5
    assert [m["status"] for m in view["models"]] == ["retired", "deployed"]
