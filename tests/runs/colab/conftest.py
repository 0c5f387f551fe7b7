"""Runs of the small trainer on Colab's machines."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from services.runs import local, spec
from services.runs.colab.target import TARGET
from services.runs.types import RunSpec, TrainConfig
from services.workspace import Workspace
from tests.runs.colab.bed import Bed, running
from tests.runs.conftest import CHECKOUT, TRAINER, processes_of

# Heartbeats, polls and patience in fractions of a second, so that what takes minutes there is seen within seconds.
QUICK = {"beat_s": 0.5, "poll_s": 0.5, "grace_s": 10.0, "idle_s": 60.0, "busy_s": 0.1}


@pytest.fixture
def bed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    """A backend of the test's own, its command line in the settings."""
    box = tmp_path_factory.mktemp("colab")
    with running(box) as one:
        monkeypatch.setenv("HYBRID_COLAB_CLI", one.cli)
        monkeypatch.setenv("HYBRID_COLAB_PACKAGES", "msgspec>=0.20")
        monkeypatch.setenv("COLAB_CLI_RETRY_BACKOFF", "0.05")
        yield one
    shutil.rmtree(box, ignore_errors=True)


@pytest.fixture
def make_spec(workspace: Workspace, tmp_path: Path) -> Callable[..., RunSpec]:
    """A spec of a run on Colab whose trainer is the small one with the given words; fields by name."""
    data = tmp_path / "intents"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "hello"}\n')

    def make(*words: str, options: dict[str, object] | None = None, **fields: object) -> RunSpec:
        run_id = spec.make_run_id()
        made = RunSpec(
            1, run_id, "train", "colab", TARGET.command(workspace.runs / run_id), str(CHECKOUT),
            TrainConfig(checkpoint_seconds=1.0), "HuggingFaceTB/tiny", "tiny", str(data), "0" * 64, 0, time.time(),
            remote=("python", "-P", str(TRAINER), "{run}", *words), options={**QUICK, **(options or {})}, grace_s=60.0,
        )  # fmt: skip
        return msgspec.structs.replace(made, **fields)

    return make


@pytest.fixture
def submit(workspace: Workspace, make_spec: Callable[..., RunSpec]) -> Callable[..., Path]:
    """Start such a run; its folder."""
    return lambda *words, **more: local.submit(workspace, make_spec(*words, **more))


def agent_of(run_dir: Path) -> psutil.Process:
    """The run's agent on this box."""
    found = [p for p in processes_of(run_dir) if "services.runs.colab.agent" in p.cmdline()]
    assert len(found) == 1, found
    return found[0]
