"""The machine's side of a run: starts the supervisor, tells what happens, packs what is to be fetched, ends in time.

    python -m services.runs.colab.driver RUN_DIR

Standard library only. It prints lines ``@hybrid {…}`` with news as they come, for whoever listens, and keeps the same
in ``outbox/news.json`` for whoever asks later; the events' files are the truth for both. It ends when the box says that
it has everything (``control/release``) or has not come for ``idle_s`` after the run's end. Its exit code ``RELEASE``
asks the cell that started it to give the machine back; when that cell is gone it does so itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from services.runs.colab import parcel

RELEASE = 75
MARK = "@hybrid "
_TICK_S = 0.2
_NEWS_S = 1.0  # between two writings of news.json
_NEWS_BYTES = 200_000  # of events in it
_LOG_BYTES = 8_000  # of the log in one piece of news


class Driver:
    """One run on this machine, from its start until nobody needs the machine any more."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.outbox = run_dir, run_dir / "outbox"
        self.config: dict[str, Any] = json.loads((run_dir / "driver.json").read_text(encoding="utf-8"))
        self.parent = os.getppid()
        self.file, self.offset, self.seq = "", 0, 0
        self.tail: list[dict[str, Any]] = []
        self.tail_bytes = 0
        self.log_at = 0
        self.log_text = ""
        self.parcels: dict[str, dict[str, Any]] = {}
        self.end: dict[str, Any] | None = None
        self.listened = True
        self.beat_at = self.news_at = 0.0
        self.dirty = True

    def run(self) -> int:
        """Until the machine can go; the exit code."""
        self.outbox.mkdir(exist_ok=True)
        child = self._start()
        hard = float(self.config["max_seconds"]) + float(self.config["grace_s"]) + 120.0
        until = time.monotonic() + hard if self.config["max_seconds"] else float("inf")
        while True:
            ended = child.poll() is not None
            self._look()
            if ended:
                break
            if time.monotonic() > until:
                os.killpg(child.pid, signal.SIGKILL)
            time.sleep(_TICK_S)
        self._finish(child.returncode)
        return self._wait()

    def _start(self) -> subprocess.Popen[bytes]:
        code = Path(__file__).resolve().parents[3]
        attempt = self.run_dir / "attempts" / str(self.config["number"])
        attempt.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "control").mkdir(exist_ok=True)
        (self.run_dir / "checkpoints").mkdir(exist_ok=True)
        spec_path = self.run_dir / "spec.json"
        spec = json.loads(spec_path.read_text(encoding="utf-8"))
        if spec["command"][0] == "python":
            spec["command"][0] = sys.executable
            spec_path.write_text(json.dumps(spec), encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(code / "services/runs/supervisor.py"), str(self.run_dir),
             "--heartbeat", str(self.config["beat_s"])],
            env={**os.environ, **self._secrets(), "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _secrets(self) -> dict[str, str]:
        """The values that came in a file, which is removed."""
        path = self.run_dir / "in" / "secrets.json"
        if not path.exists():
            return {}
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return found

    def _look(self) -> None:
        """Take what is new in the events and the log, and tell it."""
        self._thin_out()
        found = self._events()
        for event in found:
            if event["ev"] == "ckpt":
                self._pack_checkpoint(event["data"])
        news: dict[str, Any] = {"events": found} if found else {}
        log = self._log()
        if log:
            news["log"] = log
        now = time.monotonic()
        if found or log or now - self.beat_at >= float(self.config["beat_s"]):
            self.beat_at = now
            self._say({**news, "parcels": self.parcels})
        self.dirty |= bool(news)
        if self.dirty and now - self.news_at >= _NEWS_S:
            self._write_news()

    def _events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in sorted(self.run_dir.glob("events-*.jsonl")):
            if path.name < self.file:
                continue
            if path.name > self.file:
                self.file, self.offset = path.name, 0
            with path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(1 << 20)
            whole = data.rfind(b"\n") + 1
            self.offset += whole
            for line in data[:whole].splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    event = json.loads(line)
                    self.seq = int(event["seq"])
                    found.append(event)
                    self._keep(event, len(line))
            if len(data) == 1 << 20:
                break
        return found

    def _keep(self, event: dict[str, Any], size: int) -> None:
        self.tail.append({**event, "size": size})
        self.tail_bytes += size
        while self.tail_bytes > _NEWS_BYTES:
            self.tail_bytes -= self.tail.pop(0)["size"]

    def _log(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError), (self.run_dir / "log.txt").open("rb") as file:
            size = file.seek(0, 2)
            if size < self.log_at:
                self.log_at = 0  # a new log.txt was begun
            self.log_at = max(self.log_at, size - _LOG_BYTES)
            file.seek(self.log_at)
            data = file.read()
            if data:
                text = data.decode("utf-8", "replace")
                at, self.log_at = self.log_at, self.log_at + len(data)
                self.log_text = (self.log_text + text)[-_LOG_BYTES:]
                return {"at": at, "text": text}
        return None

    def _pack_checkpoint(self, data: dict[str, Any]) -> None:
        folder = self.run_dir / str(data.get("path", ""))
        with contextlib.suppress(OSError, ValueError):  # thinned out meanwhile: a newer one comes
            self._pack(folder.name, folder, "checkpoint", {k: data.get(k) for k in ("path", "step", "bytes", "sha256")})
        self._thin_out()

    def _thin_out(self) -> None:
        """Keep the oldest checkpoint that the box has not said it got (it may be fetching it), and the newest."""
        for told in (self.run_dir / "control").glob("got-*"):
            self._drop(told.name[4:])
            told.unlink(missing_ok=True)
        for name in [name for name, told in self.parcels.items() if told["kind"] == "checkpoint"][1:-1]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if self.parcels.pop(name, None):
            shutil.rmtree(self.outbox / name, ignore_errors=True)
            self.dirty = True

    def _pack(self, name: str, folder: Path, kind: str, more: dict[str, Any]) -> None:
        files = parcel.digest(folder)
        parts = parcel.pack(self.outbox / name, [(folder, folder.name)])
        self.parcels[name] = {"kind": kind, "folder": folder.name, "parts": parts, "files": files, **more}
        if self.config.get("drive"):
            with contextlib.suppress(OSError):
                keep = Path(self.config["drive"]) / folder.name
                shutil.copytree(folder, keep, dirs_exist_ok=True)

    def _finish(self, code: int) -> None:
        self._look()
        if (self.run_dir / "output").is_dir():
            with contextlib.suppress(OSError):
                self._pack("output", self.run_dir / "output", "output", {})
        last = next((e["data"] for e in reversed(self.tail) if e["ev"] == "end"), None)
        self.end = last or {"code": code, "phase": "failed", "reason": "The supervisor there died.", "hint": ""}
        self._say({"parcels": self.parcels, "end": self.end})
        self._write_news()

    def _wait(self) -> int:
        """Until the box has said that it has everything, or has not come."""
        assert self.end is not None
        patience = float(self.config["idle_s"])
        if self.end.get("phase") == "over-budget":
            patience = min(patience, float(self.config["grace_s"]))
        until = time.monotonic() + patience
        release = self.run_dir / "control" / "release"
        while time.monotonic() < until and not release.exists():
            if time.monotonic() - self.beat_at >= float(self.config["beat_s"]):
                self.beat_at = time.monotonic()
                self._say({"parcels": self.parcels, "end": self.end})
            time.sleep(_TICK_S)
        if os.getppid() != self.parent:  # the cell is gone
            with contextlib.suppress(Exception):
                from google.colab import runtime  # type: ignore[import-not-found,unused-ignore]

                runtime.unassign()
        return RELEASE

    def _say(self, news: dict[str, Any]) -> None:
        if not self.listened:
            return
        try:
            print(MARK + json.dumps({"number": self.config["number"], "seq": self.seq, **news}), flush=True)
        except OSError:  # whoever listened is gone; news.json goes on
            self.listened = False

    def _write_news(self) -> None:
        news = {
            "number": self.config["number"], "seq": self.seq, "events": self.tail, "file": self.file,
            "log": {"at": self.log_at - len(self.log_text.encode()), "text": self.log_text},
            "parcels": self.parcels, "end": self.end,
        }  # fmt: skip
        new = self.outbox / "news.new"
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(news), encoding="utf-8")
            new.replace(self.outbox / "news.json")
            self.dirty, self.news_at = False, time.monotonic()


def main(arguments: list[str]) -> int:
    """Entry point; 3 when another driver has this run."""
    run_dir = Path(arguments[0])
    lock = os.open(run_dir / "driver.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 3
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return Driver(run_dir).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
