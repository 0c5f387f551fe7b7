"""What happens on the way: validation, early stopping, too little memory, divergence, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from services.runtime import checkpoint, memory, schedule  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.schedule import StepPlan  # noqa: E402
from services.runtime.watch import PATIENCE, Watch  # noqa: E402
from tests.runtime import support, tiny_model  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("one_thread")]


def of(events: list[dict[str, Any]], split: str) -> dict[int, dict[str, Any]]:
    return {e["step"]: e for e in events if e["ev"] == "metric" and e["split"] == split}


def test_validation_stops_early_keeps_the_best_and_resumes_exactly(
    llama: Path, small_data: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 40, "lr": 0.05, "schedule": "constant", "eval_steps": 4, "patience": 2}
    whole = support.write_run(tmp_path / "whole", llama, small_data, **settings)
    code, events = support.train(whole)
    assert code == 0, events
    seen = of(events, "val")
    assert {"loss", "accuracy", "macro_f1", "rows"} <= seen[4].keys() and list(seen) == list(range(4, max(seen) + 1, 4))
    best = min(seen, key=lambda step: seen[step]["loss"])
    assert max(seen) == best + 8 < 480 and any("stopping early" in e.get("text", "") for e in events)
    kept = [int(p.name[5:]) for p in checkpoint.steps(whole / "checkpoints")]
    assert best in kept and len(kept) <= 3
    result = load_file(whole / "output/adapter_model.safetensors")
    stored = checkpoint.read(checkpoint.path(whole / "checkpoints", best)).adapter
    assert all(torch.equal(result[name], stored[name]) for name in stored)

    again = support.write_run(tmp_path / "again", llama, small_data, **settings)
    (again / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    (again / "control" / "cancel").touch()
    for _ in range(2):  # stopped after one step, and once more, and then let go
        assert support.train(again)[0] == 130
    (again / "control" / "cancel").unlink()
    code, more = support.train(again)
    resumed = of(more, "val")
    assert code == 0 and resumed and all(resumed[step]["loss"] == seen[step]["loss"] for step in resumed)
    assert max(resumed) == max(seen)


def test_a_diverging_loss_is_named() -> None:
    watch = Watch()
    assert not any(watch.diverging(4.0 + 0.1 * (i % 3)) for i in range(100))
    steps = next(i for i in range(1, 200) if watch.diverging(9.0))
    assert PATIENCE < steps < 3 * PATIENCE


def test_portions_are_in_order_and_within_the_limit() -> None:
    rows = [Example(tuple(range(n)), 1) for n in (5, 5, 9, 30, 2, 2)]
    parts = memory.portions(rows, 12)
    assert [row for part in parts for row in part] == rows
    assert [sum(row.tokens for row in part) for part in parts] == [10, 9, 30, 4]
    assert memory.portions(rows, 0) == [tuple(rows)]


def test_the_probe_grows_until_memory_runs_out() -> None:
    rows = [Example(tuple(range(100)), 1) for _ in range(64)]
    cpu = torch.device("cpu")

    def learn(part: Any) -> None:
        if len(part) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    found, ran_out = memory.measure(rows, cpu, learn)
    assert ran_out and 1000 <= found <= 2048
    assert memory.measure(rows, cpu, lambda part: None) == (0, False)


SMALL_MEMORY = """
import resource, sys
import psutil
from services.runtime import train, training
take = training.take_step
def step(*arguments):
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 25_000_000, -1))
    return take(*arguments)
training.take_step = step
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_run_out_of_memory_goes_on_in_smaller_portions(tmp_path: Path) -> None:
    model = tiny_model.write_llama(tmp_path / "model", layers=4)
    long = support.write_dataset(tmp_path / "long", train=160, test=4)
    folder = support.write_run(tmp_path / "run", model, long, batch_rows=400, batch_tokens=100_000)
    # As if the probe had found that all of a step fits, so that memory runs out during the run.
    (folder / "plan.json").write_bytes(msgspec.json.encode(StepPlan(2, "max_steps", 1)))
    command = [sys.executable, "-c", SMALL_MEMORY, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Memory ran out; computing" in done.stdout and "step=2" in done.stdout, done.stdout


def test_a_run_that_diverges_ends_with_its_cause(
    llama: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "rate", lambda config, step, total: 0.02 if step < 40 else 1.0)
    settings = {"max_steps": 120, "epochs": 100, "batch_rows": 8}
    code, events = support.train(support.write_run(tmp_path / "run", llama, small_data, **settings))
    (error,) = [e for e in events if e["ev"] == "error"]
    seen = support.losses(events)
    assert code == 1 and "the training diverges" in error["message"] and "lower lr" in error["hint"]
    assert max(seen) < 120 and not (tmp_path / "run" / "output").exists()


def test_two_processes_see_the_batches_of_one(llama: Path, small_data: Path, tmp_path: Path) -> None:
    curves, results = [], []
    for processes in (1, 2):
        settings = {"processes": processes, "device": "cpu", "max_steps": 6, "epochs": 5, "lr": 0.01}
        folder = support.write_run(tmp_path / str(processes), llama, small_data, **settings)
        if processes == 1:
            _, events = support.train(folder)
        else:
            process, told = support.start(folder)
            with told:
                events = [json.loads(line) for line in told]
            assert process.wait(timeout=600) == 0, (folder / "log.txt").read_text()
        curves.append(support.losses(events))
        assert len([e for e in events if e["ev"] == "metric" and e["split"] == "test"]) == 1
        results.append(load_file(folder / "output/adapter_model.safetensors"))
    common = curves[0].keys() & curves[1].keys()
    assert 6 in common and all(curves[0][s] == pytest.approx(curves[1][s], rel=1e-4) for s in common)
    assert all(torch.allclose(results[0][n], results[1][n], atol=1e-4) for n in results[0])


def test_several_processes_stop_together_with_a_checkpoint(llama: Path, small_data: Path, tmp_path: Path) -> None:
    folder = support.write_run(tmp_path / "run", llama, small_data, processes=2, device="cpu", epochs=200)
    process, told = support.start(folder)
    events = []
    with told:
        for line in told:
            events.append(json.loads(line))
            if events[-1]["ev"] == "metric":
                process.terminate()
                break
        events += [json.loads(line) for line in told]
    assert process.wait(timeout=600) == 130
    (last,) = [e for e in events if e["ev"] == "ckpt"]
    assert checkpoint.read(folder / last["path"]).state.step == last["step"]
