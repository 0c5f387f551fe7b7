"""What a person types as a model: what it means, and one clear sentence when it means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.context import Context
from services.errors import BadInput, HybridError
from services.inference.resolve import resolve
from services.registry import actions as registry


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Looks like a model; nothing here opens it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"\0")
    return folder


def write_adapter(folder: Path, **metadata: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": ""}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    if metadata:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


async def test_base_and_folders(ctx: Context, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await resolve(ctx, str(model))
    assert (found.model, found.adapter, found.prompt) == (str(model), None, "")
    (ctx.workspace.root / "mine").symlink_to(model)
    mine = await resolve(ctx, "mine")
    assert Path(mine.model).samefile(model)  # noqa: ASYNC240


async def test_an_adapter_folder_brings_its_prompt_labels_and_base(ctx: Context, model: Path, tmp_path: Path) -> None:
    folder = write_adapter(
        tmp_path / "a", model_path=str(model), base_model="gone", prompt="Q: {text}", labels=["x", "y"], more={"a": 1}
    )
    found = await resolve(ctx, str(folder))
    assert (found.model, found.adapter, found.prompt, found.labels) == (
        str(model), str(folder), "Q: {text}", ("x", "y"),
    )  # fmt: skip


async def test_a_base_that_moved_is_found_by_its_name(ctx: Context, model: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", model_path="/not/here", base_model=str(model))
    assert (await resolve(ctx, str(folder))).model == str(model)
    lost = write_adapter(tmp_path / "b", model_path="/not/here", base_model="/nor/here")
    with pytest.raises(BadInput, match="base model of b is not to be had"):
        await resolve(ctx, str(lost))
    silent = write_adapter(tmp_path / "c")
    with pytest.raises(BadInput, match="doesn't say which base model"):
        await resolve(ctx, str(silent))


@pytest.mark.parametrize("content", ["{", '{"labels": 3}', "[]", "\xff"])
async def test_damaged_metadata_is_named(ctx: Context, tmp_path: Path, content: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "metadata.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=r"metadata\.json is damaged"):
        await resolve(ctx, str(folder))


async def test_runs(ctx: Context, model: Path) -> None:
    run = ctx.workspace.runs / "20261123-0101-abcd"
    run.mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    with pytest.raises(BadInput, match="no finished result yet"):
        await resolve(ctx, "run:abcd")
    write_adapter(run / "output", model_path=str(model), prompt="Q {text}")
    found = await resolve(ctx, "run:abcd")
    assert found.label == "run:20261123-0101-abcd" and found.adapter == str(run / "output")
    with pytest.raises(BadInput, match=r"did you mean '20261123-0101-abcd'"):
        await resolve(ctx, "run:20261123-0101-abce")


async def test_registered_versions_and_aliases(ctx: Context, model: Path, tmp_path: Path) -> None:
    from services.registry.adding import AddParams, add

    folder = write_adapter(tmp_path / "a", model_path=str(model), base_model="m", prompt="Q {text}", labels=["x"])
    await add(ctx, AddParams(model="banking", path=str(folder)))
    found = await resolve(ctx, "banking@1")
    assert found.label == "banking@1" and found.labels == ("x",) and found.model == str(model)
    assert found.adapter and found.adapter != str(folder)
    assert (await resolve(ctx, "banking@latest")).adapter == found.adapter
    assert (await registry.resolve(ctx, "banking", "1")).path == found.adapter
    for wrong, says in (
        ("banking@7", "no banking@7"),
        ("bankin@1", "did you mean 'banking'"),
        ("banking@live", "alias"),
    ):
        with pytest.raises(BadInput, match=says):
            await resolve(ctx, wrong)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("", "No model is named"),
        ("  ", "No model is named"),
        ("bsae", "did you mean 'base'"),
        ("smollm2-135m-instrukt", "did you mean 'smollm2-135m-instruct'"),
        ("./nothing", "no model at"),
        ("nothing.gguf", "no model at"),
        ("nobody/nothing", "no model 'nobody/nothing'"),
        ("run:zzzz", "no run"),
    ],
)
async def test_what_means_nothing_gets_one_sentence(ctx: Context, reference: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        await resolve(ctx, reference)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value) and caught.value.hint


async def test_an_unreadable_registry_does_not_hide_the_answer(ctx: Context) -> None:
    ctx.workspace.store_path.parent.mkdir(parents=True, exist_ok=True)
    ctx.workspace.store_path.write_text("a file where the store should be")
    with pytest.raises(HybridError, match="names no model"):
        await resolve(ctx, "bsae")
