"""The trainer as its supervisor runs it: a process, killed, stopped, resumed, given bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from services.errors import HybridError  # noqa: E402
from services.runs.types import TrainConfig  # noqa: E402
from services.runtime import checkpoint, schedule  # noqa: E402
from services.runtime.checkpoint import State  # noqa: E402
from tests.runtime import support, tiny_model  # noqa: E402

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.write_dataset(tmp_path_factory.mktemp("data") / "tiny")


SETTINGS = {"epochs": 12, "lr": 0.02, "dropout": 0.1}
STEPS = 144


def kill_after_checkpoint(folder: Path, count: int, plan: Path | None = None) -> list[dict[str, Any]]:
    """Start a run, ask it for ``count`` checkpoints one after the other, kill it, return what it told.

    ``plan``: the plan of another run to follow, since the number of threads may change the last bit of a sum.
    """
    if plan is not None:
        shutil.copy(plan, folder / "plan.json")
    told: list[dict[str, Any]] = []
    process, events = support.start(folder)
    (folder / "control" / "checkpoint").touch()
    with events:
        for line in events:
            told.append(json.loads(line))
            count -= told[-1]["ev"] == "ckpt"
            if count == 0:
                process.kill()
                break
            if told[-1]["ev"] == "ckpt":
                (folder / "control" / "checkpoint").touch()
    assert process.wait(timeout=60) == -signal.SIGKILL
    return told


@pytest.fixture(scope="module")
def uninterrupted(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = support.write_run(tmp_path_factory.mktemp("run") / "whole", model, data, **SETTINGS)
    code, events = support.train(folder)
    assert code == 0, events
    (folder / "events.json").write_text(json.dumps(events))
    return folder


def test_a_run_ends_with_a_usable_result(uninterrupted: Path) -> None:
    events = json.loads((uninterrupted / "events.json").read_text())
    losses = support.losses(events)
    assert max(losses) == STEPS and losses[STEPS] < 0.1 * losses[1]
    (test,) = [e for e in events if e["ev"] == "metric" and e["split"] == "test"]
    assert test["accuracy"] == 1.0 and test["rows"] == 12
    metadata = json.loads((uninterrupted / "output" / "metadata.json").read_text())
    assert metadata["labels"] == list(support.LABELS) and metadata["metrics"]["accuracy"] == 1.0
    told = [e for e in events if e["ev"] == "metric" and e["split"] == "train"]
    assert {"loss", "lr", "grad_norm", "tokens_s", "tokens", "epoch", "eta_s", "total_steps"} <= told[-1].keys()
    assert told[-1]["epoch"] == 12 and told[-1]["eta_s"] == 0
    assert len(checkpoint.steps(uninterrupted / "checkpoints")) <= 2


def test_killed_and_resumed_is_exactly_as_uninterrupted(
    uninterrupted: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder = support.write_run(tmp_path / "killed", model, data, **SETTINGS)
    told = kill_after_checkpoint(folder, 1, uninterrupted / "plan.json")
    at = told[-1]["step"]
    assert 0 < at < STEPS
    code, more = support.train(folder)
    assert code == 0
    assert any(e["ev"] == "log" and e["text"] == f"Going on after step {at}." for e in more)
    ours = {**support.losses(told), **support.losses(more)}
    whole = support.losses(json.loads((uninterrupted / "events.json").read_text()))
    common = ours.keys() & whole.keys()
    assert max(common) == STEPS and all(ours[step] == whole[step] for step in common)
    name = "output/adapter_model.safetensors"
    expected, got = load_file(uninterrupted / name), load_file(folder / name)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    uninterrupted: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder = support.write_run(tmp_path / "damaged", model, data, **SETTINGS)
    kill_after_checkpoint(folder, 2, uninterrupted / "plan.json")
    first, second = checkpoint.steps(folder / "checkpoints")[-2:]
    content = bytearray((second / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (second / "optimizer.safetensors").write_bytes(content)
    code, more = support.train(folder)
    texts = [e["text"] for e in more if e["ev"] == "log"]
    assert code == 0 and any("damaged" in t and second.name in t for t in texts)
    assert f"Going on after step {int(first.name[5:])}." in texts
    expected = load_file(uninterrupted / "output/adapter_model.safetensors")
    got = load_file(folder / "output/adapter_model.safetensors")
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_sigterm_writes_a_checkpoint_and_stops(model: Path, data: Path, tmp_path: Path) -> None:
    folder = support.write_run(tmp_path / "run", model, data, epochs=100_000)
    process, events = support.start(folder)
    told = []
    with events:
        for line in events:
            told.append(json.loads(line))
            if told[-1]["ev"] == "metric":
                process.terminate()
                break
        told += [json.loads(line) for line in events]
    assert process.wait(timeout=60) == 130
    (last,) = [e for e in told if e["ev"] == "ckpt"]
    assert checkpoint.read(folder / last["path"]).state.step == last["step"]
    assert not (folder / "output").exists()


def test_a_cancel_file_writes_a_checkpoint_and_stops(model: Path, data: Path, tmp_path: Path) -> None:
    folder = support.write_run(tmp_path / "run", model, data, epochs=1000)
    (folder / "control" / "cancel").touch()
    code, events = support.train(folder)
    assert code == 130 and [e["step"] for e in events if e["ev"] == "ckpt"] == [1]


def test_a_checkpoint_on_request_goes_on(model: Path, data: Path, tmp_path: Path) -> None:
    folder = support.write_run(tmp_path / "run", model, data, max_steps=20, epochs=1000)
    (folder / "control" / "checkpoint").touch()
    code, events = support.train(folder)
    assert code == 0 and len([e for e in events if e["ev"] == "ckpt"]) == 2


def test_a_loss_that_is_no_number_ends_the_run_with_its_cause(model: Path, data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    broken = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][:] = 1e38
    save_file(tensors, broken / "model.safetensors")
    code, events = support.train(support.write_run(tmp_path / "run", broken, data))
    (error,) = [e for e in events if e["ev"] == "error"]
    assert code == 1 and "not a finite number at step 1" in error["message"] and error["hint"]


def test_time_decides_the_steps_and_a_resume_keeps_them(model: Path, data: Path, tmp_path: Path) -> None:
    folder = support.write_run(tmp_path / "run", model, data, epochs=1_000, max_seconds=1)
    (folder / "control" / "cancel").touch()
    assert support.train(folder)[0] == 130
    plan = json.loads((folder / "plan.json").read_bytes())
    assert plan["by"] == "max_seconds" and 1 <= plan["steps"] < 12_000 and plan["tokens_s"] > 0
    (folder / "plan.json").write_text(json.dumps(plan | {"steps": 7}))
    (folder / "control" / "cancel").unlink()
    code, events = support.train(folder)
    assert code == 0 and max(support.losses(events)) == 7


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "spec.json").write_text("{"), "spec.json"),
        (lambda f: _respec(f, data="/nowhere"), "is not a dataset"),
        (lambda f: _respec(f, model="/nowhere/model"), "no model folder"),
        (lambda f: _respec(f, model=str(f)), "config.json"),
    ],
)
def test_bad_input_is_one_clear_sentence(model: Path, data: Path, tmp_path: Path, spoil, words: str) -> None:
    folder = support.write_run(tmp_path / "run", model, data)
    spoil(folder)
    code, events = support.train(folder)
    (error,) = [e for e in events if e["ev"] == "error"]
    assert code == 1 and words in error["message"] and error["hint"]


def _respec(folder: Path, **changes: str) -> None:
    spec = json.loads((folder / "spec.json").read_bytes())
    (folder / "spec.json").write_text(json.dumps(spec | changes))


def test_a_full_disk_is_named_and_the_older_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    tensors = {"a": torch.ones(3)}
    checkpoint.write(folder, State(1, 10, 0.1), tensors, tensors, keep=2)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HybridError, match=r"The disk is full.*step 2 .*step-000001"):
        checkpoint.write(folder, State(2, 20, 0.2), tensors, tensors, keep=2)
    monkeypatch.undo()
    assert [p.name for p in folder.iterdir()] == ["step-000001"]
    assert checkpoint.last_good(folder)[0].state.step == 1


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 900, 12_345, 1_000_001):
        written = checkpoint.write(tmp_path, State(step, 0, 0.0), {"a": torch.ones(1)}, {}, keep=3)
    assert [int(p.name[5:]) for p in checkpoint.steps(tmp_path)] == [900, 12_345, 1_000_001]
    assert written.bytes == sum(p.stat().st_size for p in written.path.iterdir())


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "linear", "constant"])
def test_schedules_rise_to_the_peak_and_fall(name: str) -> None:
    config = msgspec.convert({"schedule": name, "lr": 0.01, "warmup": 0.2}, TrainConfig)
    rates = [schedule.rate(config, step, 100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20]) and 0 < rates[0] < 0.002
    assert max(rates) == pytest.approx(0.01, rel=0.01)
    if name == "constant":
        assert rates[-1] == 0.01
    else:
        assert rates[20:] == sorted(rates[20:], reverse=True) and 0 <= rates[-1] < 0.0005
