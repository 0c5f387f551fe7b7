"""What the panel asks before a run that only several GPUs can hold: the real estimate for a box with two H100s."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from hybrid_tui import actions
from hybrid_tui.app import HybridApp
from hybrid_tui.screens.training import TrainingScreen
from services.advisor.machine import Gpu, Machine
from services.context import Context
from services.runs import estimate, view
from services.runs.train import StartParams
from services.runs.types import RunView, TrainConfig
from services.workspace import Workspace
from tests.panel import runs, sample
from tests.panel.helpers import until, until_text
from widgets.dialogs import Confirm

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
EIGHT = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
ROW = '{"text": "where is my card", "answer": "card_arrival"}\n'
H100 = Gpu("NVIDIA H100 80GB HBM3", 81_559 * 1024**2)


async def two_h100s() -> Machine:
    """Takes the place of looking at this box."""
    return Machine(32, 2 * 10**11, 2 * 10**11, (H100, H100), "", {})


async def of_eight_billion(ctx: Context, params: StartParams) -> estimate.Estimate:
    """train.estimate without making a spec first, which would convert a real model."""
    folder = ctx.workspace.root / "eight"
    spec = runs.make_spec(ctx.workspace, "20261123-1405-k3v9", created_at=runs.NOW, config=TrainConfig(method="full"))
    return await estimate.of_run(ctx, msgspec.structs.replace(spec, model=str(folder), data=str(folder)))


def never(ctx: Context, params: StartParams) -> RunView:
    """Takes the place of train.start."""
    raise AssertionError("nobody agreed")


@pytest.fixture
def on_two_gpus(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = workspace.root / "eight"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(EIGHT))
    for split, count in (("train", 400), ("val", 4), ("test", 10)):
        (folder / f"{split}.jsonl").write_text(ROW * count)
    info = {"name": "eight", "task": "classify", "prompt": "Query: {text}\nIntent:", "labels": ["card_arrival"],
            "counts": {"train": 400, "val": 4, "test": 10}, "sha256": "0", "source": "", "seed": 0,
            "created_at": 0.0}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(info))
    monkeypatch.setattr("services.advisor.machine.look", two_h100s)
    for name, function in (("train.start", "never"), ("train.estimate", "of_eight_billion")):
        known = actions.ACTIONS["train.start"]
        monkeypatch.setitem(actions.ACTIONS, name, replace(known, name=name, target=f"{__name__}:{function}"))
    sample.put(monkeypatch, storage_usage="usage_ok")
    monkeypatch.setattr("hybrid_tui.run_keeper.BEFORE_FIRST", 3600.0)
    monkeypatch.setattr(view, "folder_bytes", lambda folder: 9_800_000)
    monkeypatch.setenv("TZ", "UTC")
    runs.write(workspace, "20261123-1405-k3v9", runs.history(80))


@SIZES
@pytest.mark.usefixtures("on_two_gpus")
def test_picture_of_an_estimate_split_over_gpus(snap_compare: Any, app: HybridApp, size: tuple[int, int]) -> None:
    async def wait(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, TrainingScreen))
        await until_text(pilot, "✓ succeeded" if size[0] > 80 else "k3v9")
        await pilot.press("N")
        await until_text(pilot, "New run, like")
        app.screen.query_one("#field-model").focus()
        await pilot.press("enter")
        shown = await until_text(pilot, "Start this run?")
        assert isinstance(app.screen, Confirm)
        said = " ".join(app.screen.lines)
        assert "on each GPU, the model split over 2 (" in said
        assert "NVIDIA H100 80GB HBM3 (split over 2)." in said
        assert shown.index("• It fits") < shown.index("• How sure")  # what may have to be scrolled to comes last

    assert snap_compare(app, terminal_size=size, run_before=wait)
