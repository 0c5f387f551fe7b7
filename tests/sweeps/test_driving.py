"""Sweeps of real supervised runs: pruned, killed, cancelled, resumed, over budget, failing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.context import Context
from services.errors import HybridError, Refused
from services.runs import view as runs
from services.sweeps import actions, log, view
from services.sweeps.types import SweepView
from services.workspace import Workspace
from tests.sweeps.conftest import drive
from tests.sweeps.trainer import STEPS, loss

Make = Callable[..., Path]


def outcome(seen: SweepView) -> list[tuple[object, ...]]:
    """What must be the same however often the driver died."""
    return [(t.number, t.state, t.params, t.value, t.step, [(r.step, r.value) for r in t.reports]) for t in seen.trials]


def test_weak_trials_are_stopped_and_the_best_is_known(workspace: Workspace, make: Make) -> None:
    folder = make(parallel=1, trials=8)
    drive(workspace, folder, pause=0.06)
    seen = view.read(folder)
    assert seen.phase == "finished" and len(seen.trials) == 8
    states = [t.state for t in seen.trials]
    assert "pruned" in states and states[:2] == ["complete", "complete"]
    for trial in seen.trials:
        value = loss(float(trial.params["lr"]), int(trial.params["r"]), trial.step)
        assert trial.value == pytest.approx(value)
        run = runs.read(view.run_folder(folder, trial.run))
        assert run.phase == ("succeeded" if trial.state == "complete" else run.phase)
        if trial.state == "pruned":
            assert 1 < trial.step < STEPS and trial.reason == f"Weak at step {trial.step}."
    assert any(runs.read(view.run_folder(folder, t.run)).phase == "cancelled" for t in seen.trials)
    best = seen.best_trial
    assert best is not None and best.value == min(t.value for t in seen.trials if t.state == "complete")  # type: ignore[type-var]


def test_a_driver_killed_again_and_again_makes_the_sweep_that_an_undisturbed_one_makes(
    workspace: Workspace, make: Make
) -> None:
    whole, broken = (make(f"20261124-1200-{x}", parallel=1, trials=4) for x in ("aaaa", "bbbb"))
    drive(workspace, whole)
    for seconds in (0.1, 0.3, 0.5, 0.2, 0.8):
        drive(workspace, broken, seconds=seconds)
    drive(workspace, broken)
    assert view.read(broken).phase == "finished"
    assert sum(entry.what == "begun" for entry in log.read(broken)[0]) > 2
    assert outcome(view.read(broken)) == outcome(view.read(whole))


def test_a_run_whose_making_was_written_and_not_done_is_made(workspace: Workspace, make: Make) -> None:
    folder = make(trials=1, parallel=1)
    writer = log.Writer(folder)
    writer.add("begun")
    writer.add("asked", 0, run="20261124-1200-wxyz", params={"lr": 0.001, "r": 8})
    writer.close()
    assert view.read(folder).phase == "stopped"
    drive(workspace, folder)
    (trial,) = view.read(folder).trials
    assert trial.state == "complete" and runs.read(workspace.runs / "20261124-1200-wxyz").phase == "succeeded"


def test_cancelled_and_resumed(workspace: Workspace, make: Make) -> None:
    folder = make(trials=3, parallel=2, pruner="none")
    drive(workspace, folder, seconds=0.8, pause=0.3)
    (folder / log.CANCEL).touch()
    drive(workspace, folder)
    seen = view.read(folder)
    assert seen.phase == "cancelled" and {t.state for t in seen.trials} == {"cancelled"}
    assert all(runs.read(view.run_folder(folder, t.run)).phase == "cancelled" for t in seen.trials)
    (folder / log.CANCEL).unlink()
    drive(workspace, folder)
    seen = view.read(folder)
    assert seen.phase == "finished" and [t.state for t in seen.trials] == ["complete"] * 3
    assert [[r.step for r in t.reports] for t in seen.trials] == [list(range(1, STEPS + 1))] * 3


def test_a_deleted_run_fails_its_trial_and_four_failures_end_the_sweep(workspace: Workspace, make: Make) -> None:
    folder = make(text="lr=0.6..0.9", trials=9, parallel=1)
    drive(workspace, folder)
    seen = view.read(folder)
    assert seen.phase == "failed" and len(seen.trials) == 4 and seen.best is None
    assert "4 trials in a row failed" in seen.reason and "not a finite number" in seen.reason
    assert seen.hint.startswith("sweep.resume")


def test_the_budget_of_all_trials_together(workspace: Workspace, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sweeps.driver._COST_S", 0.2)
    folder = make(max_seconds=1.0, pruner="none")
    drive(workspace, folder, pause=1.0)
    seen = view.read(folder)
    assert seen.phase == "over-budget" and "1 s is used up" in seen.reason


async def test_register_takes_the_best_once(ctx: Context, workspace: Workspace, make: Make) -> None:
    import asyncio

    folder = make(trials=2, parallel=2)
    with pytest.raises(Refused, match="No trial is complete"):
        await actions.register(ctx, actions.RegisterParams(model="banking"))
    await asyncio.to_thread(drive, workspace, folder)
    first = await actions.register(ctx, actions.RegisterParams(model="banking", note="short"))
    again = await actions.register(ctx, actions.RegisterParams(model="banking"))
    best = view.read(folder).best_trial
    assert best is not None and first.version == again.version == 1
    assert f"Best of sweep {folder.name}: val_loss" in first.note and first.note.startswith("short")
    with pytest.raises(Refused, match="has finished"):
        await actions.resume(ctx, actions.WaitParams())
    shutil.rmtree(folder / "control")
    lines = (await actions.list_sweeps(ctx, actions.ListParams())).sweeps
    assert [line.id for line in lines] == [folder.name] and lines[0].best == best.params


async def test_without_optuna_one_sentence(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HybridError, match="Sweeps need Optuna") as raised:
        await actions.start(ctx, actions.SweepStartParams())
    assert "hybrid-tui[sweep]" in raised.value.hint
