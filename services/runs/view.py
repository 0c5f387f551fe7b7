"""What a run looks like now: a pure fold of its events, and whether anything of it lives."""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard, cast, get_args

import msgspec

from services.errors import HybridError
from services.runs import events, spec
from services.runs.remote import Remote, read_remote
from services.runs.types import FINISHED, Cost, Event, Link, Phase, RunSpec, RunView
from services.turns import short_turns
from services.workspace import Workspace

_PHASES = frozenset(get_args(Phase))
_MOST_PROBLEMS = 20
_BYTES_AGE_S = 5.0  # measuring a folder costs more than reading its news


class Fold:
    """The state that a run's events add up to. Events at or before the last one taken are ignored, so that applying
    any of them twice changes nothing."""

    def __init__(self) -> None:
        self.attempt = 0
        self.seq = 0
        self.phase: Phase = "queued"
        self.note = ""
        self.ended = False
        self.reason = ""
        self.hint = ""
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.last_event_at: float | None = None
        self.step = 0
        self.total_steps: int | None = None
        self.eta_s: float | None = None
        self.rss_bytes: int | None = None
        self.last_checkpoint: str | None = None
        self.metrics: dict[str, float | None] = {}
        self.results: dict[str, float | None] = {}
        self.wants = ""
        self.link: Link = "live"
        self.last_phase: Phase = "queued"  # before it ended
        self.costs: dict[str, dict[str, Any]] = {}

    def apply(self, event: Event) -> None:
        """Take one event. Fields of an unexpected type are passed over."""
        if (event.attempt, event.seq) <= (self.attempt, self.seq):
            return
        if event.attempt != self.attempt:
            self._begin(event.attempt, event.t)
        self.seq, self.last_event_at = event.seq, event.t
        handler = getattr(self, f"_on_{event.ev}", None)
        if handler is not None:
            handler(event)

    def _begin(self, attempt: int, at: float) -> None:
        self.attempt, self.started_at = attempt, at
        self.phase, self.note, self.ended, self.reason, self.hint = "preparing", "", False, "", ""
        self.wants, self.last_phase = "", "preparing"
        self.ended_at = self.eta_s = self.rss_bytes = None
        self.results = {}

    def _on_phase(self, event: Event) -> None:
        name = event.data.get("phase")
        if name in _PHASES and name not in FINISHED:  # only the end event ends
            self.phase = self.last_phase = cast(Phase, name)
        self.note, self.wants = str(event.data.get("note") or ""), str(event.data.get("wants") or "")
        self.link = "polling" if event.data.get("link") == "polling" else "live"

    def _on_metric(self, event: Event) -> None:
        split = event.data.get("split", "train")
        figures = {
            str(key): float(value) if _is_number(value) else None
            for key, value in event.data.items()
            if key not in ("step", "split", "total_steps", "eta_s") and (value is None or _is_number(value))
        }
        if split == "test":
            self.results |= figures
            return
        self._at_step(event.data)
        if split == "val":
            figures = {f"val_{key}": value for key, value in figures.items()}
        self.metrics |= figures
        total = event.data.get("total_steps")
        if _is_number(total):
            self.total_steps = int(total)
        if "eta_s" in event.data:
            eta = event.data["eta_s"]
            self.eta_s = float(eta) if _is_number(eta) else None

    def _on_ckpt(self, event: Event) -> None:
        path = event.data.get("path")
        if isinstance(path, str):
            self.last_checkpoint = path
        step = event.data.get("step")
        if _is_number(step):
            self.step = max(self.step, int(step))  # it may have been on its way while the run went on

    def _on_hb(self, event: Event) -> None:
        if "agent_rss_bytes" in event.data:
            return
        rss = event.data.get("rss_bytes")
        self.rss_bytes = int(rss) if _is_number(rss) else None

    def _on_cost(self, event: Event) -> None:
        of = str(event.data.get("of") or f"attempt {event.attempt}")
        self.costs.pop(of, None)  # the last one told is the last in order
        self.costs[of] = event.data

    def _on_end(self, event: Event) -> None:
        name = event.data.get("phase")
        self.phase = cast(Phase, name) if name in FINISHED else "failed"
        self.ended, self.ended_at, self.eta_s, self.note, self.wants = True, event.t, None, "", ""
        self.reason = str(event.data.get("reason") or "")
        self.hint = str(event.data.get("hint") or "")

    def cost(self) -> Cost:
        """What was used so far, over all attempts and machines."""

        def total(key: str) -> float | None:
            found = [data[key] for data in self.costs.values() if _is_number(data.get(key))]
            return sum(found) if found else None

        last = next(reversed(self.costs.values()), {})
        rate, balance = last.get("rate"), last.get("balance")
        return Cost(
            seconds=total("seconds") or 0.0,
            units=total("units"),
            money=total("money"),
            currency=str(last.get("currency") or ""),
            rate=rate if _is_number(rate) and not self.ended else None,
            balance=balance if _is_number(balance) else None,
            source=str(last.get("source") or ""),
            dated=str(last.get("dated") or ""),
        )

    def _at_step(self, data: dict[str, Any]) -> None:
        if _is_number(data.get("step")):
            self.step = int(data["step"])


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def fold(history: Iterable[Event]) -> Fold:
    """The state after ``history``, whose order and repetitions don't matter."""
    state = Fold()
    for event in sorted(history, key=lambda event: (event.attempt, event.seq)):
        state.apply(event)
    return state


def view(
    run: RunSpec, run_dir: Path, state: Fold, *, attempt: int, alive: bool, remote: Remote | None = None
) -> RunView:
    """``state`` as a RunView. ``attempt`` is the newest one made, ``alive`` whether its lock is held.

    An attempt that has not ended and that nothing holds is lost; unless the run is elsewhere, on the machine
    ``remote``, which may live: then its phase is the last one known, and nothing here follows it.
    """
    phase, reason, hint = state.phase, state.reason, state.hint
    begun = state.attempt == attempt
    if not begun:
        phase, reason, hint = "queued", "", ""
    unattached = run.target != "local" and not alive and remote is not None and remote.live and phase != "succeeded"
    if unattached:
        phase = state.last_phase
        reason = f"{state.reason} ".lstrip() + "Nothing here follows the run; it may go on there, and cost."
        hint = "train.resume reattaches, train.cancel stops it."
    elif not alive and not (begun and state.ended):
        on = (state.last_checkpoint or "").rpartition("/")[2]
        phase, reason = "lost", "The supervisor ended without a word: it was killed, or the box went down."
        hint = f"train.resume continues from {on}." if on else "train.resume starts anew: no checkpoint was written."
    return RunView(
        id=run.id,
        phase=phase,
        link=_link(run, state, alive and phase not in FINISHED),
        attempt=attempt,
        created_at=run.created_at,
        started_at=state.started_at if begun else None,
        ended_at=state.ended_at if begun else None,
        model=run.model_label,
        data=Path(run.data).name,
        step=state.step,
        total_steps=state.total_steps,
        eta_s=state.eta_s if begun and phase not in FINISHED else None,
        metrics=dict(state.metrics),
        results=dict(state.results),
        rss_bytes=state.rss_bytes if begun else None,
        last_checkpoint=state.last_checkpoint,
        reason=reason,
        path=str(run_dir),
        hint=hint,
        note=state.note if begun and phase not in FINISHED else "",
        last_event_at=state.last_event_at,
        target=run.target,
        machine=remote.machine or remote.name if remote is not None and remote.live else "",
        unattached=unattached,
        wants=state.wants if begun and alive else "",
        cost=state.cost(),
    )


def _link(run: RunSpec, state: Fold, follows: bool) -> Link:
    """Whether the run is seen as it goes, or its agent has said that it only looks now and then."""
    if not follows:
        return "none"
    return state.link if run.target != "local" else "live"


def newest_attempt(run_dir: Path) -> int:
    """The number of the latest attempt made; 0 when there is none."""
    try:
        return max((int(path.name) for path in (run_dir / "attempts").iterdir() if path.name.isdigit()), default=0)
    except OSError:
        return 0


def is_alive(run_dir: Path, attempt: int) -> bool:
    """Whether the attempt's supervisor or trainer lives: its lock is held. Process ids play no part."""
    try:
        fd = os.open(run_dir / "attempts" / str(attempt) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Reader:
    """Reads one run again and again at the cost of what is new."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.spec = spec.read(run_dir)
        self._follower = events.Follower(run_dir)
        self._state = Fold()
        self._bytes = 0
        self._measured_at = -math.inf

    def view(self) -> RunView:
        """The run now."""
        attempt = newest_attempt(self.run_dir)
        alive = is_alive(self.run_dir, attempt)  # before the events: the dead write no more
        with short_turns():
            for event in events.skim(self._follower.all()):
                self._state.apply(event)
        attempt = max(attempt, self._state.attempt)
        if not alive and not (self._state.ended and self._state.attempt == attempt):
            end = events.read_end(self.run_dir, attempt)
            if end is not None:
                self._state.apply(end)
        remote = read_remote(self.run_dir) if self.spec.target != "local" else None
        seen = view(self.spec, self.run_dir, self._state, attempt=attempt, alive=alive, remote=remote)
        problems = self._follower.problems
        if len(problems) > _MOST_PROBLEMS:
            problems = (*problems[:_MOST_PROBLEMS], f"and {len(problems) - _MOST_PROBLEMS} more")
        if time.monotonic() - self._measured_at > _BYTES_AGE_S:
            self._bytes, self._measured_at = folder_bytes(self.run_dir), time.monotonic()
        return msgspec.structs.replace(seen, problems=problems, bytes=self._bytes)


_readers: dict[Path, Reader] = {}
_lock = threading.Lock()


def read(run_dir: Path) -> RunView:
    """The run in ``run_dir`` now. Cheap when asked often: only new events are read. Safe from any thread.

    Raises HybridError when its spec.json is missing or damaged.
    """
    with _lock:
        reader = _readers.get(run_dir)
        if reader is None or not run_dir.exists():
            _readers.pop(run_dir, None)
            reader = _readers[run_dir] = Reader(run_dir)
        return reader.view()


def read_all(workspace: Workspace) -> tuple[RunView, ...]:
    """All runs, newest first. One whose spec can't be read is listed as failed with that as its reason."""
    run_dirs = spec.folders(workspace)
    with _lock:
        for gone in [path for path in _readers if path.parent == workspace.runs and path not in run_dirs]:
            del _readers[gone]
    views = [_read_or_say(run_dir) for run_dir in run_dirs]
    return tuple(sorted(views, key=lambda seen: seen.created_at, reverse=True))


def _read_or_say(run_dir: Path) -> RunView:
    try:
        return read(run_dir)
    except HybridError as error:
        attempt = newest_attempt(run_dir)
        alive = is_alive(run_dir, attempt)
        made = run_dir.stat().st_mtime
        return RunView(
            run_dir.name, "running" if alive else "failed", "live" if alive else "none", attempt, made, None, None,
            "", "", 0, None, None, {}, {}, None, None, str(error), str(run_dir), folder_bytes(run_dir),
            problems=(str(error),), hint=error.hint,
        )  # fmt: skip


def folder_bytes(folder: Path) -> int:
    """What deleting ``folder`` would free: allocated blocks, a file with several names once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [str(folder)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    if (stat.st_dev, stat.st_ino) not in seen:
                        seen.add((stat.st_dev, stat.st_ino))
                        total += stat.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except FileNotFoundError:
            continue  # a checkpoint was thinned out meanwhile
    return total
