"""Sweeps over the small trainer, driven in this process: a driver dropped in the middle is one that was killed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services.runs.types import RunSpec, TrainConfig
from services.sweeps import log, space
from services.sweeps.driver import Driver
from services.sweeps.types import SweepSpec, Value
from services.workspace import Workspace

TRAINER = Path(__file__).with_name("trainer.py")
CHECKOUT = TRAINER.parents[2]


class SmallDriver(Driver):
    """The driver itself; only what it runs is the small trainer."""

    pause = 0.0

    async def _run_spec(self, params: dict[str, Value], run_id: str) -> RunSpec:
        words = (sys.executable, "-P", str(TRAINER), str(self.workspace.runs / run_id), str(self.pause))
        config = space.applied(self.spec.config, params)
        return RunSpec(
            1, run_id, "train", "local", words, str(CHECKOUT), config, "/models/tiny", "tiny", "/data/intents",
            "0" * 64, 0, time.time(),
        )  # fmt: skip


@pytest.fixture
def make(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A sweep's folder; ``changes`` are to its spec."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setattr("services.sweeps.driver._LOOK_S", 0.03)

    def made(id: str = "20261124-1200-abcd", text: str = "lr=log:1e-5..1e-1 r=4|8|16", **changes: Any) -> Path:
        fields: dict[str, Any] = {
            "v": 1, "id": id, "data": "/data/intents", "data_sha256": "0" * 64, "model": "tiny", "target": "local",
            "config": TrainConfig(eval_steps=1), "axes": space.parse(text), "trials": 6, "parallel": 2,
            "metric": "val_loss", "pruner": "median", "seed": 3, "created_at": 1.0,
        }  # fmt: skip
        return log.create(workspace, SweepSpec(**(fields | changes)))

    return made


def drive(workspace: Workspace, folder: Path, *, seconds: float = 60.0, pause: float = 0.0) -> None:
    """Drive the sweep for so long, or to its end; then the driver is gone without a word."""

    async def run() -> None:
        writer = log.Writer(folder)
        driver = SmallDriver(workspace, folder, writer)
        driver.pause = pause
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(driver.run(), seconds)
        finally:
            writer.close()

    asyncio.run(run())
