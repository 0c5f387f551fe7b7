"""The trainer's side of a run: what it reports to its supervisor, and what it is asked to do. Standard library only.

The contract between a supervisor and the program it runs (the trainer):

- It is started in ``spec.cwd`` with HYBRID_RUN_DIR (the run's folder), HYBRID_ATTEMPT (1, 2, …) and HYBRID_EVENTS_FD,
  the write end of a pipe. On it the trainer writes one flat JSON object a line, ``{"ev": "metric", "step": 7, …}``;
  the supervisor stamps it (v, run, attempt, seq, t) and appends it to the run's events. stdout and stderr are log.txt.
- ``control/cancel`` and SIGTERM mean: write a checkpoint, then exit with ``EXIT_CANCELLED``. After a grace period
  the whole process group is killed. ``control/checkpoint`` means: write a checkpoint now and go on.
- Checkpoints are folders ``checkpoints/step-NNNNNN`` that appear whole (written beside, then renamed). The next attempt
  continues from the last one; the finished adapter goes to ``output/``.
- Exit code 0 is success, ``EXIT_CANCELLED`` a stop on request, anything else a failure. Call ``error`` before failing:
  its message becomes the run's reason.
- When the supervisor dies the trainer is killed with it; where the system can't do that, the next report raises
  ``SupervisorGone``.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

EXIT_CANCELLED = 130
_POLL_S = 0.2  # how often the control folder is looked at, however often a step asks


class SupervisorGone(SystemExit):
    """The supervisor no longer reads: the trainer must stop. A SystemExit, so that no ``except Exception`` keeps it."""

    def __init__(self) -> None:
        super().__init__("the run's supervisor is gone; the trainer stops")


class Emitter:
    """Reports to the supervisor; prints readable lines to stdout where there is none (HYBRID_EVENTS_FD unset).

    Safe to call from several threads. Installs a SIGTERM handler that makes ``cancelled`` true, when it is made in the
    main thread. NaN and infinities are written as null.
    """

    def __init__(self, run_dir: str | Path | None = None) -> None:
        folder = run_dir or os.environ.get("HYBRID_RUN_DIR")
        self.run_dir: Path | None = Path(folder) if folder else None
        self.attempt = int(os.environ.get("HYBRID_ATTEMPT", "1"))
        fd = os.environ.get("HYBRID_EVENTS_FD")
        self._fd: int | None = int(fd) if fd else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)  # nothing that the trainer starts may hold the pipe open
        self._lock = threading.Lock()
        self._terminated = False
        self._looked_at = -math.inf
        self._seen: frozenset[str] = frozenset()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def phase(self, name: str, note: str = "", *, wants: str = "", link: str = "") -> None:
        """The run enters ``name``: "provisioning", "preparing", "running" or "stopping"; any other word is kept as a
        note. ``wants`` is a link at which a person must agree before it goes on; ``link`` "polling" says that news
        comes late from now on."""
        self._send("phase", phase=name, note=note, **{k: v for k, v in (("wants", wants), ("link", link)) if v})

    def metric(self, step: int, *, split: str = "train", **values: Any) -> None:
        """Figures at ``step``: loss, lr, grad_norm, tokens_s, tokens, epoch, total_steps, eta_s (s), accuracy, …"""
        self._send("metric", step=step, split=split, **values)

    def result(self, step: int = 0, **values: Any) -> None:
        """Figures on held-out data (split "test"): accuracy and macro_f1 as shares of one, rows, seconds, …"""
        self.metric(step, split="test", **values)

    def log(self, level: str, text: str) -> None:
        """A sentence for people; ``level`` is "info", "warning" or "error"."""
        self._send("log", level=level, text=text)

    def ckpt(self, path: str | Path, step: int, bytes: int, sha256: str) -> None:
        """A checkpoint is complete at ``path`` (inside the run's folder; written relative to it)."""
        where = Path(path)
        if self.run_dir is not None and where.is_absolute():
            where = where.relative_to(self.run_dir.absolute())
        self._send("ckpt", path=where.as_posix(), step=step, bytes=bytes, sha256=sha256)

    def cost(self, seconds: float, **values: Any) -> None:
        """Time used so far, and money or units where known; ``of`` names what the totals are of (see types.Event)."""
        self._send("cost", seconds=seconds, **values)

    def error(self, message: str, hint: str = "", phase: str = "failed") -> None:
        """Why the trainer is about to fail, in one sentence, and what to do; then exit with a code other than 0.

        An agent may say how the run it follows has ended: ``phase`` "over-budget" or "lost"."""
        self._send("error", message=message, hint=hint, **({"phase": phase} if phase != "failed" else {}))

    def relay(self, ev: str, data: dict[str, Any], origin: str) -> None:
        """Pass on an event of the run that this program follows; ``origin`` is its attempt and number there, "2:17"."""
        self._send(ev, **{**data, "origin": origin})

    def cancelled(self) -> bool:
        """Whether to checkpoint and exit with ``EXIT_CANCELLED``. Cheap enough for every step."""
        return self._terminated or "cancel" in self._control()

    def checkpoint_wanted(self) -> bool:
        """Whether a checkpoint was asked for; the request is taken (its file removed) by this call."""
        return self.asked("checkpoint")

    def asked(self, name: str) -> bool:
        """Whether ``control/<name>`` was made; the request is taken (its file removed) by this call."""
        if self.run_dir is None or name not in self._control():
            return False
        (self.run_dir / "control" / name).unlink(missing_ok=True)
        self._seen -= {name}
        return True

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _control(self) -> frozenset[str]:
        now = time.monotonic()
        if self.run_dir is not None and now - self._looked_at >= _POLL_S:
            self._looked_at = now
            try:
                self._seen = frozenset(path.name for path in (self.run_dir / "control").iterdir())
            except FileNotFoundError:
                self._seen = frozenset()
        return self._seen

    def _send(self, ev: str, **data: Any) -> None:
        line = json.dumps({"ev": ev, **_plain(data)}, ensure_ascii=False, allow_nan=False) + "\n"
        if self._fd is None:
            print(ev, *(f"{key}={value}" for key, value in _plain(data).items()), file=sys.stdout, flush=True)
            return
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        with self._lock:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BrokenPipeError:
                    raise SupervisorGone from None


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers of other libraries unwrapped, NaN and infinities as None."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes, dict)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
