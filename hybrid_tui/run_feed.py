"""What the training screen keeps of one run: curves, the log's end, its state; read bit by bit, bounded in memory."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.errors import HybridError
from services.runs.events import Follower
from services.runs.types import Event, RunView
from services.runs.view import read
from widgets.series import Series

_CURVE_POINTS = 20_000
_SLICE = 1_000  # events kept at once
_LOG_BYTES = 16_384
_LOG_LINES = 300
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")

# What the chart can show: title → curves. A training event's figure, "val_" for those of the validation split.
METRICS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "val_loss"),
    "learning rate": ("lr",),
    "speed, tokens/s": ("tokens_s",),
    "gradient norm": ("grad_norm",),
    "memory, GB": ("memory",),
}


@dataclass
class News:
    """What one look at the run's folder found. ``behind``: more is there to be read at once."""

    events: list[Event]
    view: RunView
    log: list[str]
    behind: bool


@dataclass
class RunFeed:
    """Follows the run in ``run_dir``. ``look`` reads (in a thread), ``take`` keeps what was read (on the loop).

    ``log`` holds the last lines, ``log_lines`` counts all.
    """

    run_dir: Path
    view: RunView | None = None
    disk_free_bytes: int | None = None
    curves: dict[str, Series] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    log_lines: int = 0
    behind: bool = True
    _found: list[News] = field(default_factory=list)
    _attempt: int = 0
    _repeats: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._events = Follower(self.run_dir)
        self._log = _Tail(self.run_dir / "log.txt")
        names = {"loss": "train", "val_loss": "validation", "memory": "GB", "tokens_s": "tokens/s"}
        for name in (n for group in METRICS.values() for n in group):
            self.curves[name] = Series(names.get(name, name.replace("_", " ")), limit=_CURVE_POINTS)

    def look(self) -> None:
        """Read what is new, at most about 1 MB of it. Raises HybridError when the run is gone or damaged.

        What was read waits for ``take``, also when nobody waited for this call to return.
        """
        if not self.run_dir.is_dir():
            raise HybridError(f"The run {self.run_dir.name} is gone.", hint="Its folder was deleted.")
        with self._lock:
            events, behind = self._events.poll(), self._events.behind
            view, log = read(self.run_dir), self._log.poll()
            for start in range(0, max(len(events), 1), _SLICE):
                self._found.append(News(events[start : start + _SLICE], view, log, behind))
                log = []

    @property
    def waiting(self) -> bool:
        """Whether something was read and is not kept yet."""
        return bool(self._found)

    def take(self) -> bool:
        """Keep a slice of what was read, small enough not to hold up a key press; whether anything changed."""
        with self._lock:
            if not self._found:
                return False
            news = self._found.pop(0)
        changed = bool(news.events or news.log) or news.view != self.view
        self.view, self.behind = news.view, news.behind
        self._add_log(news.log)
        for event in news.events:
            self._take(event)
        return changed

    def log_since(self, lines: int) -> list[str]:
        """The log beyond its first ``lines`` lines, as far as it is kept."""
        new = self.log_lines - lines
        return self.log[-new:] if new > 0 else []

    def shown_curves(self, metric: str) -> list[Series]:
        """The curves of one entry of METRICS."""
        return [self.curves[name] for name in METRICS[metric]]

    def filled_metrics(self) -> list[str]:
        """The entries of METRICS that have points; "loss" always."""
        return [m for m in METRICS if m == "loss" or any(len(self.curves[n]) for n in METRICS[m])]

    def _take(self, event: Event) -> None:
        if event.attempt != self._attempt:
            self._attempt, self._repeats = event.attempt, True
        if event.ev == "metric":
            self._take_metric(event.data)
        elif event.ev == "hb":
            self._take_heartbeat(event.data)
        elif event.ev == "log":
            level = str(event.data.get("level", "info"))
            mark = {"error": "✗ ", "warning": "▲ "}.get(level, "")
            self._add_log([f"{mark}{_clean(str(event.data.get('text', '')))}"])

    def _take_metric(self, data: dict[str, Any]) -> None:
        step, split = data.get("step"), data.get("split", "train")
        if not isinstance(step, int) or split == "test":
            return
        if self._repeats:  # a new attempt goes back to its checkpoint: what came after it is trained again
            self._repeats = False
            for old in self.curves.values():
                old.forget_from(step)
        for name in data.keys() & {"loss", "lr", "tokens_s", "grad_norm"}:
            curve = self.curves.get(name if split == "train" else f"{split}_{name}")
            if curve is not None:
                curve.append(step, data[name] if _is_number(data[name]) else None)

    def _take_heartbeat(self, data: dict[str, Any]) -> None:
        if _is_number(data.get("disk_free_bytes")):
            self.disk_free_bytes = int(data["disk_free_bytes"])
        if _is_number(data.get("step")) and _is_number(data.get("rss_bytes")):
            self.curves["memory"].append(data["step"], data["rss_bytes"] / 1e9)

    def _add_log(self, lines: list[str]) -> None:
        self.log.extend(lines)
        self.log_lines += len(lines)
        del self.log[:-_LOG_LINES]


class _Tail:
    """The lines that are added to a text file; of a long one, the last 16 kB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def poll(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:  # the supervisor began a new log.txt
                    self._offset, self._rest = 0, b""
                if size - self._offset > _LOG_BYTES:
                    self._offset, self._rest = size - _LOG_BYTES, b""
                file.seek(self._offset)
                data = file.read(size - self._offset)
        except OSError:  # no log yet; what is wrong with the run's folder the events tell
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LOG_BYTES:]
        return [text for line in lines if (text := _clean(line.decode("utf-8", "replace")))]


def _clean(line: str) -> str:
    """A line as a terminal would leave it: no colours, of an overwritten line its last state, nothing unprintable."""
    last = _ANSI.sub("", line).rstrip("\r\n").rpartition("\r")[2].expandtabs(4)
    return "".join(c if c.isprintable() else "·" for c in last).rstrip()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
