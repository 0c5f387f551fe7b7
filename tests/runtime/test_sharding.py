"""A model split over two processes learns as one that both have whole, and its checkpoints and results are the same.

The processes have a GPU each where there are two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from services.errors import BadInput, HybridError  # noqa: E402
from services.runs.types import TrainConfig  # noqa: E402
from services.runtime import checkpoint, sharding  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.learner import open_learner  # noqa: E402
from tests.runtime import processes, support, tiny_model  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("one_thread")]

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
ROW = Example((5, 9, 11, 30, 31, 2), 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama = tiny_model.write_llama(folder / "llama", tied=False)
    return {"gpt2": tiny_model.write_gpt2(folder / "gpt2"), "llama": llama}


def prepared(folder: Path, model: Path, data: Path, **config: Any) -> Path:
    """A run of two processes whose shares of a step differ: two rows and one, computed one by one."""
    settings = {"processes": 2, "device": DEVICE, "batch_rows": 3, "micro_tokens": 16, "epochs": 9, "lr": 0.01}
    return support.write_run(folder, model, data, **{**settings, "dropout": 0.1, "clip": 0.5, "eval_rows": 2, **config})


def finished(folder: Path) -> processes.Events:
    codes, events = processes.run(folder)
    assert codes == [0, 0], (folder / "log.txt").read_text()
    return events


def curve(events: processes.Events) -> dict[int, tuple[float, float]]:
    return {e["step"]: (e["loss"], e["grad_norm"]) for e in events if e["ev"] == "metric" and e["split"] == "train"}


def checked(events: processes.Events) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in events if e["ev"] == "metric" and e["split"] == "val"]


@pytest.mark.parametrize(("method", "model", "checkpointing"), [("dora", "gpt2", "auto"), ("full", "gpt2", "off")])
def test_a_split_model_learns_as_a_whole_one(
    method: str, model: str, checkpointing: str, models: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    settings = {"method": method, "max_steps": 4, "eval_steps": 2, "checkpointing": checkpointing}
    whole = finished(prepared(tmp_path / "whole", models[model], small_data, **settings, shard="off"))
    split = finished(prepared(tmp_path / "split", models[model], small_data, **settings, shard="on"))
    assert any("split over 2 processes" in event.get("text", "") for event in split)
    curves = curve(whole), curve(split)
    common = curves[0].keys() & curves[1].keys()
    assert 4 in common and all(curves[0][step] == pytest.approx(curves[1][step], rel=1e-4) for step in common)
    assert [step for step, _ in checked(split)] == [2, 4]
    assert checked(whole) == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in checked(split)]
    folders = tmp_path / "whole", tmp_path / "split"
    last = [checkpoint.read(folder / "checkpoints/step-000004") for folder in folders]
    for kind in ("adapter", "optimizer"):
        one, other = (getattr(found, kind) for found in last)
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=2e-4) for name in one)
    full = method == "full"
    file, config = (
        ("model.safetensors", "config.json") if full else ("adapter_model.safetensors", "adapter_config.json")
    )
    tensors = [load_file(folder / "output" / file) for folder in folders]
    assert {n: (t.shape, t.dtype) for n, t in tensors[0].items()} == {
        n: (t.shape, t.dtype) for n, t in tensors[1].items()
    }
    described = [json.loads((folder / "output" / config).read_text(encoding="utf-8")) for folder in folders]
    assert described[0] == described[1]
    opened = [
        open_learner(str(f / "output"), "fp32") if full else open_learner(str(models[model]), "fp32", f / "output")
        for f in folders
    ]
    losses = [learner.loss([ROW], training=False).item() for learner in opened]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(("method", "dtype"), [("lora", "fp32"), ("full", "bf16")])
def test_a_split_run_killed_goes_on_exactly(
    method: str, dtype: str, models: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    settings = {"method": method, "dtype": dtype, "shard": "on", "max_steps": 8, "eval_steps": 2, "val_rows": 2}
    through = finished(prepared(tmp_path / "through", models["llama"], small_data, **settings))
    folder = prepared(tmp_path / "killed", models["llama"], small_data, **settings)
    codes, begun = processes.run(folder, kill=lambda event: event["ev"] == "ckpt")
    assert codes == [-9, -9] and max(curve(begun)) < 8
    rest = finished(folder)
    assert any("Going on after step" in event.get("text", "") for event in rest)
    assert checked(through)[-3:] == checked(rest)[-3:]
    common = curve(through).keys() & curve(rest).keys()
    assert 8 in common and all(curve(through)[step] == curve(rest)[step] for step in common)
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    one, other = (load_file(tmp_path / run / "output" / name) for run in ("through", "killed"))
    assert all(torch.equal(one[n], other[n]) for n in one)
    if method == "full":
        stored = json.loads((folder / "output/config.json").read_text(encoding="utf-8"))
        assert {t.dtype for t in other.values()} == {torch.bfloat16} and stored["dtype"] == "bfloat16"


def test_what_cannot_be_split_is_refused_in_a_sentence(models: dict[str, Path]) -> None:
    cpu, fp32 = torch.device("cpu"), torch.float32
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({}, 1, "several processes"),
        ({"method": "qlora"}, 2, "4-bit"),
        ({"task": "classify"}, 2, "head"),
    ]
    for settings, size, words in wrong:
        config = msgspec.convert(settings | {"shard": "on"}, TrainConfig)
        with pytest.raises(BadInput, match=words):
            sharding.wanted(config, models["llama"], cpu, fp32, size)
        unasked = msgspec.structs.replace(config, shard="auto")
        assert not sharding.wanted(unasked, models["llama"], cpu, fp32, size)


def test_a_model_is_split_when_it_fits_the_group_alone(models: dict[str, Path]) -> None:
    numbers = sharding.weights(models["llama"])
    learner = open_learner(str(models["llama"]), "fp32", general=True)
    assert numbers == sum(p.numel() for p in learner.model.parameters())  # type: ignore[attr-defined]
    bf16 = torch.bfloat16
    assert not sharding.needed(numbers, False, bf16, 2 * numbers, 2)
    assert sharding.needed(numbers, False, bf16, 2 * numbers - 1, 2)
    assert sharding.needed(numbers, True, bf16, 8 * numbers, 2)
    with pytest.raises(HybridError, match="each of 2 devices"):
        sharding.needed(numbers, True, bf16, 8 * numbers - 1, 2)
