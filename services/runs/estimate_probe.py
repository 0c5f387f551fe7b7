"""A short measurement on this box: the real trainer for some seconds, in a folder of its own that goes afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from services import atomic
from services.runs import spec
from services.runs.types import RunSpec
from services.workspace import Workspace

_STARTING_S = 300.0  # to load torch, model and data, and for the first step: 10 s where nothing else runs, minutes
# where several others want the same cores
_STEPS, _MEASURED_S = 6, 3.0  # of both so much at least: the first steps of a fast device are its slowest
_MOST_STEPS = 500
_KEPT_S = 86_400.0  # a day: what was measured before says little about the box as it is now
_FILE = "probes.json"  # in .hybrid/
_STOPPING_S = 20.0


_SPEED = (
    "method", "task", "r", "dtype", "device", "batch_rows", "batch_tokens", "micro_tokens", "max_length",
    "checkpointing", "processes",
)  # fmt: skip


class Probe(msgspec.Struct, frozen=True):
    """What was measured: ``tokens_s`` over ``steps`` steps (0 when it did not get that far), the peak of memory.

    ``starting_s`` passed before the first step had been done. ``problem`` is why there is no speed, else "".
    """

    tokens_s: float = 0.0
    steps: int = 0
    peak_bytes: int = 0
    starting_s: float = 0.0
    problem: str = ""


def measure(run: RunSpec, seconds: float, stop: threading.Event) -> Probe:
    """Train as ``run`` says for about ``seconds`` after the start; blocks. ``stop`` ends it early."""
    folder = Path(tempfile.mkdtemp(prefix="hybrid-probe-"))
    try:
        (folder / "control").mkdir()
        short = msgspec.structs.replace(
            run.config, max_steps=_MOST_STEPS, max_seconds=0.0, eval_rows=1, eval_steps=0, compile="off", processes=1,
            checkpoint_seconds=1e9,
        )  # fmt: skip
        spec.write(folder, msgspec.structs.replace(run, config=short, target="local"))
        return _run(folder, run.cwd, seconds, stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Kept(msgspec.Struct, frozen=True):
    at: float
    probe: Probe


def remember(workspace: Workspace, run: RunSpec, probe: Probe) -> None:
    """Keep what was measured, for runs with the same model, data and settings in the next day.

    Too few steps are not kept. Raises OSError.
    """
    if probe.steps < _STEPS:
        return
    known = {key: kept for key, kept in _kept(workspace).items() if time.time() - kept.at < _KEPT_S}
    workspace.ensure_state()
    known[_key(run)] = _Kept(time.time(), probe)
    atomic.write_bytes(workspace.state / _FILE, msgspec.json.encode(known) + b"\n")


def recalled(workspace: Workspace, run: RunSpec) -> Probe | None:
    """What was measured of such a run in the last day; None if nothing was."""
    kept = _kept(workspace).get(_key(run))
    return kept.probe if kept is not None and 0 <= time.time() - kept.at < _KEPT_S else None


def _kept(workspace: Workspace) -> dict[str, _Kept]:
    try:
        return msgspec.json.decode((workspace.state / _FILE).read_bytes(), type=dict[str, _Kept])
    except (OSError, msgspec.MsgspecError):
        return {}


def _key(run: RunSpec) -> str:
    """All that the speed depends on, as far as it is known before."""
    config = {name: getattr(run.config, name) for name in _SPEED}
    words = msgspec.json.encode([run.model, run.data_sha256, config], order="sorted")
    return hashlib.sha256(words).hexdigest()[:16]


def _run(folder: Path, cwd: str, seconds: float, stop: threading.Event) -> Probe:
    reader, writer = os.pipe()
    started = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "services.runtime.train", str(folder)], cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, pass_fds=(writer,), process_group=0,
            env={**os.environ, "HYBRID_RUN_DIR": str(folder), "HYBRID_EVENTS_FD": str(writer)},
        )  # fmt: skip
    os.close(writer)
    seen = _Seen(started, seconds)
    lines = threading.Thread(target=seen.read, args=(reader,), daemon=True)
    lines.start()
    while not (seen.enough.wait(0.1) or stop.is_set()) and time.monotonic() - started < _STARTING_S + seconds:
        continue
    os.kill(child.pid, signal.SIGTERM)  # not by Popen, which would reap one that has ended, and with it its figures
    _, peak = _reap(child)
    lines.join(timeout=2.0)
    problem = seen.problem or ("" if seen.steps else _too_slow(time.monotonic() - started))
    return Probe(seen.tokens_s, seen.steps, peak, seen.first_s, "" if seen.tokens_s else problem)


def _too_slow(seconds: float) -> str:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = f"; the box is busy: {load:.1f} programs want its {cores} cores" if load > cores else ""
    return f"no step was done in {seconds:.0f} s{busy}."


def _reap(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit status and peak memory of the child, which is killed when it does not stop in time."""
    until = time.monotonic() + _STOPPING_S
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if time.monotonic() > until:
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.05)


class _Seen:
    """What the trainer told."""

    def __init__(self, started: float, seconds: float) -> None:
        self.started, self.seconds = started, seconds
        self.enough = threading.Event()
        self.tokens_s, self.steps, self.first_s = 0.0, 0, 0.0
        self.problem = ""

    def read(self, fd: int) -> None:
        """Until there is enough, or the trainer is gone."""
        first: tuple[float, int] | None = None
        with os.fdopen(fd, encoding="utf-8") as pipe:
            for line in pipe:
                told = json.loads(line)
                if told.get("ev") == "error":
                    self.problem = str(told.get("message"))
                if told.get("ev") != "metric" or told.get("split") != "train":
                    continue
                now, tokens = time.monotonic(), int(told.get("tokens") or 0)
                self.steps = int(told.get("step") or 0)
                if first is None:
                    first, self.first_s = (now, tokens), now - self.started
                    self.tokens_s = float(told.get("tokens_s") or 0.0)
                elif tokens > first[1]:
                    self.tokens_s = (tokens - first[1]) / (now - first[0])
                measured = now - first[0]
                if measured > self.seconds or (self.steps >= _STEPS and measured >= _MEASURED_S):
                    break
        self.enough.set()
