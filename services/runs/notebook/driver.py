"""The notebook's side of a run: brings the files, starts the supervisor, copies what happens into the mounted store.

    python -m services.runs.notebook.driver RUN_FOLDER_IN_THE_STORE WORK_FOLDER

Standard library only. Run again, it is the next start of the same run and goes on from the last checkpoint in the
store. It stops, after a checkpoint, when the box asks for it (wishes.json), on SIGTERM, when the notebook that started
it is gone, and when another notebook has started the same run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from services.runs.notebook import layout
from services.runs.notebook.mirror import WEIGHTY, Mirror, newest_checkpoint, spent_seconds

_TICK_S = 0.2
_WISH_S = 1.0  # between two looks at wishes.json
_SHOWN_S = 5.0  # between two lines of figures in the notebook
_LAST_S = 300.0  # for the last files to be written to a store that refuses them
_CODE = Path(__file__).resolve().parents[3]


class Problem(Exception):
    """The run can't start here; the message is for the person at the notebook."""


class Driver:
    """One start of the run ``place`` holds, on this machine."""

    def __init__(self, place: Path, work: Path) -> None:
        self.place, self.work = place, work
        self.job: dict[str, Any] = _read(place / layout.JOB)
        if not self.job:
            raise Problem(f"{place / layout.JOB} is not there (yet): the mount may be late; try again in a minute.")
        self.parent, self.stopped = os.getppid(), ""
        self.shown_at = 0.0
        self.wish_at, self.asked = 0.0, int(_read(place / layout.WISHES).get("checkpoint") or 0)

    def run(self) -> int:
        """Until the run has ended and all of it is in the store; 0 unless it failed."""
        wishes = _read(self.place / layout.WISHES)
        if wishes.get("cancel"):
            raise Problem("This run was cancelled. train.resume on the box makes it startable again.")
        data, model = self._bring()
        self.number = self._begin(int(wishes.get("base") or 0))
        self.run_dir = self.work / f"start-{self.number}"
        self._make_run(data, model)
        self.mirror = Mirror(self.place, self.run_dir, self.number, float(self.job["delay_s"]))
        signal.signal(signal.SIGTERM, lambda *_: self._stop("stopped in the notebook"))
        supervisor = self._start()
        while supervisor.poll() is None:
            self._look()
            self._obey()
            time.sleep(_TICK_S)
        return self._finish()

    def _bring(self) -> tuple[str, str]:
        """The data's and the model's place on this machine, every file verified."""
        store = self.place.parents[2]
        for told in self.job["files"]:
            source, target = store / told["from"], self.work / "in" / told["to"]
            if target.exists() and layout.sha256(target) == told["sha256"]:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                raise Problem(f"{source} can't be read: {error.strerror}. The mount may be late; try again.") from None
            if layout.sha256(target) != told["sha256"]:
                raise Problem(f"{source} is not what was sent. The mount may be late; try again in a minute.")
        model = self.job["model"]
        return str(self.work / "in" / "data"), model or str(self.work / "in" / "model")

    def _begin(self, base: int) -> int:
        """Take the next number for this start; the folder of its events is the claim."""
        events = self.place / layout.EVENTS
        events.mkdir(parents=True, exist_ok=True)
        number = max([base, *(int(path.name) for path in events.iterdir() if path.name.isdigit())]) + 1
        while True:
            try:
                (events / str(number)).mkdir()
                return number
            except FileExistsError:
                number += 1

    def _make_run(self, data: str, model: str) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for name in ("control", "checkpoints", f"attempts/{self.number}"):
            (self.run_dir / name).mkdir(parents=True)
        spec = dict(self.job["spec"])
        words = [sys.executable if word == "python" else word for word in self.job["command"]]
        spec["command"] = [str(self.run_dir) if word == "{run}" else word for word in words]
        allowed = float(spec.get("max_seconds") or 0)
        spec |= {"target": "local", "remote": [], "options": {}, "cwd": str(_CODE), "data": data, "model": model}
        spec["max_seconds"] = max(1.0, allowed - spent_seconds(self.place)) if allowed else 0.0
        spec["grace_s"] = float(self.job["grace_s"])
        if allowed and not spec.get("budget"):
            spec["budget"] = f"{allowed:g} s"
        (self.run_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        found = newest_checkpoint(self.place)
        if found is not None:
            folder, told = found
            shutil.copytree(folder, self.run_dir / "checkpoints" / told["folder"])
            print(f"going on from checkpoint step {told['step']}", flush=True)

    def _start(self) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None

        def tie() -> None:
            if libc is not None:
                libc.prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG: it stops in order when we are killed

        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CODE / "services/runs/supervisor.py"), str(self.run_dir),
             "--heartbeat", str(self.job["beat_s"])],
            env={**os.environ, "PYTHONPATH": str(_CODE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=tie,
        )  # fmt: skip

    def _look(self) -> None:
        """Copy what is new: a checkpoint before the event that tells of it."""
        urgent = False
        for event in self.mirror.new_events():
            urgent |= event["ev"] in WEIGHTY
            if event["ev"] == "ckpt":
                told = {key: event["data"].get(key) for key in ("step", "bytes", "sha256")}
                name = f"{layout.CHECKPOINTS}/{layout.checkpoint_name(int(told['step']), self.number)}"
                if self.mirror.folder(self.run_dir / str(event["data"]["path"]), name, **told):
                    self.mirror.prune()
            self._show(event)
        self.mirror.send(now=urgent)
        if self.mirror.trouble and time.monotonic() - self.shown_at > _SHOWN_S:
            self.shown_at = time.monotonic()
            print(f"{self.mirror.trouble}; trying again", flush=True)

    def _obey(self) -> None:
        if os.getppid() != self.parent:
            self._stop("the notebook that started this is gone")
        if time.monotonic() - self.wish_at < _WISH_S:
            return
        self.wish_at = time.monotonic()
        if (self.place / layout.EVENTS / str(self.number + 1)).exists():
            self._stop("another notebook has started this run")
        wishes = _read(self.place / layout.WISHES)
        if wishes.get("cancel"):
            self._stop("cancelled from the box")
        if int(wishes.get("checkpoint") or 0) > self.asked:
            self.asked = int(wishes["checkpoint"])
            (self.run_dir / "control" / "checkpoint").touch()

    def _stop(self, why: str) -> None:
        if not self.stopped:
            self.stopped = why
            print(f"stopping after a checkpoint: {why}", flush=True)
            (self.run_dir / "control" / "cancel").touch()

    def _finish(self) -> int:
        """Everything into the store, the result before the end's event."""
        end: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            end = json.loads((self.run_dir / "attempts" / str(self.number) / "end.json").read_bytes())["data"]
        until = time.monotonic() + _LAST_S
        todo = [(self.run_dir / "output", layout.output_name(self.number))] if end.get("phase") == "succeeded" else []
        while todo and not self.mirror.folder(*todo[0]) and time.monotonic() < until:
            time.sleep(1)
        with contextlib.suppress(OSError):
            shutil.copyfile(self.run_dir / "log.txt", self.place / f"log-n{self.number}.txt")
        while True:
            self._look()
            if self.mirror.close() or time.monotonic() > until:
                break
            time.sleep(1)
        print(" ".join(str(end.get(key) or "") for key in ("phase", "reason", "hint")).strip() or "no end", flush=True)
        return 1 if end.get("phase") in ("failed", None) else 0

    def _show(self, event: dict[str, Any]) -> None:
        data = event["data"]
        if event["ev"] in ("phase", "log"):
            print(data.get("phase", data.get("level")), data.get("note") or data.get("text") or "", flush=True)
        elif event["ev"] == "metric" and time.monotonic() - self.shown_at > _SHOWN_S:
            self.shown_at = time.monotonic()
            print(f"step {data.get('step')} of {data.get('total_steps', '?')}, loss {data.get('loss')}", flush=True)


def _read(path: Path) -> dict[str, Any]:
    """A small JSON file; empty when it is absent, or not yet whole on a mount."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: list[str]) -> int:
    """Entry point; 2 when the run can't start here."""
    try:
        return Driver(Path(arguments[0]), Path(arguments[1])).run()
    except Problem as problem:
        print(problem, flush=True)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
