"""Events from elsewhere: whatever order, repetition or loss they come with, each is passed on once, in order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.runs.emit import Emitter
from services.runs.feed import Feed, Passed, passed_on


class Pipe:
    """An emitter and what it sent."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.environ["HYBRID_EVENTS_FD"] = str(writer)
        self.emit = Emitter()
        del os.environ["HYBRID_EVENTS_FD"]
        self._writer = writer

    def sent(self) -> list[dict[str, Any]]:
        os.close(self._writer)
        with os.fdopen(self._reader, "rb") as file:
            return [json.loads(line) for line in file]


def event(seq: int, ev: str = "metric", **data: Any) -> dict[str, Any]:
    return {"v": 1, "run": "r", "attempt": 2, "seq": seq, "t": 0.0, "ev": ev, "data": data or {"step": seq}}


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.lists(st.integers(1, n), max_size=10), max_size=20))
    )
)
def test_a_stream_that_repeats_loses_and_shuffles_passes_each_event_once(drawn: tuple[int, list[list[int]]]) -> None:
    total, pieces = drawn
    pipe = Pipe()
    feed = Feed(pipe.emit, 2)
    for piece in pieces:
        feed.take(event(seq) for seq in piece)
    feed.take(event(seq) for seq in range(1, total + 1))  # the files have all
    assert feed.have == total
    assert not feed.missing
    assert [line["origin"] for line in pipe.sent()] == [f"2:{seq}" for seq in range(1, total + 1)]


def test_a_gap_holds_events_back_until_it_is_filled_or_given_up() -> None:
    pipe = Pipe()
    feed = Feed(pipe.emit, 2, Passed(3))
    feed.take([event(2), event(5), event(6), {**event(4), "attempt": 1}])
    assert feed.missing == 1
    assert feed.have == 3
    assert feed.give_up() == 1
    assert feed.have == 6
    assert [line["step"] for line in pipe.sent()] == [5, 6]


def test_costs_are_handed_on_as_the_starts_where_the_agent_has_none_of_its_own() -> None:
    pipe = Pipe()
    Feed(pipe.emit, 2, link="polling", costs=True).take([event(1, "cost", seconds=3), event(2, "phase", phase="x")])
    assert [(e["ev"], e.get("of"), e.get("link")) for e in pipe.sent()] == [
        ("cost", "start 2", None),
        ("phase", None, "polling"),
    ]


def test_costs_checkpoints_and_the_end_are_the_agents_own_to_tell() -> None:
    pipe = Pipe()
    feed = Feed(pipe.emit, 2)
    feed.take([event(1, "cost", seconds=3), event(2, "ckpt", step=4), event(3, "phase", phase="running")])
    assert feed.phase == "running"
    assert feed.end is None
    feed.take([event(4, "end", phase="succeeded")])
    assert feed.end == {"phase": "succeeded"}
    assert [line["ev"] for line in pipe.sent()] == ["phase"]


def test_what_was_passed_on_is_found_in_the_runs_own_events(tmp_path: Path) -> None:
    lines = [
        {**event(1), "data": {"origin": "1:9"}},
        {**event(2, "phase"), "data": {"origin": "2:4", "phase": "running"}},
        {**event(3), "data": {"origin": "2:x"}},
        {**event(4), "data": {}},
    ]
    (tmp_path / "events-000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert passed_on(tmp_path) == {1: Passed(9, "preparing"), 2: Passed(4, "running")}
