"""The watch: says only what changes, ends in order, cleans only by a policy that was agreed to.

Cleaning itself is stood in for at the one place where it is imported; it has its own tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.context import Context, NeedsYes, Plan, Progress
from services.errors import BadInput, HybridError, Refused
from services.settings import Disk, Settings
from services.storage import actions as storage
from services.storage.reclaim import Cleaned
from services.storage.upkeep import policy, watch
from services.storage.upkeep.types import Watched
from services.storage.upkeep.watch import WatchParams
from services.workspace import Workspace

CHECKOUT = Path(__file__).parents[3]
CACHE = ".cache/pip"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a pip cache of 3 MB."""
    for variable in [v for v in os.environ if v.upper().startswith(("XDG_", "PIP_", "UV_", "HF_", "NPM_", "TORCH"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # else in the box's /tmp
    (tmp_path / CACHE).mkdir(parents=True)
    (tmp_path / CACHE / "wheel").write_bytes(b"x" * 3_000_000)
    return tmp_path


class Told:
    """A context's listener."""

    def __init__(self, workspace: Workspace, **disk: float) -> None:
        self.notes: list[str] = []
        self.first = asyncio.Event()
        settings = Settings(disk=Disk(**{"budget_gb": 1e6, "min_free_gb": 0.0, "caches_gb": 1.0} | disk))
        self.ctx = Context(Workspace(workspace.root, settings), self.report)

    def report(self, progress: Progress) -> None:
        self.notes.append(progress.note)
        self.first.set()


async def run(ctx: Context, **params: Any) -> Watched:
    done = await watch.watch(ctx, WatchParams(**params))
    assert isinstance(done, Watched)
    return done


async def test_it_says_how_things_stand_once_and_then_only_changes(workspace: Workspace, home: Path) -> None:
    told = Told(workspace)
    done = await run(told.ctx, every="0.1s", caches_every="0.1s", looks=4)
    assert done.looks == 4 and len(done.changes) == len(told.notes) == 1
    assert "free · used" in done.changes[0] and "caches 3.0 MB of 1.0 GB" in done.changes[0]
    assert "▲" not in done.changes[0]


async def test_a_budget_that_breaks_and_holds_again_is_said(workspace: Workspace, home: Path) -> None:
    told = Told(workspace, caches_gb=0.002)
    looking = asyncio.create_task(run(told.ctx, every="0.1s", caches_every="0.1s", looks=12))
    await told.first.wait()
    (home / CACHE / "wheel").unlink()
    done = await looking
    assert len(done.changes) == 2
    assert "▲ caches 3.0 MB of 2.0 MB" in done.changes[0] and "▲" not in done.changes[1]


async def test_a_failing_look_is_said_once_and_the_watch_goes_on(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(workspace)
    moved = workspace.root.with_name("moved")

    def back_and_forth(note: Progress) -> None:
        told.report(note)
        if len(told.notes) == 1:
            workspace.root.rename(moved)
        if "no disk to be seen" in note.note:
            moved.rename(workspace.root)

    done = await run(replace(told.ctx, report=back_and_forth), every="0.1s", looks=4)
    assert done.looks == 4 and len(done.changes) == 2
    assert done.changes[1].startswith("▲ There is no disk to be seen")


@pytest.mark.parametrize(
    ("text", "under", "days", "now"),
    [
        ("default", 3.0, None, False),
        ("caches under 2.5 GB", 2.5, None, False),
        ("Caches under 500 MB, least recently used first, to trash", 0.5, None, False),
        ("caches under 2GB, unused for 30 days, free now", 2.0, 30.0, True),
    ],
)
def test_policies_that_are_understood(text: str, under: float, days: float | None, now: bool) -> None:
    found = policy.parse(text, 3.0)
    assert found and (found.under_gb, found.older_than_days, found.now) == (under, days, now)
    assert policy.parse(found.words.replace("freed at once", "free now"), 3.0) == found


@pytest.mark.parametrize(
    "text", ["everything", "to trash", "caches under GB", "caches under -1 GB", "caches under 3 GB; now"]
)
def test_policies_that_are_not(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        policy.parse(text, 3.0)
    assert policy.EXAMPLE in caught.value.hint


@pytest.mark.parametrize("text", ["", "x", "0s", "-1s", "10 weeks", "1e3", "9999d"])
async def test_intervals_that_are_none(ctx: Context, text: str) -> None:
    with pytest.raises(BadInput, match="no interval"):
        await watch.watch(ctx, WatchParams(every=text))


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("10 min", 600), ("1.5h", 5400), ("7", 7)])
def test_intervals(text: str, seconds: float) -> None:
    assert watch.span("every", text) == seconds


async def test_a_policy_needs_a_yes_and_leave_to_write(ctx: Context) -> None:
    params = WatchParams(policy="default", looks=1)
    with pytest.raises(NeedsYes) as caught:
        await watch.watch(ctx, params)
    assert "least recently used first, to trash" in caught.value.plan.summary
    with pytest.raises(Refused):
        await watch.watch(replace(ctx, read_only=True, yes=True), params)
    assert isinstance(await watch.watch(replace(ctx, dry_run=True), params), Plan)


class CleanParams(msgspec.Struct, frozen=True):
    """What the clean-up is asked for."""

    kinds: tuple[str, ...] = ()
    under_gb: float | None = None
    older_than_days: float | None = None
    now: bool = False


async def test_it_cleans_by_its_policy_when_the_caches_are_over_and_only_then(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, CleanParams]] = []

    async def clean(ctx: Context, params: CleanParams) -> Cleaned:
        asked.append((ctx.yes, params))
        (home / CACHE / "wheel").unlink()
        return Cleaned("p", "b", "pip", 1, 3_000_000, 0, 0.1)

    monkeypatch.setattr(watch, "_cleaner", lambda: (clean, CleanParams))
    told = Told(workspace)
    ctx = replace(told.ctx, yes=True)
    text = "caches under 2 MB, unused for 9 days, free now"
    done = await run(ctx, policy=text, every="0.1s", caches_every="0.1s", looks=4)
    assert asked == [(True, CleanParams(("pip",), 0.002, 9.0, True))]
    assert (done.clean_ups, done.cleaned_bytes) == (1, 3_000_000)
    assert done.changes[0] == "Cleaned by the policy: 3.0 MB in 1 files freed." and "caches 0 B" not in done.changes[0]
    assert len(done.changes) == 2


async def test_without_a_policy_nothing_is_cleaned(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Any:
        raise AssertionError("cleaning was loaded")

    monkeypatch.setattr(watch, "_cleaner", none)
    told = Told(workspace, caches_gb=0.001)
    await run(replace(told.ctx, yes=True), every="0.1s", caches_every="0.1s", looks=2)
    assert (home / CACHE / "wheel").exists()


async def test_a_clean_up_that_is_refused_is_said_once(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def clean(ctx: Context, params: CleanParams) -> Cleaned:
        raise HybridError("The trash is full.")

    monkeypatch.setattr(watch, "_cleaner", lambda: (clean, CleanParams))
    told = Told(workspace)
    ctx = replace(told.ctx, yes=True)
    done = await run(ctx, policy="caches under 1 MB", every="0.1s", caches_every="0.1s", looks=3)
    assert [line for line in done.changes if "trash is full" in line] == ["▲ The trash is full."]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_in_order(workspace: Workspace, home: Path, number: signal.Signals, code: int) -> None:
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [
        sys.executable,
        "-m",
        "hybrid_tui",
        "--workspace",
        str(workspace.root),
        "--run",
        "storage.watch",
        "every=10m",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert " free · " in first
    time.sleep(0.2)  # it waits for its next look now
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code and time.monotonic() - start < 3
    assert ("looks" in out) == (code == 0) and "Traceback" not in err
    assert err.strip() == ("" if code == 0 else "Interrupted.")


def test_json_progress_is_kept_for_those_who_ask(workspace: Workspace, home: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "hybrid_tui", "--workspace", str(workspace.root), "--json", "--progress", "json"]
    done = subprocess.run([*command, "--run", "storage.watch", "looks=1"], capture_output=True, text=True, env=env)
    assert done.returncode == 0
    assert msgspec.json.decode(done.stderr)["stage"] == "watch"
    assert msgspec.json.decode(done.stdout)["looks"] == 1


def test_what_it_measures_is_recorded(workspace: Workspace, home: Path) -> None:
    asyncio.run(run(Told(workspace).ctx, looks=1))
    assert (workspace.state / "storage" / "samples.jsonl").exists()
    assert storage.samples.read_latest(workspace)["caches_bytes"] > 3_000_000
