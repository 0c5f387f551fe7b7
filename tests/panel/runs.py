"""Runs for the panel's tests: real ones under the real supervisor, and written ones whose every figure is known."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from services.runs import local, spec
from services.runs.types import Event, RunSpec, TargetName, TrainConfig
from services.workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[2]
TRAINER = CHECKOUT / "tests" / "runs" / "trainer.py"
NOW = 1_795_000_000.0


def make_spec(
    workspace: Workspace,
    run: str,
    *options: str,
    created_at: float | None = None,
    config: TrainConfig | None = None,
    target: TargetName = "local",
) -> RunSpec:
    """A spec whose command is the small trainer with the given options."""
    command = (sys.executable, "-P", str(TRAINER), str(workspace.runs / run), *options)
    return RunSpec(
        1, run, "train", target, command, str(CHECKOUT), config or TrainConfig(), "/models/tiny",
        "smollm2-135m-instruct", "/data/banking", "0" * 64, 0, time.time() if created_at is None else created_at,
    )  # fmt: skip


def submit(workspace: Workspace, *options: str) -> Path:
    """Start the small trainer as a detached run; its folder."""
    return local.submit(workspace, make_spec(workspace, spec.make_run_id(), *options))


def write(
    workspace: Workspace,
    run: str,
    history: Iterable[tuple[str, dict[str, Any]]],
    *,
    attempt: int = 1,
    config: TrainConfig | None = None,
    target: TargetName = "local",
) -> Path:
    """A run's folder with this history, one event a second from NOW on; nothing of it lives."""
    run_dir = workspace.runs / run
    for name in ("control", "checkpoints", f"attempts/{attempt}"):
        (run_dir / name).mkdir(parents=True, exist_ok=True)
    (run_dir / "attempts" / str(attempt) / "lock").touch()
    if not (run_dir / "spec.json").exists():
        spec.write(run_dir, make_spec(workspace, run, created_at=NOW - 60, config=config, target=target))
    events = [Event(1, run, attempt, i, NOW + i, ev, data) for i, (ev, data) in enumerate(history, 1)]  # type: ignore[arg-type]
    lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    (run_dir / f"events-{attempt:06d}.jsonl").write_bytes(lines)
    (run_dir / "log.txt").write_text("loading smollm2-135m-instruct\n", encoding="utf-8")
    return run_dir


def history(
    steps: int = 400, *, end: str = "succeeded", reason: str = "", hint: str = "", level: float = 0.25
) -> list[tuple[str, Any]]:
    """A loss falling towards ``level``, validation every eighth of the way, heartbeats, a checkpoint, results."""
    told: list[tuple[str, Any]] = [("phase", {"phase": "running"})]
    for step in range(1, steps + 1):
        loss = level + 3.6 * math.exp(-6 * step / steps) + 0.1 * math.sin(step * 1.7) * math.exp(-3 * step / steps)
        figures = {"step": step, "total_steps": steps, "lr": 0.0015 * (1 - step / steps), "tokens_s": 480 + step % 7}
        told.append(("metric", figures | {"split": "train", "loss": loss, "eta_s": (steps - step) * 0.5}))
        if step % (steps // 8) == 0:
            told.append(("metric", {"step": step, "split": "val", "loss": loss + 0.12}))
            told.append(("hb", {"step": step, "rss_bytes": 1_900_000_000, "disk_free_bytes": 8_100_000_000}))
            told.append(("log", {"level": "info", "text": f"step {step}: validation loss {loss + 0.12:.3f}"}))
    told.append(("ckpt", {"path": f"checkpoints/step-{steps:06d}", "step": steps, "bytes": 3, "sha256": "0" * 64}))
    if end == "succeeded":
        told.append(("metric", {"step": steps, "split": "test", "accuracy": 0.858, "macro_f1": 0.853, "rows": 600}))
    told.append(("end", {"code": 0 if end == "succeeded" else 1, "phase": end, "reason": reason, "hint": hint}))
    return told
