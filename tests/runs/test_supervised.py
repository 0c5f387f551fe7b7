"""Runs as real detached processes: how they end, how they are stopped, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.errors import HybridError, Refused
from services.runs import events, local, spec, view
from services.runs.types import RunSpec
from services.workspace import Workspace

from .conftest import CHECKOUT, ended, supervisor_of, trainer_of, until

Submit = Callable[..., Path]


def at_step(run_dir: Path, step: int) -> None:
    until(lambda: view.read(run_dir).step >= step)


def test_a_run_succeeds_with_its_figures(submit: Submit) -> None:
    run_dir = submit("steps=12")
    seen = ended(run_dir)
    assert (seen.phase, seen.reason, seen.step, seen.total_steps) == ("succeeded", "", 12, 12)
    assert seen.results == {"accuracy": 0.75, "macro_f1": 0.7, "rows": 100.0}
    assert seen.metrics["tokens_s"] == 100.0
    assert seen.last_checkpoint == "checkpoints/step-000010"
    assert seen.rss_bytes is not None and seen.rss_bytes > 1_000_000
    assert seen.started_at is not None and seen.ended_at is not None and seen.started_at <= seen.ended_at
    assert not seen.problems
    assert local.fetch(run_dir) == run_dir / "output"
    history = list(events.Follower(run_dir).all())
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert {event.run for event in history} == {run_dir.name}
    losses = [event.data["loss"] for event in history if event.ev == "metric" and "loss" in event.data]
    assert losses[2] is None  # NaN
    assert history[-1].ev == "end"


def test_the_supervisor_is_detached(submit: Submit) -> None:
    run_dir = submit("steps=500")
    at_step(run_dir, 1)
    supervisor, trainer = supervisor_of(run_dir), trainer_of(run_dir)
    assert supervisor.ppid() != os.getpid()
    assert not {supervisor.pid, trainer.pid} & {child.pid for child in psutil.Process().children(recursive=True)}
    assert os.getsid(supervisor.pid) == supervisor.pid != os.getsid(0)
    assert os.getpgid(trainer.pid) == trainer.pid
    supervisor.send_signal(signal.SIGHUP)
    supervisor.send_signal(signal.SIGINT)
    reached = view.read(run_dir).step
    at_step(run_dir, reached + 2)
    assert view.read(run_dir).link == "live"
    local.cancel(run_dir)
    assert ended(run_dir).phase == "cancelled"


def test_a_run_outlives_the_process_that_started_it(workspace: Workspace, make_spec: Callable[..., RunSpec]) -> None:
    run = make_spec("steps=60", "pause=0.02")
    spec_file = workspace.root / "given.json"
    spec.write(workspace.root, run)
    (workspace.root / "spec.json").rename(spec_file)
    code = (
        "import sys, os, msgspec\nfrom pathlib import Path\nfrom services import workspace\n"
        "from services.runs import local\nfrom services.runs.types import RunSpec\n"
        "run = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=RunSpec)\n"
        "local.submit(workspace.open_workspace(Path(sys.argv[1])), run)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root), str(spec_file)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    run_dir = workspace.runs / run.id
    assert view.read(run_dir).link == "live"
    assert ended(run_dir).phase == "succeeded"


def test_cancel_checkpoints_and_resume_goes_on_from_there(submit: Submit) -> None:
    run_dir = submit("steps=120", "checkpoint=1000")
    at_step(run_dir, 5)
    local.cancel(run_dir)
    seen = ended(run_dir)
    assert seen.phase == "cancelled" and seen.last_checkpoint == f"checkpoints/step-{seen.step:06d}"
    assert f"step {seen.step}" in seen.reason
    with pytest.raises(Refused, match="nothing to cancel"):
        local.cancel(run_dir)
    assert local.resume(run_dir) == 2
    at_step(run_dir, seen.step + 3)
    again = view.read(run_dir)
    assert (again.phase, again.attempt, again.reason) == ("running", 2, "")
    with pytest.raises(Refused, match="only a run that ended"):
        local.resume(run_dir)
    final = ended(run_dir)
    assert final.phase == "succeeded"
    assert json.loads((run_dir / "output" / "metadata.json").read_text())["first"] == seen.step + 1
    with pytest.raises(Refused, match="has succeeded"):
        local.resume(run_dir)


def test_a_checkpoint_can_be_asked_for(submit: Submit) -> None:
    run_dir = submit("steps=1000", "checkpoint=100000")
    at_step(run_dir, 2)
    local.request_checkpoint(run_dir)
    until(lambda: view.read(run_dir).last_checkpoint)
    assert not (run_dir / "control" / "checkpoint").exists()
    assert view.read(run_dir).phase == "running"
    local.cancel(run_dir)
    ended(run_dir)


def test_kill_9_of_the_trainer_fails_with_its_cause_and_resumes(submit: Submit) -> None:
    run_dir = submit("steps=200", "pause=0.02")
    at_step(run_dir, 7)
    trainer_of(run_dir).kill()
    seen = ended(run_dir)
    saved = max(int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-*"))
    assert seen.phase == "failed"
    assert "killed (SIGKILL)" in seen.reason and f"checkpoint step {saved}" in seen.reason
    local.resume(run_dir)
    until(lambda: view.read(run_dir).attempt == 2 and view.read(run_dir).phase == "running")
    local.cancel(run_dir)
    seen = ended(run_dir)
    assert seen.phase == "cancelled", seen.reason
    first = next(e for e in events.Follower(run_dir).all() if e.attempt == 2 and e.ev == "metric")
    assert first.data["step"] == saved + 1


def test_a_trainer_that_has_stopped_before_it_is_told_counts_as_cancelled(submit: Submit) -> None:
    run_dir = submit("steps=1000", "checkpoint=100000")
    at_step(run_dir, 2)
    supervisor, trainer = supervisor_of(run_dir), trainer_of(run_dir)
    supervisor.suspend()
    local.cancel(run_dir)
    until(lambda: trainer.status() == psutil.STATUS_ZOMBIE)
    supervisor.resume()
    seen = ended(run_dir)
    assert seen.phase == "cancelled", seen.reason


def test_kill_9_of_the_supervisor_takes_the_trainer_along_and_the_run_is_lost(submit: Submit) -> None:
    run_dir = submit("steps=60", "pause=0.02")
    at_step(run_dir, 6)
    trainer = trainer_of(run_dir)
    supervisor_of(run_dir).kill()
    until(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)
    seen = ended(run_dir)
    assert (seen.phase, seen.link) == ("lost", "none")
    assert seen.last_checkpoint is not None and seen.last_checkpoint.startswith("checkpoints/step-")
    assert Path(seen.last_checkpoint).name in seen.hint and "without a word" in seen.reason
    assert local.resume(run_dir) == 2
    final = ended(run_dir)
    assert (final.phase, final.attempt, final.problems) == ("succeeded", 2, ())


@pytest.mark.parametrize(
    ("kind", "reason", "hint"),
    [
        ("error", "The loss is not a number at step 7.", "Lower lr."),
        ("exit", "The trainer ended with code 4: Traceback: something went wrong here", "log.txt"),
        ("kill", "The trainer was killed (SIGKILL); resume continues from checkpoint step 5.", ""),
    ],
)
def test_a_failure_says_why(submit: Submit, kind: str, reason: str, hint: str) -> None:
    seen = ended(submit(f"crash={kind}@7"))
    assert (seen.phase, seen.reason) == ("failed", reason)
    assert hint in seen.hint


def test_a_command_that_does_not_exist_fails_the_run(submit: Submit) -> None:
    seen = ended(submit(command=("/nowhere/python", "x")))
    assert seen.phase == "failed" and "/nowhere/python" in seen.reason


def test_lines_that_make_no_sense_are_reported_and_skipped(submit: Submit) -> None:
    run_dir = submit("crash=garbage@7")
    assert ended(run_dir).phase == "succeeded"
    history = list(events.Follower(run_dir).all())
    warnings = [event.data["text"] for event in history if event.ev == "log"]
    assert sum("unreadable" in text for text in warnings) == 3 and sum("'surprise'" in text for text in warnings) == 1
    assert ("running", "evaluating") in [(e.data.get("phase"), e.data.get("note")) for e in history if e.ev == "phase"]


def test_what_a_trainer_leaves_behind_is_ended_with_it(submit: Submit) -> None:
    assert ended(submit("crash=child@3")).phase == "succeeded"  # the fixture sees that nothing is left


def test_a_flood_of_output_is_capped(submit: Submit) -> None:
    run_dir = submit("crash=flood@3", "steps=5")
    assert ended(run_dir).phase == "succeeded"
    sizes = [path.stat().st_size for path in sorted(run_dir.glob("log*.txt"))]
    assert len(sizes) == 2 and all(size <= 4 * 1024 * 1024 for size in sizes)


def test_a_trainer_that_does_not_stop_is_killed_after_the_grace(
    workspace: Workspace, make_spec: Callable[..., RunSpec]
) -> None:
    run = make_spec("crash=hang@3")
    run_dir = prepared(workspace, run)
    with supervisor(run_dir, "--grace", "0.5") as process:
        at_step(run_dir, 3)
        (run_dir / "control" / "cancel").touch()
        assert process.wait(20) == 0
    seen = ended(run_dir)
    assert seen.phase == "cancelled" and "was killed" in seen.reason


def test_sigterm_to_the_supervisor_stops_the_run_in_order(submit: Submit) -> None:
    run_dir = submit("steps=500")
    at_step(run_dir, 3)
    supervisor_of(run_dir).terminate()
    seen = ended(run_dir)
    assert seen.phase == "cancelled" and "SIGTERM" in seen.reason and seen.last_checkpoint


def test_one_attempt_has_one_supervisor(submit: Submit, workspace: Workspace) -> None:
    run_dir = submit("steps=1000")
    at_step(run_dir, 1)
    with supervisor(run_dir) as second:
        assert second.wait(20) == 3
        assert second.stderr is not None and b"another supervisor" in second.stderr.read()
    local.cancel(run_dir)
    assert ended(run_dir).phase == "cancelled"
    with supervisor(run_dir) as late:
        assert late.wait(20) == 3
        assert late.stderr is not None and b"was run before" in late.stderr.read()


def test_of_two_who_resume_at_once_one_is_refused(submit: Submit) -> None:
    run_dir = submit("crash=kill@7", "steps=60")
    ended(run_dir)
    seen = view.newest_attempt(run_dir)
    lock = local._make_attempt(run_dir, seen + 1)  # the other one, between making its attempt and starting it
    try:
        with pytest.raises(Refused):
            local.resume(run_dir)
        with pytest.raises(Refused, match="somebody else"):
            local._make_attempt(run_dir, seen + 1)
        assert view.read(run_dir).phase == "queued" and view.read(run_dir).link == "live"
    finally:
        os.close(lock)
    assert view.read(run_dir).phase == "lost"


def test_heartbeats_carry_memory_disk_and_step(workspace: Workspace, make_spec: Callable[..., RunSpec]) -> None:
    run_dir = prepared(workspace, make_spec("steps=60", "pause=0.02"))
    with supervisor(run_dir, "--heartbeat", "0.2") as process:
        assert process.wait(20) == 0
    beats = [event.data for event in events.Follower(run_dir).all() if event.ev == "hb"]
    assert len(beats) >= 3
    assert all(beat["disk_free_bytes"] > 0 for beat in beats)
    assert max(beat["rss_bytes"] or 0 for beat in beats) > 5_000_000
    assert beats[-1]["step"] > 1


def test_events_are_rotated_at_256_kb(submit: Submit) -> None:
    run_dir = submit("steps=4000", "pause=0", "checkpoint=100000")
    assert ended(run_dir).phase == "succeeded"
    files = sorted(run_dir.glob("events-*.jsonl"))
    assert len(files) >= 3
    assert all(256 * 1024 <= path.stat().st_size < 257 * 1024 for path in files[:-1])
    steps = [event.data["step"] for event in events.Follower(run_dir).all() if event.ev == "metric"]
    assert steps == [*range(1, 4001), 4000]


def test_nothing_remains_of_a_run_that_could_not_start(workspace: Workspace, make_spec: Callable[..., RunSpec]) -> None:
    run = make_spec()
    workspace.runs.mkdir()
    (workspace.runs / run.id).mkdir()
    (workspace.runs / run.id / "mine").write_text("of another")
    with pytest.raises(HybridError, match="can't be written"):
        local.submit(workspace, run)
    assert (workspace.runs / run.id / "mine").read_text() == "of another"
    assert [path.name for path in workspace.runs.iterdir()] == [run.id]


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 100 MB."""
    root = next(
        (path for path in map(Path, ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")) if path.is_dir()), Path("/none")
    )
    group = root / f"hybrid-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if root.name == "memory" else "memory.max")
        limit.write_text("100000000")
    except OSError:
        pytest.skip("making a memory control group needs root")
    try:
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_trainer_killed_for_lack_of_memory_says_so(submit: Submit, memory_group: Path) -> None:
    run_dir = submit("steps=1000", "crash=hoard@150")
    at_step(run_dir, 1)
    for process in (supervisor_of(run_dir), trainer_of(run_dir)):
        (memory_group / "cgroup.procs").write_text(str(process.pid))
    seen = ended(run_dir)
    assert seen.phase == "failed"
    assert "killed (SIGKILL), most likely for lack of memory" in seen.reason and "batch_tokens" in seen.hint


def prepared(workspace: Workspace, run: RunSpec) -> Path:
    """A run's folder with one attempt made and nothing started."""
    run_dir = workspace.runs / run.id
    for name in ("control", "checkpoints", "attempts/1"):
        (run_dir / name).mkdir(parents=True)
    spec.write(run_dir, run)
    return run_dir


def supervisor(run_dir: Path, *options: str) -> subprocess.Popen[bytes]:
    """A supervisor in the foreground, by its file alone, as another target would run it."""
    return subprocess.Popen(
        [sys.executable, "-S", str(local.SUPERVISOR), str(run_dir), *options],
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
