"""A short measurement on this box: the real trainer for some seconds, in a folder of its own that goes afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from services.runs import spec
from services.runs.types import RunSpec

_STARTING_S = 90.0  # to load torch, model and data, and for the first step, on a slow or busy box
_STEPS = 6  # after which more would say no more
_STOPPING_S = 20.0


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
            run.config, max_steps=_STEPS, max_seconds=0.0, eval_rows=1, eval_steps=0, compile="off", processes=1,
            checkpoint_seconds=1e9,
        )  # fmt: skip
        spec.write(folder, msgspec.structs.replace(run, config=short, target="local"))
        return _run(folder, run.cwd, seconds, stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    if child.poll() is None:
        child.terminate()  # it writes a checkpoint into the folder that goes
    _, peak = _reap(child)
    lines.join(timeout=2.0)
    problem = seen.problem or ("" if seen.steps else f"no step was done in {time.monotonic() - started:.0f} s")
    return Probe(seen.tokens_s, seen.steps, peak, seen.first_s, "" if seen.tokens_s else problem)


def _reap(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit status and peak memory of the child, which is killed when it does not stop in time."""
    until = time.monotonic() + _STOPPING_S
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if time.monotonic() > until:
            child.kill()
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
                if self.steps >= _STEPS or now - first[0] > self.seconds:
                    break
        self.enough.set()
