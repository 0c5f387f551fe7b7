"""Runs of the small trainer, and a check that no test leaves a process behind."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.runs import local, spec, view
from services.runs.types import FINISHED, RunSpec, RunView, TrainConfig
from services.workspace import Workspace

TRAINER = Path(__file__).with_name("trainer.py")
CHECKOUT = TRAINER.parents[2]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for ``condition``, at most so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def ended(run_dir: Path) -> RunView:
    """The run once it has ended and nothing of it lives."""
    until(lambda: view.read(run_dir).phase in FINISHED)
    until(lambda: not view.is_alive(run_dir, view.newest_attempt(run_dir)))
    return view.read(run_dir)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every living process that has ``folder`` in its command line or is bound to a run in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        words = " ".join(process.info["cmdline"] or []) + str((process.info["environ"] or {}).get("HYBRID_RUN_DIR", ""))
        if str(folder) in words and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process)
    return found


def supervisor_of(run_dir: Path) -> psutil.Process:
    """The detached supervisor of a run."""
    found = [p for p in processes_of(run_dir) if any(word.endswith("supervisor.py") for word in p.cmdline())]
    assert len(found) == 1, found
    return found[0]


def trainer_of(run_dir: Path) -> psutil.Process:
    """The trainer of a run."""
    found = [p for p in processes_of(run_dir) if any(word.endswith("trainer.py") for word in p.cmdline())]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def make_spec(workspace: Workspace) -> Callable[..., RunSpec]:
    """A spec whose command is the small trainer with the given options."""

    def make(*options: str, command: tuple[str, ...] | None = None) -> RunSpec:
        run_id = spec.make_run_id()
        words = command or (sys.executable, "-P", str(TRAINER), str(workspace.runs / run_id), *options)
        return RunSpec(
            1, run_id, "train", "local", words, str(CHECKOUT), TrainConfig(), "/models/tiny", "tiny",
            "/data/intents", "0" * 64, 0, time.time(),
        )  # fmt: skip

    return make


@pytest.fixture
def submit(
    workspace: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Start the small trainer with the given options as a detached run; its folder."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return lambda *options, **more: local.submit(workspace, make_spec(*options, **more))


def _zombies() -> list[int]:
    """Dead children of this process that nobody has reaped."""
    return [c.pid for c in psutil.Process().children() if c.status() == psutil.STATUS_ZOMBIE]


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    """Afterwards no process of the test's runs lives, and this process has no dead child unreaped."""
    before = set(_zombies())
    yield
    left = processes_of(tmp_path)
    if left:
        psutil.wait_procs(left, timeout=3)
        left = [process for process in left if process.is_running()]
    names = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):  # gone meanwhile, or dead and not reaped by its parent yet
            names.append(" ".join(process.cmdline()))
            process.kill()
    zombies = set(_zombies()) - before
    assert not names, f"left running: {names}"
    assert not zombies, f"dead children not reaped: {zombies}"
