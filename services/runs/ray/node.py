"""What runs on each node of a run: the supervisor on the first, the other nodes' processes on the rest.

Standard library only; ``head`` makes a Ray actor of it. Files travel as bytes through Ray's object store.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from services.runs.notebook import layout
from services.runs.ray import ranks

CODE = Path(__file__).resolve().parents[3]


class Node:
    """One node's part of the start ``number`` of a run, in a folder of its own below ``work``."""

    def __init__(self, work: str, run: str, number: int, index: int) -> None:
        self.run_dir = Path(work) / f"{run}-n{number}-{index}"
        self.number, self.index = number, index
        self.child: subprocess.Popen[bytes] | None = None
        self._file, self._offset = "", 0

    def address(self) -> tuple[str, int]:
        """This node's address among the others, and a free port."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])

    def start(
        self, spec: dict[str, Any], command: list[str], group: list[str], restored: dict[str, bytes], restored_as: str
    ) -> None:
        """Start the processes. ``group`` is empty for a run of one process, else ``ranks``' first arguments."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for name in ("control", "checkpoints", f"attempts/{self.number}"):
            (self.run_dir / name).mkdir(parents=True)
        for path, data in restored.items():
            target = self.run_dir / "checkpoints" / restored_as / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        words = [sys.executable if word == "python" else word for word in command]
        words = [str(self.run_dir) if word == "{run}" else word for word in words]
        if group:
            words = [sys.executable, "-m", ranks.__name__, *group, "--", *words]
        told = spec | {"command": words, "cwd": str(CODE), "data": str(CODE / "data"), "target": "local", "remote": []}
        told["model"] = spec["model"] or str(CODE / "model")
        (self.run_dir / "spec.json").write_text(json.dumps(told), encoding="utf-8")
        if self.index == 0:
            beat = ["--heartbeat", str(spec["options"]["beat_s"])]
            words = [sys.executable, "-I", "-S", str(CODE / "services/runs/supervisor.py"), str(self.run_dir), *beat]
        with (self.run_dir / "node.log").open("ab") as log:
            self.child = subprocess.Popen(
                words, cwd=CODE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(CODE), "HYBRID_RUN_DIR": str(self.run_dir)}, preexec_fn=_tie(),
            )  # fmt: skip

    def look(self) -> tuple[list[str], int | None]:
        """New lines of the events, and the exit code once the child is gone (then no more lines come)."""
        code = self.child.poll() if self.child is not None else None
        return self._lines(), code

    def _lines(self) -> list[str]:
        found: list[str] = []
        for path in sorted(self.run_dir.glob("events-*.jsonl")):
            if path.name < self._file:
                continue
            if path.name > self._file:
                self._file, self._offset = path.name, 0
            with path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._offset += whole
            found += data[:whole].decode("utf-8", "replace").splitlines()
        return found

    def take(self, folder: str) -> dict[str, bytes]:
        """The files of a folder of the run; empty when it is gone."""
        top = self.run_dir / folder
        with contextlib.suppress(OSError):
            return {path: (top / path).read_bytes() for path in layout.manifest(top)}
        return {}

    def log(self) -> bytes:
        """What the trainer has printed, its last part."""
        with contextlib.suppress(OSError):
            name = "log.txt" if self.index == 0 else "node.log"
            return (self.run_dir / name).read_bytes()[-200_000:]
        return b""

    def wish(self, name: str) -> None:
        """Ask the run for something: "cancel" or "checkpoint"."""
        (self.run_dir / "control" / name).touch()

    def end(self) -> None:
        """Nothing of this node's part lives any more, and its folder is gone."""
        if self.child is not None and self.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGTERM if self.index == 0 else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(10)
        shutil.rmtree(self.run_dir, ignore_errors=True)


def _tie() -> Any:
    """Before exec: be told to stop when the actor dies, so that nothing goes on unseen on a node."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def tie() -> None:
        if libc is not None:
            libc.prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG

    return tie
