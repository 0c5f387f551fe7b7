"""Causes that are easily taken for something else: a clock that jumps, lines that come twice or torn, a supervisor's
stream that breaks off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from services.runs import events, local, view
from services.runs.types import Event
from tests.runs.conftest import ended, until

Submit = Callable[..., Path]
YEAR = 365 * 86400.0


def lines(run_dir: Path) -> list[bytes]:
    return [line for path in sorted(run_dir.glob("events-*.jsonl")) for line in path.read_bytes().splitlines()]


def state(history: list[Event]) -> dict[str, object]:
    """What a fold knows but for its times."""
    found = dict(vars(view.fold(history)))
    return {key: value for key, value in found.items() if not key.endswith("_at")}


def test_a_clock_that_jumps_changes_nothing_but_the_times(submit: Submit) -> None:
    run_dir = submit("steps=6")
    ended(run_dir)
    history = list(events.Follower(run_dir).all())
    for jump in (-YEAR, YEAR):
        jumped = [
            msgspec.structs.replace(event, t=event.t + (jump if index >= len(history) // 2 else 0))
            for index, event in enumerate(history)
        ]
        assert state(jumped) == state(history)


def test_a_run_resumed_after_the_clock_went_back_is_the_newer_attempt(submit: Submit) -> None:
    run_dir = submit("steps=200", "pause=0.02")
    until(lambda: view.read(run_dir).step >= 6)
    local.cancel(run_dir)
    first = ended(run_dir)
    assert first.phase == "cancelled"
    (path,) = run_dir.glob("events-*.jsonl")
    future = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    for event in future:
        event["t"] += YEAR  # the first attempt was written by a clock a year ahead
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in future))
    local.resume(run_dir)
    until(lambda: view.read(run_dir).phase == "running" and view.read(run_dir).attempt == 2)
    local.cancel(run_dir)
    second = ended(run_dir)
    assert second.phase == "cancelled" and second.attempt == 2 and second.step >= first.step


def test_lines_that_come_twice_and_torn_ones_leave_the_state_and_are_named(submit: Submit) -> None:
    run_dir = submit("steps=20")
    seen = ended(run_dir)
    (path,) = run_dir.glob("events-*.jsonl")
    whole = lines(run_dir)
    twice = [line for line in whole for _ in range(2)]
    path.write_bytes(b"\n".join([*twice[:9], whole[9][:17], *twice[9:]]) + b"\n")
    again = view.Reader(run_dir).view()
    assert (again.phase, again.step, again.metrics, again.last_checkpoint) == (
        seen.phase, seen.step, seen.metrics, seen.last_checkpoint,
    )  # fmt: skip
    assert [problem.partition(": ")[0] for problem in again.problems] == [f"{path.name}:10"]
