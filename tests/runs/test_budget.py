"""Budgets, costs and runs elsewhere, as the supervisor enforces and the view shows them; without any target."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.context import Context
from services.errors import BadInput, Refused
from services.runs import actions, events, local, spec, view
from services.runs.remote import Remote, read_remote, write_remote
from services.runs.targets import NAMES, target
from services.runs.train import StartParams
from services.runs.types import Event, RunSpec, RunView
from services.workspace import Workspace
from tests.runs.conftest import ended, until

COUNTER = """
import sys
from services.runs.emit import Emitter
emit = Emitter()
%s
"""


def agent(code: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", COUNTER % code)


def test_a_budget_of_seconds_ends_a_run_over_budget_and_earlier_attempts_count(
    workspace: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    run = msgspec.structs.replace(make_spec("steps=100000", "checkpoint=100000"), max_seconds=1.5)
    run_dir = local.submit(workspace, run)
    seen = ended(run_dir)
    assert seen.phase == "over-budget"
    assert seen.reason.startswith("The run's budget of 1.5 s is used up; resume continues from checkpoint step")
    assert seen.last_checkpoint
    first = seen.cost.seconds
    assert first >= 1.5
    local.resume(run_dir)  # the second attempt has nothing left but the second that every attempt gets
    seen = ended(run_dir)
    assert seen.phase == "over-budget"
    assert 1.0 <= seen.cost.seconds - first < 1.5


def test_an_agent_tells_how_the_run_it_follows_ended_and_passes_heartbeats_on(
    workspace: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    code = (
        'emit.phase("provisioning", "asking", wants="https://agree"); '
        'emit.relay("hb", {"step": 3, "rss_bytes": 7}, "1:4"); '
        'emit.cost(9.0, of="a", units=0.5, rate=2.0, balance=3.0, source="account"); '
        'emit.cost(4.0, of="b", units=0.25); '
        'emit.error("It went away.", "Resume.", "lost"); sys.exit(1)'
    )
    run = msgspec.structs.replace(make_spec(command=agent(code)), target="colab", remote=("python", "x"))
    run_dir = local.submit(workspace, run)
    seen = ended(run_dir)
    assert (seen.phase, seen.reason, seen.hint) == ("lost", "It went away.", "Resume.")
    assert seen.rss_bytes == 7
    assert (seen.cost.seconds, seen.cost.units, seen.target) == (13.0, 0.75, "colab")
    told = list(events.Follower(run_dir).all())
    assert next(e.data["wants"] for e in told if "wants" in e.data) == "https://agree"
    assert next(e.data["origin"] for e in told if e.ev == "hb" and "origin" in e.data) == "1:4"
    assert not seen.unattached


@pytest.fixture
def unattached(workspace: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run elsewhere whose agent was killed in its first attempt; the second one succeeds, or is cancelled."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    code = (
        'import os, time\\nemit.phase("running")\\n'
        "if emit.attempt == 1: os.kill(os.getpid(), 9)\\n"
        "until = time.monotonic() + 30\\n"
        'while not emit.cancelled() and not emit.asked("go") and time.monotonic() < until: time.sleep(0.05)\\n'
        "from services.runs.remote import Remote, write_remote\\n"
        'write_remote(emit.run_dir, Remote("colab", "hybrid-x-1", False))\\n'
        "sys.exit(130 if emit.cancelled() else 0)"
    )
    run = msgspec.structs.replace(
        make_spec(command=agent(f'exec("""{code}""")')), target="colab", remote=("python", "x")
    )
    run_dir = local.submit(workspace, run)
    until(lambda: not view.is_alive(run_dir, 1))
    write_remote(run_dir, Remote("colab", "hybrid-x-1", True, machine="T4, t4-x"))
    return run_dir


async def test_a_run_whose_agent_died_keeps_its_phase_and_is_followed_again(ctx: Context, unattached: Path) -> None:
    seen = view.read(unattached)
    assert (seen.phase, seen.link, seen.unattached, seen.machine) == ("running", "none", True, "T4, t4-x")
    assert "may go on there, and cost" in seen.reason
    with pytest.raises(Refused, match="may still have its machine"):
        local.delete(unattached)
    with pytest.raises(Exception, match="Nothing here follows"):
        await actions.watch(ctx, actions.RunParams())
    again = await actions.reattach(ctx, actions.ReattachParams())
    assert isinstance(again, actions.Runs)
    assert [run.id for run in again.runs] == [unattached.name]
    until(lambda: view.read(unattached).phase == "running" and view.read(unattached).link == "live")
    with pytest.raises(Refused, match="not waiting for a consent"):
        await actions.consent(ctx, actions.RunParams())
    (unattached / "control" / "go").touch()
    assert ended(unattached).phase == "succeeded"


async def test_of_many_who_reattach_at_once_one_follows(ctx: Context, unattached: Path) -> None:
    """Two panels, and more: each looks, then follows, and is content when another was first."""
    found = await asyncio.gather(*(actions.reattach(ctx, actions.ReattachParams(unattached.name)) for _ in range(8)))
    assert all(isinstance(one, actions.Runs) for one in found)
    assert view.newest_attempt(unattached) == 2
    (unattached / "control" / "go").touch()
    assert ended(unattached).attempt == 2


def test_who_looked_before_another_resumed_makes_no_attempt_of_its_own(
    unattached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of events that a race would need, made sure: the other comes between looking and making."""
    look = local.read

    def slow(run_dir: Path) -> RunView:
        seen = look(run_dir)
        if threading.current_thread() is threading.main_thread() and view.newest_attempt(run_dir) == 1:
            other = threading.Thread(target=local.resume, args=(run_dir,), kwargs={"follow_only": True})
            other.start()
            other.join()
        return seen

    monkeypatch.setattr(local, "read", slow)
    with pytest.raises(Refused, match="resumed by somebody else"):
        local.resume(unattached, follow_only=True)
    assert view.newest_attempt(unattached) == 2
    (unattached / "control" / "go").touch()
    assert ended(unattached).phase == "succeeded"


def test_the_supervisor_of_a_run_elsewhere_keeps_the_months_ceiling_without_any_panel(
    workspace: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (workspace.root / "hybrid.toml").write_text("[costs]\nmonth = { units = 2 }\n")
    code = (
        'import time; emit.phase("running"); emit.cost(9.0, of="vm", units=2.5); until = time.monotonic() + 30\n'
        "while not emit.cancelled() and time.monotonic() < until: time.sleep(0.05)\n"
        "sys.exit(130 if emit.cancelled() else 0)"
    )
    run = make_spec(command=agent(code))
    command = (sys.executable, "-m", "services.runs.ceilings", str(workspace.root), str(workspace.runs / run.id))
    run_dir = local.submit(
        workspace, msgspec.structs.replace(run, target="colab", remote=("python", "x"), ceilings=command)
    )
    seen = ended(run_dir)
    assert seen.phase == "over-budget"
    assert seen.reason.startswith("This month's runs have cost 2.50 units of the 2 allowed.")


def test_cancelling_such_a_run_reattaches_it_first(unattached: Path) -> None:
    local.cancel(unattached)
    seen = ended(unattached)
    assert (seen.phase, seen.attempt) == ("cancelled", 2)


def test_costs_told_twice_or_by_another_attempt_of_the_same_machine_count_once() -> None:
    def cost(attempt: int, seq: int, **data: object) -> Event:
        return Event(1, "r", attempt, seq, 0.0, "cost", dict(data))

    told = [
        cost(1, 1, seconds=5.0, of="m1", units=1.0),
        cost(1, 2, seconds=9.0, of="m1", units=2.0),
        cost(2, 1, seconds=12.0, of="m1", units=2.5, rate=1.5, source="account"),
        cost(2, 2, seconds=1.0, of="m2", units=0.1, rate=1.5, source="account"),
        cost(3, 1, seconds=4.0),
    ]
    total = view.fold([*told, *told]).cost()
    assert (total.seconds, total.units) == (17.0, pytest.approx(2.6))


async def test_every_target_is_known_and_a_budget_in_units_needs_one(ctx: Context) -> None:
    assert target("local").name == "local"
    assert target("colab").title.startswith("Google Colab")
    assert set(NAMES) == {"local", "colab", "notebook", "ray"}
    with pytest.raises(BadInput, match="did you mean 'colab'"):
        target("collab")
    with pytest.raises(BadInput, match="costs no units"):
        await target("local").check(ctx, StartParams(budget_cost=1.0))


def test_remote_json_is_whole_or_unknown(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> None:
    assert read_remote(tmp_path) is None
    remote = Remote("ray", "job-1", True, 3, 5.0, "cluster", {"k": [1]})
    write_remote(tmp_path, remote)
    assert read_remote(tmp_path) == remote
    (tmp_path / "remote.json").write_text('{"target": "ra')
    assert read_remote(tmp_path) is None
    old = json.loads(msgspec.json.encode(make_spec()))
    for name in ("remote", "options", "max_seconds", "max_cost", "budget", "grace_s"):
        del old[name]
    (tmp_path / "spec.json").write_text(json.dumps(old))
    assert spec.read(tmp_path).remote == ()  # runs made before this are read
