"""Into the mounted store: events as numbered files, folders with manifests. Standard library only."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from services.runs.notebook import layout

WEIGHTY = ("phase", "ckpt", "end")  # sent up at once
SLOW_AFTER_S = 600.0  # then events are gathered four times as long, so that a long run has hundreds of files at most


def write(path: Path, data: bytes) -> None:
    """Write a file that appears whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)


class Mirror:
    """Copies what a run on this machine makes into the store's folder ``place``, for the start ``number``."""

    def __init__(self, place: Path, run_dir: Path, number: int, delay_s: float) -> None:
        self.place, self.run_dir, self.number = place, run_dir, number
        self._delay, self._began = delay_s, time.monotonic()
        self._file, self._offset = "", 0
        self._pending: list[bytes] = []
        self._first = 1  # the number of the first pending event
        self._sent_at = 0.0
        self.trouble = ""

    def new_events(self) -> list[dict[str, Any]]:
        """Events that the supervisor has written since the last call; they wait to be sent."""
        found: list[dict[str, Any]] = []
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
            for line in data[:whole].splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
                    self._pending.append(line + b"\n")
        return found

    def send(self, *, now: bool = False) -> bool:
        """Write what waits as one file, if it is time to or ``now``; whether nothing waits any more."""
        if not self._pending:
            return True
        delay = self._delay * (4 if time.monotonic() - self._began > SLOW_AFTER_S else 1)
        if not now and time.monotonic() - self._sent_at < delay:
            return False
        last = self._first + len(self._pending) - 1
        path = self.place / layout.EVENTS / str(self.number) / layout.segment_name(self._first, last)
        if not self._try(lambda: write(path, b"".join(self._pending))):
            return False
        self._pending, self._first, self._sent_at = [], last + 1, time.monotonic()
        return True

    def close(self) -> bool:
        """Send what waits, then say how many events this start had; whether all of it is written."""
        place = self.place / layout.EVENTS / str(self.number) / layout.CLOSED
        told = json.dumps({"last": self._first - 1 + len(self._pending)}).encode()
        return self.send(now=True) and self._try(lambda: write(place, told))

    def folder(self, source: Path, name: str, **more: Any) -> bool:
        """Copy ``source`` to ``name``, then write its manifest beside it; False when it could not be copied whole."""

        def copy() -> None:
            files = layout.manifest(source)
            for path in files:
                target = self.place / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / path, target)
            told = {**more, "number": self.number, "folder": source.name, "files": files}
            write(self.place / f"{name}.json", json.dumps(told).encode())

        done = self._try(copy)
        if not done and not source.exists():  # thinned out meanwhile: a newer one comes
            shutil.rmtree(self.place / name, ignore_errors=True)
        return done

    def prune(self) -> None:
        """Remove checkpoints that the trainer has thinned out: the manifest first, then the files."""
        kept = {int(path.name[5:]) for path in (self.run_dir / "checkpoints").glob("step-*")}
        for path in (self.place / layout.CHECKPOINTS).glob("step-*-n*.json"):
            if int(path.name[5:].partition("-")[0]) not in kept:
                self._try(path.unlink)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def _try(self, work: Any) -> bool:
        try:
            work()
        except OSError as error:
            self.trouble = f"{error.filename or self.place} can't be written: {error.strerror}"
            return False
        self.trouble = ""
        return True


def newest_checkpoint(place: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint in the store (its folder and manifest), every file of it verified; None without one."""
    found = []
    for path in (place / layout.CHECKPOINTS).glob("step-*-n*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            told = json.loads(path.read_bytes())
            found.append((int(told["step"]), int(told["number"]), path.with_suffix(""), told))
    for _, _, folder, told in sorted(found, key=lambda one: one[:2], reverse=True):
        with contextlib.suppress(OSError):
            if all(layout.sha256(folder / path) == known["sha256"] for path, known in told["files"].items()):
                return folder, told
    return None


def spent_seconds(place: Path) -> float:
    """What earlier starts of the notebook have used, as their last cost events say."""
    total = 0.0
    for folder in (place / layout.EVENTS).glob("[0-9]*"):
        last = 0.0
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    event = json.loads(line) if b'"cost"' in line else {}
                    if event.get("ev") == "cost":
                        last = float(event["data"]["seconds"])
        total += last
    return total
