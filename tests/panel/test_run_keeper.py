"""What the panel does about runs by itself: reattaching, once; ceilings; nothing of it when it only reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from hybrid_tui.app import HybridApp
from hybrid_tui.run_keeper import RunKeeper
from services.runs import local, spec, view
from services.runs.remote import Remote, write_remote
from services.runs.types import FINISHED
from services.workspace import Workspace, open_workspace
from tests.panel import runs
from tests.panel.helpers import until, until_text

AGENT = """
import os, sys, time
from services.runs.emit import Emitter
from services.runs.remote import Remote, write_remote
emit = Emitter()
emit.phase("running")
emit.cost(60.0, of="vm", units=2.5)
if emit.attempt == 1 and "first" in sys.argv: os.kill(os.getpid(), 9)
until = time.monotonic() + 30
while not emit.cancelled() and time.monotonic() < until: time.sleep(0.05)
write_remote(emit.run_dir, Remote("colab", "vm", False))
sys.exit(130)
"""


def elsewhere(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *words: str) -> Path:
    """A run whose agent only waits; with "first" it was killed in its first attempt, and the machine may live."""
    monkeypatch.setenv("PYTHONPATH", str(runs.CHECKOUT))
    made = runs.make_spec(workspace, spec.make_run_id())
    command = (made.command[0], "-P", "-c", AGENT, *words)
    run_dir = local.submit(
        workspace, msgspec.structs.replace(made, command=command, target="colab", remote=("python", "x"))
    )
    if words:
        end = time.monotonic() + 10
        while view.is_alive(run_dir, 1) and time.monotonic() < end:
            time.sleep(0.02)
        write_remote(run_dir, Remote("colab", "vm", True, machine="T4, vm-1"))
    return run_dir


@pytest.fixture(autouse=True)
def _end_runs(workspace: Workspace) -> Iterator[None]:
    """No run outlives its test."""
    yield
    for run_dir in workspace.runs.glob("*-*-*"):
        if not view.is_alive(run_dir, view.newest_attempt(run_dir)):
            continue
        (run_dir / "control" / "cancel").touch()
        end = time.monotonic() + 20
        while view.is_alive(run_dir, view.newest_attempt(run_dir)) and time.monotonic() < end:
            time.sleep(0.02)


async def test_a_run_that_nothing_follows_is_followed_again_when_the_panel_starts(
    app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = elsewhere(workspace, monkeypatch, "first")
    assert view.read(run_dir).unattached
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await until_text(pilot, "is followed again")
        assert f"Run {run_dir.name} at T4, vm-1" in shown
        await until(pilot, lambda: view.read(run_dir).link == "live")
    assert view.newest_attempt(run_dir) == 2
    assert view.is_alive(run_dir, 2)  # the panel is gone, what follows the run is not


async def test_each_run_once_in_a_panels_life_and_by_one_of_two_panels(
    app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = elsewhere(workspace, monkeypatch, "first")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        keeper, other = RunKeeper(app), RunKeeper(app)
        works = [app.run_worker(one.look(), exit_on_error=False) for one in (keeper, other)]
        await until(pilot, lambda: all(work.is_finished for work in works))
        await until(pilot, lambda: view.read(run_dir).link == "live")
        assert view.newest_attempt(run_dir) == 2
        supervisor = next(
            p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and str(run_dir) in p.info["cmdline"]
        )
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(pilot, lambda: view.read(run_dir).unattached)
        await keeper.look()
        assert view.read(run_dir).unattached and view.newest_attempt(run_dir) == 2


async def test_a_run_that_can_not_be_followed_is_told_once_and_stays_red(
    app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = elsewhere(workspace, monkeypatch, "first")
    monkeypatch.setattr(local, "SUPERVISOR", run_dir / "no-such-file.py")
    said: list[str] = []
    monkeypatch.setattr(app, "notify", lambda text, **_: said.append(text))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: said)
        keeper = RunKeeper(app)
        said.clear()
        await keeper.look()
        await keeper.look()
        assert [text for text in said if "can't be followed" in text] == said and len(said) == 1
        await pilot.press("4")
        await until_text(pilot, "‼ may bill")


async def test_with_read_only_nothing_is_followed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = elsewhere(workspace, monkeypatch, "first")
    app = HybridApp(workspace, read_only=True)
    monkeypatch.setattr("hybrid_tui.run_keeper.BEFORE_FIRST", 0.0)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await until_text(pilot, "‼ may bill")
    assert view.newest_attempt(run_dir) == 1


@pytest.mark.parametrize(
    ("ceiling", "said", "phase"), [(3, "units of the 3 allowed", None), (2, "asked to write", "over-budget")]
)
async def test_the_months_ceiling_is_told_and_then_stops_without_anybody_asking(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, ceiling: int, said: str, phase: Any
) -> None:
    (workspace.root / "hybrid.toml").write_text(f"[costs]\nmonth = {{ units = {ceiling} }}\n", encoding="utf-8")
    run_dir = elsewhere(workspace, monkeypatch)
    app = HybridApp(open_workspace(workspace.root))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(pilot, lambda: view.read(run_dir).cost.units)
        await RunKeeper(app).look()
        await until_text(pilot, said)
        if phase:
            await until(pilot, lambda: view.read(run_dir).phase in FINISHED)
            assert view.read(run_dir).phase == phase
        else:
            assert not (run_dir / "control" / "cancel").exists()
