"""Whole runs on Colab through the unmodified command line: agents killed, machines taken away, budgets used up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.runs import events, local, view
from services.runs.colab.cli import Cli
from services.runs.remote import Remote, read_remote
from services.runs.types import FINISHED, Event, RunView
from services.workspace import Workspace
from tests.runs.colab.bed import Bed
from tests.runs.colab.conftest import agent_of
from tests.runs.conftest import supervisor_of, until

pytestmark = pytest.mark.colab
PATIENCE = 240.0  # each call of the command line takes seconds, more where others compute too


def history(run_dir: Path) -> list[Event]:
    return list(events.Follower(run_dir).all())


def wait_for_step(run_dir: Path, step: int) -> None:
    until(lambda: view.read(run_dir).step >= step or view.read(run_dir).phase in FINISHED, PATIENCE)
    assert view.read(run_dir).phase not in FINISHED, view.read(run_dir)


def finished(run_dir: Path) -> RunView:
    until(lambda: view.read(run_dir).phase in FINISHED, PATIENCE)
    until(lambda: not view.is_alive(run_dir, view.newest_attempt(run_dir)))
    return view.read(run_dir)


def machine(run_dir: Path) -> Remote:
    remote = read_remote(run_dir)
    assert remote is not None
    return remote


def test_a_run_goes_on_without_its_agent_and_nothing_of_it_is_lost_or_doubled(
    bed: Bed, submit: Callable[..., Path], workspace: Workspace, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_onlyforthetest")
    enough = tmp_path / "enough"
    words = ("steps=100000", "pause=0.05", "checkpoint=100000", "secret=HF_TOKEN", f"finish={enough}")
    run_dir = submit(*words, env_names=("HF_TOKEN",))
    wait_for_step(run_dir, 20)
    agent_of(run_dir).kill()
    until(lambda: not view.is_alive(run_dir, 1), 20)
    seen = view.read(run_dir)
    assert (seen.phase, seen.link, seen.unattached) == ("running", "none", True)
    assert "train.resume" in seen.hint
    assert bed.machines()
    assert local.unattached(workspace) == [run_dir]
    with pytest.raises(local.Refused):
        local.delete(run_dir)
    local.resume(run_dir)
    wait_for_step(run_dir, seen.step + 1)
    assert view.read(run_dir).link == "polling"
    local.request_checkpoint(run_dir)
    until(lambda: view.read(run_dir).last_checkpoint, PATIENCE)
    enough.touch()
    seen = finished(run_dir)
    assert seen.phase == "succeeded", seen
    told = history(run_dir)
    steps = [e.data["step"] for e in told if e.ev == "metric" and e.data["split"] == "train"]
    assert steps == list(range(1, seen.step + 1))
    assert all(20 < e.data["step"] < seen.step for e in told if e.ev == "ckpt")
    made = json.loads((run_dir / "output" / "metadata.json").read_text())
    assert made == {"first": 1, "made": seen.step, "secret": "hf_o"}
    assert not bed.machines()
    assert not machine(run_dir).live
    assert "hf_onlyforthetest" not in bed.history()
    left = [p for p in bed.box.rglob("*") if p.is_file() and b"hf_onlyforthetest" in p.read_bytes()]
    assert not left
    assert seen.cost.source == "account"
    assert 0 < (seen.cost.units or 0) < 1


def test_a_budget_stops_a_run_and_frees_its_machine_although_the_box_is_dead(
    bed: Bed, submit: Callable[..., Path]
) -> None:
    started = time.monotonic()
    asyncio.run(Cli(bed.cli).usage())
    seconds = 8 + 8 * (time.monotonic() - started)  # what getting a machine ready takes is some calls of that program
    units = round(seconds * 1.5 / 3600, 4)
    run_dir = submit("steps=100000", "pause=0.05", max_cost=units, options={"idle_s": 1.0})
    wait_for_step(run_dir, 5)
    supervisor, agent = supervisor_of(run_dir), agent_of(run_dir)
    supervisor.kill()
    with contextlib.suppress(psutil.NoSuchProcess):  # it dies with its supervisor
        agent.kill()
    until(lambda: not bed.machines(), seconds + 60)
    there = bed.content(machine(run_dir).data["endpoint"]) / "hybrid" / run_dir.name
    end = history(there)[-1]
    assert (end.ev, end.data["phase"]) == ("end", "over-budget")
    assert f"{units:g} units (at 1.5 an hour)" in end.data["reason"]


def test_drive_is_mounted_after_the_consent_and_a_cancel_brings_the_checkpoint_home(
    bed: Bed, submit: Callable[..., Path]
) -> None:
    bed.set(drive_granted=False)
    run_dir = submit("steps=100000", "pause=0.02", "checkpoint=100000", options={"mount_drive": True})
    until(lambda: view.read(run_dir).wants, PATIENCE)
    assert view.read(run_dir).wants.endswith("/grant-drive")
    assert view.read(run_dir).phase == "provisioning"
    local.consent(run_dir)
    wait_for_step(run_dir, 10)
    bed.set(auth_ok=False)  # the account can't be used any more: the machine is asked to give itself back
    local.cancel(run_dir)
    seen = finished(run_dir)
    assert seen.phase == "cancelled"
    assert seen.last_checkpoint == f"checkpoints/step-{seen.step:06d}"
    assert json.loads((run_dir / seen.last_checkpoint / "state.json").read_text()) == {"step": seen.step}
    kept = bed.box / "drive/MyDrive/hybrid-runs" / run_dir.name / f"step-{seen.step:06d}" / "state.json"
    assert kept.is_file()
    assert not bed.machines()
