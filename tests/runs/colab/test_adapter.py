"""A real LoRA run on Colab's machines: one is taken away half-way, the next goes on to a whole adapter."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

pytest.importorskip("torch")

from services.runs import local, view
from services.runs.types import RunSpec, TrainConfig
from services.workspace import Workspace
from tests.runs.colab.bed import Bed
from tests.runs.colab.test_flow import PATIENCE, finished, history, machine
from tests.runs.conftest import until
from tests.runtime import support, tiny_model

pytestmark = [pytest.mark.models, pytest.mark.colab]
STEPS = 240


def folder_there(bed: Bed, run_dir: Path) -> Path | None:
    """The run's folder on its first machine."""
    return next((path.parent for path in bed.box.glob(f"vms/*/content/hybrid/{run_dir.name}/control")), None)


def trainers_there(run_dir: Path) -> list[psutil.Process]:
    """The trainer on the machine, as it is seen from outside of its namespace."""
    words = ["services.runtime.train", f"/content/hybrid/{run_dir.name}"]
    found = [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-2:] == words]
    assert found
    return found


def test_training_survives_the_machine_being_taken_away(
    bed: Bed, workspace: Workspace, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    model = tiny_model.write_llama(tmp_path / "model")
    data = support.write_dataset(tmp_path / "banking")
    config = msgspec.convert(
        {"dtype": "fp32", "batch_rows": 4, "r": 4, "alpha": 8.0, "epochs": STEPS / 12, "checkpoint_seconds": 1.0,
         "device": "cpu", "lr": 1e-3}, TrainConfig,
    )  # fmt: skip
    spec = make_spec(
        model=str(model), data=str(data), config=config,
        remote=(sys.executable, "-m", "services.runtime.train", "{run}"),
    )  # fmt: skip
    run_dir = local.submit(workspace, spec)
    until(lambda: folder_there(bed, run_dir), PATIENCE)
    there = folder_there(bed, run_dir)
    assert there is not None
    (there / "control" / "checkpoint").touch()  # one after the first step
    until(lambda: any(e.ev == "ckpt" for e in history(there)), PATIENCE)
    for process in trainers_there(run_dir):
        process.suspend()  # or it would be ready before its checkpoint has come here
    until(lambda: view.read(run_dir).last_checkpoint, PATIENCE)
    assert not any(e.ev == "end" for e in history(there)), "the machine must be taken away while the run goes on"
    bed.reclaim(machine(run_dir).data["endpoint"])
    seen = finished(run_dir)
    assert seen.phase == "succeeded", (seen.reason, (run_dir / "log.txt").read_text()[-2000:])
    assert machine(run_dir).number == 2
    assert not bed.machines()
    told = history(run_dir)
    notes = [e.data["text"] for e in told if e.ev == "log"]
    assert any("took the machine away; going on from step" in note for note in notes), notes
    resumed = next(e for e in told if e.ev == "metric" and e.data.get("origin", "").startswith("2:"))
    assert 0 < resumed.data["step"] - 1 < STEPS
    assert seen.step == seen.total_steps == STEPS
    assert seen.results["accuracy"] is not None
    assert any("checksums verified" in note for note in notes)
    metadata = json.loads((run_dir / "output" / "metadata.json").read_text())
    assert metadata
    assert (run_dir / "output" / "adapter_model.safetensors").stat().st_size > 1000
    assert (seen.cost.units or 0) > 0
