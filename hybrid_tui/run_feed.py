"""What the training screen keeps of one run: curves, the log's end, its state; read bit by bit, bounded in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from services.errors import HybridError
from services.runs.events import Follower
from services.runs.types import Event, RunView
from services.runs.view import read
from services.turns import short_turns
from widgets.run_facts import Device
from widgets.series import Series

_CURVE_POINTS = 20_000
_LOG_BYTES = 16_384
_LOG_LINES = 300
_LARGEST = 1e300
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")

# What the chart can show: title → curves. A training event's figure, "val_" for those of the validation split; the
# first of each is what runs are compared by.
METRICS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "val_loss"),
    "validation loss": ("val_loss",),
    "validation accuracy": ("val_accuracy",),
    "validation macro-F1": ("val_macro_f1",),
    "learning rate": ("lr",),
    "speed, tokens/s": ("tokens_s",),
    "gradient norm": ("grad_norm",),
    "memory, GB": ("memory",),
    "GPU load, %": ("gpu_load",),
    "GPU memory, GB": ("gpu_memory",),
}
_NAMES = {
    "loss": "train", "val_loss": "validation", "val_accuracy": "accuracy", "val_macro_f1": "macro-F1", "memory": "GB",
    "tokens_s": "tokens/s", "gpu_load": "%", "gpu_memory": "GB",
}  # fmt: skip
_TOLD = {
    "train": {"loss": "loss", "lr": "lr", "tokens_s": "tokens_s", "grad_norm": "grad_norm"},
    "val": {"loss": "val_loss", "accuracy": "val_accuracy", "macro_f1": "val_macro_f1"},
}  # split → figure → curve


@dataclass
class News:
    """All that is known after a look at the run's folder; ``curves`` has those that changed."""

    view: RunView
    device: Device
    curves: dict[str, Series]
    log: list[str]
    log_lines: int
    behind: bool


@dataclass
class RunFeed:
    """Follows the run in ``run_dir``. ``look`` reads and reckons (in a thread), ``take`` adopts what came of it (on
    the loop, at once). ``log`` holds the last lines, ``log_lines`` counts all; ``behind``: there is more to be read.
    """

    run_dir: Path
    view: RunView | None = None
    device: Device = field(default_factory=Device)
    curves: dict[str, Series] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    log_lines: int = 0
    behind: bool = True
    _next: News | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._history = _History(self.run_dir)
        self.curves = {name: curve.copy() for name, curve in self._history.curves.items()}

    def look(self) -> None:
        """Read what is new, at most about 1 MB of it. Raises HybridError when the run is gone or damaged.

        What was read waits for ``take``, also when nobody waited for this call to return.
        """
        if not self.run_dir.is_dir():
            raise HybridError(f"The run {self.run_dir.name} is gone.", hint="Its folder was deleted.")
        with self._lock, short_turns():
            changed = self._history.advance()
            view = read(self.run_dir)
            if self._next is not None:  # nobody has taken it yet
                changed |= self._next.curves.keys()
            curves = {name: self._history.curves[name].copy() for name in changed}
            log, lines = list(self._history.log), self._history.log_lines
            self._next = News(view, self._history.device, curves, log, lines, self._history.behind)

    @property
    def waiting(self) -> bool:
        """Whether something was read and is not taken yet."""
        return self._next is not None

    def take(self) -> bool:
        """Adopt what was read; whether anything changed."""
        with self._lock:
            news, self._next = self._next, None
        if news is None:
            return False
        changed = bool(news.curves) or news.log_lines != self.log_lines or news.view != self.view
        changed |= news.device != self.device
        self.view, self.device, self.behind = news.view, news.device, news.behind
        self.log, self.log_lines = news.log, news.log_lines
        self.curves |= news.curves
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


class _History:
    """The reading side of a feed: it alone changes its curves."""

    def __init__(self, run_dir: Path) -> None:
        self._events = Follower(run_dir)
        self._tail = _Tail(run_dir / "log.txt")
        names = dict.fromkeys(name for group in METRICS.values() for name in group)
        self.curves = {name: Series(_NAMES.get(name, name.replace("_", " ")), limit=_CURVE_POINTS) for name in names}
        self.device = Device()
        self.log: list[str] = []
        self.log_lines = 0
        self._attempt = 0
        self._repeats = False
        self._rows: dict[str, tuple[list[int], list[dict[str, Any]]]] = {}  # split → what the curves lack

    @property
    def behind(self) -> bool:
        """Whether there is more to be read at once."""
        return self._events.behind

    def advance(self) -> set[str]:
        """Read the next piece; the names of the curves that changed."""
        before = {name: curve.version for name, curve in self.curves.items()}
        events = self._events.poll()
        self._add_log(self._tail.poll())
        for event in events:
            self._take(event)
        self._keep_rows()
        return {name for name, curve in self.curves.items() if curve.version != before[name]}

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
        if not isinstance(step, int) or split not in _TOLD:
            return
        if self._repeats:  # a new attempt goes back to its checkpoint: what came after it is trained again
            self._repeats = False
            self._keep_rows()
            for old in self.curves.values():
                old.forget_from(step)
        rows = self._rows.get(split)
        if rows is None:
            rows = self._rows[split] = [], []
        rows[0].append(step)
        rows[1].append(data)

    def _take_heartbeat(self, data: dict[str, Any]) -> None:
        if "agent_rss_bytes" in data:  # of what only passes on what another machine tells
            return
        self.device = _device(data)
        step = data.get("step")
        if not _is_number(step):
            return
        rss, device = data.get("rss_bytes"), self.device
        if _is_number(rss):
            self.curves["memory"].append(step, rss / 1e9)
        if device.gpu_load is not None:
            self.curves["gpu_load"].append(step, 100 * device.gpu_load)
        if device.gpu_used_bytes is not None:
            self.curves["gpu_memory"].append(step, device.gpu_used_bytes / 1e9)

    def _keep_rows(self) -> None:
        for split, (steps, rows) in self._rows.items():
            for figure, name in _TOLD[split].items():
                values = [data[figure] for data in rows if figure in data]
                if values:
                    told = [step for step, data in zip(steps, rows, strict=True) if figure in data]
                    self.curves[name].extend(told, _numbers(values))
        self._rows = {}

    def _add_log(self, lines: list[str]) -> None:
        self.log.extend(lines)
        self.log_lines += len(lines)
        del self.log[:-_LOG_LINES]


def _numbers(values: Sequence[Any]) -> Sequence[float | None]:
    """The values, with None for what can't be drawn."""
    try:
        if -_LARGEST < min(values) <= max(values) < _LARGEST:
            return values
    except TypeError:
        pass
    return [value if _is_number(value) else None for value in values]


def _device(data: dict[str, Any]) -> Device:
    free, told = data.get("disk_free_bytes"), data.get("gpu")
    gpus = [gpu for gpu in told if isinstance(gpu, dict)] if isinstance(told, list) else []

    def all_of(key: str) -> list[float]:
        return [gpu[key] for gpu in gpus if _is_number(gpu.get(key))]

    loads, used, total = all_of("load"), all_of("used_bytes"), all_of("total_bytes")
    return Device(
        int(free) if _is_number(free) else None,
        len(gpus),
        sum(loads) / len(loads) if loads else None,
        sum(used) if used else None,
        sum(total) if total else None,
    )


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


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
