"""The fold, as a pure function, and finding, listing and describing runs whatever lies in their folders."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import BadInput, HybridError
from services.runs import spec, view
from services.runs.types import FINISHED, Event, RunSpec, TrainConfig
from services.workspace import Workspace

from .test_events import event, line

RUN = RunSpec(1, "r", "train", "local", ("x",), "/", TrainConfig(), "/m", "tiny", "/data/intents", "0", 0, 5.0)
NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-5, 10**6), st.text(max_size=3), st.booleans())
BODIES = st.one_of(
    st.tuples(
        st.just("phase"), st.fixed_dictionaries({"phase": st.sampled_from(["running", "stopping", "failed", "?", ""])})
    ),
    st.tuples(
        st.just("metric"),
        st.fixed_dictionaries(
            {
                "step": NUMBERS,
                "loss": NUMBERS,
                "total_steps": NUMBERS,
                "split": st.sampled_from(["train", "val", "test"]),
            },
            optional={"eta_s": NUMBERS},
        ),
    ),
    st.tuples(st.just("hb"), st.fixed_dictionaries({"rss_bytes": NUMBERS})),
    st.tuples(st.just("ckpt"), st.fixed_dictionaries({"path": st.text(max_size=4), "step": NUMBERS})),
    st.tuples(st.just("log"), st.fixed_dictionaries({"text": st.text(max_size=4)})),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    found: list[Event] = []
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        bodies = draw(st.lists(BODIES, max_size=8))
        found += [event(seq, attempt, ev, **data) for seq, (ev, data) in enumerate(bodies, 1)]
        if draw(st.booleans()):
            phase = draw(st.sampled_from(["succeeded", "failed", "cancelled"]))
            found.append(event(len(bodies) + 1, attempt, "end", phase=phase, reason="why", code=0))
    return found


def state(history: list[Event]) -> dict[str, object]:
    return vars(view.fold(history))


@settings(deadline=None, max_examples=150)
@given(history=histories(), data=st.data())
def test_the_fold_of_any_prefix_is_consistent(history: list[Event], data: st.DataObject) -> None:
    prefix = history[: data.draw(st.integers(0, len(history)))]
    folded = view.fold(prefix)
    attempt = max((one.attempt for one in prefix), default=1)
    for alive in (True, False):
        seen = view.view(RUN, Path("/r"), folded, attempt=attempt, alive=alive)
        ended = any(one.ev == "end" for one in prefix if one.attempt == attempt)
        assert (seen.phase in FINISHED) == (ended or not alive)
        assert (seen.phase == "lost") == (not ended and not alive)
        assert (seen.ended_at is not None) == ended
        assert seen.link == ("live" if alive and not ended else "none")
        assert isinstance(seen.step, int) and (seen.total_steps is None or isinstance(seen.total_steps, int))
        assert all(value is None or math.isfinite(value) for value in [*seen.metrics.values(), *seen.results.values()])


@settings(deadline=None, max_examples=150)
@given(history=histories(), data=st.data())
def test_repetitions_and_order_change_nothing(history: list[Event], data: st.DataObject) -> None:
    again = history + data.draw(st.lists(st.sampled_from(history), max_size=10)) if history else []
    assert state(data.draw(st.permutations(again))) == state(history)
    streamed = view.Fold()
    for one in history:  # one after the other, each with an older one again behind it
        streamed.apply(one)
        streamed.apply(data.draw(st.sampled_from(history[: history.index(one) + 1])))
    assert vars(streamed) == state(history)


def test_a_new_attempt_starts_over_but_keeps_how_far_it_was() -> None:
    folded = view.fold(
        [
            event(1, 1, "metric", step=10, total_steps=20, loss=1.0, eta_s=5),
            event(2, 1, "ckpt", path="checkpoints/step-000010", step=10),
            event(3, 1, "metric", split="test", accuracy=0.5),
            event(4, 1, "end", phase="failed", reason="disk full", hint="free some", code=1),
        ]
    )
    first = view.view(RUN, Path("/r"), folded, attempt=1, alive=False)
    assert (first.phase, first.reason, first.hint, first.ended_at) == ("failed", "disk full", "free some", 4.0)
    waiting = view.view(RUN, Path("/r"), folded, attempt=2, alive=True)
    assert (waiting.phase, waiting.reason, waiting.ended_at, waiting.step) == ("queued", "", None, 10)
    folded.apply(event(1, 2, "phase", phase="running"))
    second = view.view(RUN, Path("/r"), folded, attempt=2, alive=True)
    assert (second.phase, second.attempt, second.results, second.step) == ("running", 2, {}, 10)
    assert second.last_checkpoint == "checkpoints/step-000010"


def test_validation_figures_stand_beside_training_figures() -> None:
    folded = view.fold([event(1, loss=2.0, step=1), event(2, loss=3.0, step=1, split="val")])
    assert folded.metrics == {"loss": 2.0, "val_loss": 3.0}


def made(workspace: Workspace, run_id: str, **changes: object) -> Path:
    run_dir = workspace.runs / run_id
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "lock").touch()
    fields = {name: getattr(RUN, name) for name in RUN.__struct_fields__}
    spec.write(run_dir, RunSpec(**{**fields, "id": run_id, **changes}))
    return run_dir


def test_run_ids_sort_by_time_and_differ() -> None:
    ids = [spec.make_run_id(60.0 * minute) for minute in range(50)]
    assert ids == sorted(ids) and spec.make_run_id(0.0).startswith("19700101-0000-")
    assert len({spec.make_run_id(0.0) for _ in range(200)}) > 195


def test_runs_are_found_by_name_ending_or_as_the_newest(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="no run in this workspace"):
        spec.find_run(workspace, "")
    old, new = made(workspace, "20260101-0000-aaaa"), made(workspace, "20260102-0000-bbbb")
    made(workspace, "20260101-0000-bbbb")
    assert spec.find_run(workspace, "") == spec.find_run(workspace, "latest") == new
    assert spec.find_run(workspace, "aaaa") == spec.find_run(workspace, old.name) == old
    with pytest.raises(BadInput, match="Several"):
        spec.find_run(workspace, "bbbb")
    with pytest.raises(BadInput, match="did you mean '20260101-0000-aaaa'"):
        spec.find_run(workspace, "20260101-0000-aaab")


def test_a_damaged_spec_is_named_listed_and_left_alone(workspace: Workspace) -> None:
    good, bad, empty = (made(workspace, f"20260101-000{n}-aaaa", created_at=float(n)) for n in range(3))
    (bad / "spec.json").write_text('{"v": 1, "id": ')
    (empty / "spec.json").unlink()
    views = {seen.id: seen for seen in view.read_all(workspace)}
    assert len(views) == 3
    assert views[good.name].phase == "lost" and views[good.name].model == "tiny"
    assert str(bad / "spec.json") in views[bad.name].reason and views[bad.name].problems
    assert "missing" in views[empty.name].reason
    with pytest.raises(HybridError, match="can't be read"):
        view.read(bad)
    assert (bad / "spec.json").read_text() == '{"v": 1, "id": '


def test_damaged_events_are_problems_of_the_view(workspace: Workspace) -> None:
    run_dir = made(workspace, "20260101-0000-aaaa")
    (run_dir / "events-000001.jsonl").write_bytes(line(1, step=4) + b"garbage\n" * 30)
    seen = view.read(run_dir)
    assert seen.step == 4 and len(seen.problems) == 21
    assert seen.problems[0].startswith("events-000001.jsonl:2") and seen.problems[-1] == "and 10 more"


def test_an_end_kept_outside_the_events_by_a_full_disk_counts(workspace: Workspace) -> None:
    run_dir = made(workspace, "20260101-0000-aaaa")
    (run_dir / "events-000001.jsonl").write_bytes(line(1, step=4))
    (run_dir / "attempts" / "1" / "end.json").write_bytes(b" " * 4096)
    assert view.read(run_dir).phase == "lost"
    import msgspec

    end = msgspec.json.encode(event(5, 1, "end", phase="failed", reason="disk full"))
    (run_dir / "attempts" / "1" / "end.json").write_bytes(end.rjust(4096))
    seen = view.read(run_dir)
    assert (seen.phase, seen.reason, seen.step) == ("failed", "disk full", 4)


def test_reading_many_megabytes_again_is_cheap(workspace: Workspace) -> None:
    run_dir = made(workspace, "20260101-0000-aaaa")
    for number in range(1, 33):
        lines = (line(seq, step=seq, loss=1.0) for seq in range(2000 * (number - 1) + 1, 2000 * number + 1))
        (run_dir / f"events-{number:06d}.jsonl").write_bytes(b"".join(lines))
    start = time.perf_counter()
    assert view.read(run_dir).step == 64_000
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(10):
        view.read(run_dir)
    assert (time.perf_counter() - start) / 10 < max(first / 5, 0.005)


def test_the_commit_is_recorded(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    assert spec.git_state(tmp_path / "absent") == (None, None)
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "x")
    commit, dirty = spec.git_state(tmp_path)
    assert commit is not None and len(commit) == 40 and dirty is False
    (tmp_path / "a").write_text("2")
    assert spec.git_state(tmp_path) == (commit, True)


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert spec.git_state(tmp_path) == (None, None)


def test_the_spec_survives_a_round_trip(workspace: Workspace, make_spec: Callable[..., RunSpec]) -> None:
    run = make_spec("a", "b")
    spec.write(workspace.root, run)
    assert spec.read(workspace.root) == run
