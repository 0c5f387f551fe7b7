"""How a transfer stands: a fold of its events that repeats and unknown words don't disturb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.runs.types import Event
from services.transfers import items
from services.transfers.journal import Journal
from services.transfers.meter import Reading
from services.transfers.types import Spec
from services.transfers.view import Fold, Reader, read_all, runnable
from services.workspace import Workspace

figures = st.builds(
    Reading,
    done_bytes=st.integers(0, 100), total_bytes=st.just(100), done_files=st.integers(0, 3), total_files=st.just(3),
    moved_bytes=st.integers(0, 200), rate=st.none() | st.floats(0, 1e9), eta_s=st.none(), retries=st.integers(0, 5),
    trouble=st.sampled_from(["", "503"]), files=st.just(()),
)  # fmt: skip
happenings = st.lists(
    st.one_of(
        figures.map(lambda r: ("metric", msgspec.to_builtins(r))),
        st.sampled_from(["running", "retrying", "paused"]).map(lambda p: ("phase", {"phase": p, "session": "s"})),
        st.sampled_from(["done", "failed", "cancelled"]).map(lambda p: ("end", {"phase": p, "reason": "r"})),
        st.just(("metric", {"done_bytes": "nonsense"})),
    ),
    max_size=30,
)


def _spec(id: str) -> Spec:
    return Spec(1, id, "push", "/x", "models/x", "", False, False, "folder:p:r", "models/x", 1.0)


@given(happenings, st.randoms(use_true_random=False))
def test_events_taken_twice_change_nothing(found: list[tuple[Any, dict[str, Any]]], dice: Any) -> None:
    attempt, events = 1, []
    for n, (ev, data) in enumerate(found, 1):
        events.append(Event(1, "t", attempt, n, float(n), ev, data))
        attempt += ev == "end" and dice.random() < 0.5
    once, twice = Fold(), Fold()
    for n, event in enumerate(events):
        once.apply(event)
        twice.apply(event)
        for old in events[: n + 1]:
            twice.apply(old)
    assert vars(once) == vars(twice)


def test_a_torn_line_and_a_damaged_spec_are_survived(workspace: Workspace) -> None:
    folder = items.add(workspace, _spec("20260101-0000-aaaa"))
    journal = Journal(folder, folder.name, 1)
    journal.phase("running", session="s")
    journal.close()
    with next(folder.glob("events-*")).open("ab") as file:
        file.write(b'{"v":1,"run":"t","attempt":1,"se')  # killed while writing
    journal = Journal(folder, folder.name, 2)
    journal.phase("running", session="s2")
    journal.close()
    seen = Reader(folder).view("s2")
    assert (seen.state, seen.attempt) == ("running", 2) and "torn" in seen.problems[0]
    assert Reader(folder).view("").state == "interrupted"
    (items.add(workspace, _spec("20260101-0000-bbbb")) / "spec.json").write_text("{")
    states = {t.id: t.state for t in read_all(workspace).transfers}
    assert states == {"20260101-0000-aaaa": "interrupted", "20260101-0000-bbbb": "failed"}


def test_wishes_decide_what_a_worker_takes(workspace: Workspace) -> None:
    spec = _spec("20260101-0000-aaaa")
    folder = items.add(workspace, spec)
    assert runnable(folder, Fold(), spec)
    for wish, state in (("pause", "paused"), ("cancel", "cancelled")):
        items.ask(folder, wish)
        assert not runnable(folder, Fold(), spec) and Reader(folder).view("").state == state
        items.forget(folder, wish)
    journal = Journal(folder, folder.name, 1)
    journal.end("failed", "why", "what next")
    journal.close()
    reader = Reader(folder)
    assert reader.view("").state == "failed" and not runnable(folder, reader.state, reader.spec)
    items.ask(folder, "again", "1")
    assert runnable(folder, reader.state, reader.spec) and reader.view("").state == "queued"


def test_long_transfers_rotate_their_events(workspace: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setattr("services.transfers.journal.ROTATE_BYTES", 2_000)
    folder = items.add(workspace, _spec("20260101-0000-aaaa"))
    journal = Journal(folder, folder.name, 1)
    for n in range(100):
        journal.figures(Reading(n, 100, 0, 1, n, 1.0, None, 0, "", ()))
    journal.close()
    assert len(list(Path(folder).glob("events-*.jsonl"))) > 5
    assert Reader(folder).view("").done_bytes == 99
