"""A disk that fills up in the middle: the run ends failed with its cause, and what was saved stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from services import workspace as workspaces
from services.context import Context
from services.errors import HybridError
from services.runs import events, local, train, view
from services.runs.types import RunSpec, TrainConfig
from services.workspace import Workspace

from .conftest import CHECKOUT, ended, until
from .test_supervised import prepared


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace on a file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield workspaces.init(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take every byte that is left."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def spec_on(workspace: Workspace, make_spec: Callable[..., RunSpec], *options: str) -> RunSpec:
    """The small trainer, in a run of ``workspace``."""
    import msgspec

    run = make_spec(*options)
    command = tuple(word if not word.endswith(run.id) else str(workspace.runs / run.id) for word in run.command)
    return msgspec.structs.replace(run, command=command)


def test_a_full_disk_fails_the_run_with_its_cause_and_keeps_the_checkpoints(
    small_disk: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    run_dir = local.submit(small_disk, spec_on(small_disk, make_spec, "steps=100000", "pause=0.002"))
    until(lambda: view.read(run_dir).step >= 12)
    fill(small_disk.root)
    seen = ended(run_dir)  # the trainer can't write its next checkpoint and dies of it
    assert seen.phase == "failed"
    assert "disk is full" in seen.reason and "checkpoint step" in seen.reason
    saved = sorted((run_dir / "checkpoints").glob("step-*"))
    assert all("step" in json.loads((path / "state.json").read_text()) for path in saved[:2])
    fill(small_disk.root)  # what the supervisor had in reserve is free now
    with pytest.raises(HybridError, match="disk is full"):
        local.resume(run_dir)
    assert view.read(run_dir).phase == "failed"
    (small_disk.root / "ballast").unlink()
    assert local.resume(run_dir) == 2
    until(lambda: view.read(run_dir).attempt == 2 and view.read(run_dir).phase == "running")
    local.cancel(run_dir)
    assert ended(run_dir).phase == "cancelled"


def test_a_disk_that_is_freed_again_takes_all_events(
    small_disk: Workspace, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    run = spec_on(small_disk, make_spec, "steps=90", "pause=0.02", "checkpoint=100000")
    run_dir = local.submit(small_disk, run)
    until(lambda: view.read(run_dir).step >= 3)
    fill(small_disk.root)
    reached = view.read(run_dir).step
    time.sleep(0.5)  # let events pile up; nothing that could be polled for changes meanwhile
    assert view.read(run_dir).step < reached + 60
    (small_disk.root / "ballast").unlink()
    seen = ended(run_dir)
    assert (seen.phase, seen.problems) == ("succeeded", ())
    steps = [one.data["step"] for one in events.Follower(run_dir).all() if one.ev == "metric"]
    assert steps == [*range(1, 91), 90]


def test_events_that_can_never_be_written_still_end_the_run(
    workspace: Workspace, make_spec: Callable[..., RunSpec]
) -> None:
    run_dir = prepared(workspace, make_spec("steps=3000", "pause=0", "checkpoint=100"))
    limit = 100 * 1024  # bytes a file: the events file hits it, as it would a quota
    code = (
        f"import resource, runpy, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(local.SUPERVISOR), str(run_dir)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True, timeout=40,
    )  # fmt: skip
    assert (run_dir / "events-000001.jsonl").stat().st_size == limit
    seen = view.read(run_dir)
    assert seen.phase == "succeeded" and (run_dir / "output" / "metadata.json").exists()
    assert seen.last_checkpoint is not None


def test_too_little_space_is_said_before_anything_is_made(ctx: Context) -> None:
    with pytest.raises(HybridError, match=r"free at .*; a run needs"):
        train.check_space(ctx.workspace.root, needed=10**18)


def test_full_training_needs_room_for_all_weights_again_and_again(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [1000, 50]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 9)
    least = train.needed_bytes(TrainConfig(), str(tmp_path))
    full = TrainConfig(method="full", keep_checkpoints=3)
    assert train.needed_bytes(full, str(tmp_path)) - least == 50_000 * (4 * 12 + 4)
    validated = msgspec.structs.replace(full, eval_steps=10)
    assert train.needed_bytes(validated, str(tmp_path)) - least == 50_000 * (5 * 12 + 4)
    assert train.needed_bytes(full, "nobody/nothing") == least


def test_a_full_disk_at_the_start_leaves_nothing(small_disk: Workspace, make_spec: Callable[..., RunSpec]) -> None:
    fill(small_disk.root)
    with pytest.raises(HybridError, match="disk is full"):
        local.submit(small_disk, spec_on(small_disk, make_spec))
    assert list(small_disk.runs.glob("*")) == []
