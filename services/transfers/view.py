"""How transfers stand: a fold of each one's events, what it was asked to do, and whether the worker lives."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from services.errors import HybridError
from services.runs.events import Follower
from services.runs.types import Event
from services.transfers import items
from services.transfers.meter import Reading
from services.transfers.types import FINISHED, Spec, State, Transfers, TransferView
from services.workspace import Workspace

_MOST_PROBLEMS = 5
_NOTHING = Reading(0, 0, 0, 0, 0, None, None, 0, "", ())


class Fold:
    """The state that a transfer's events add up to; one taken twice changes nothing."""

    def __init__(self) -> None:
        self.attempt = 0
        self.seq = 0
        self.session = ""
        self.phase = ""
        self.note = ""
        self.ended: tuple[str, str, str] | None = None  # phase, reason, hint
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.last = _NOTHING
        self.moved_before = 0  # bytes that earlier attempts moved
        self.retries_before = 0
        self.trouble = ""  # why the store tried again last
        self.total_bytes = 0
        self.total_files = 0

    def apply(self, event: Event) -> None:
        """Take one event."""
        if (event.attempt, event.seq) <= (self.attempt, self.seq):
            return
        if event.attempt != self.attempt:
            self._begin(event)
        self.seq = event.seq
        if event.ev == "phase":
            self._on_phase(event.data)
        elif event.ev == "metric":
            self._on_metric(event.data)
        elif event.ev == "end":
            words = [str(event.data.get(key) or "") for key in ("phase", "reason", "hint")]
            self.ended, self.ended_at = (words[0], words[1], words[2]), event.t
            self.phase, self.note = "", ""

    def _begin(self, event: Event) -> None:
        self.attempt, self.ended, self.ended_at = event.attempt, None, None
        self.started_at = self.started_at or event.t
        self.moved_before += self.last.moved_bytes
        self.retries_before += self.last.retries
        self.last = msgspec.structs.replace(self.last, moved_bytes=0, retries=0, rate=None, eta_s=None, files=())

    def _on_phase(self, data: dict[str, Any]) -> None:
        self.phase = str(data.get("phase") or "")
        self.note = str(data.get("note") or "")
        self.session = str(data.get("session") or self.session)
        if self.phase != "running":
            self.last = msgspec.structs.replace(self.last, rate=None, eta_s=None, files=())

    def _on_metric(self, data: dict[str, Any]) -> None:
        try:
            now = msgspec.convert(data, Reading)
        except msgspec.ValidationError:
            return
        self.last = now
        self.trouble = now.trouble or self.trouble
        self.total_bytes = max(self.total_bytes, self.last.total_bytes)
        self.total_files = max(self.total_files, self.last.total_files)


class Reader:
    """Reads one transfer again and again at the cost of what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = items.read_spec(folder)
        self.state = Fold()
        self._follower = Follower(folder)

    def view(self, session: str) -> TransferView:
        """The transfer now; ``session`` is the living worker's, asked before the events are read."""
        foreground = in_foreground(self.spec, self.folder)
        if foreground:
            session = items.holder(self.folder)
        for event in self._follower.all():
            self.state.apply(event)
        return view(self.spec, self.folder, self.state, session, self._follower.problems, foreground=foreground)


def view(
    spec: Spec, folder: Path, state: Fold, session: str, problems: tuple[str, ...] = (), *, foreground: bool = False
) -> TransferView:
    """``state`` as a TransferView."""
    name, note, reason, hint = (_in_command if foreground else _standing)(folder, state, session)
    last = state.last
    live = name in ("running", "retrying")
    moved = state.moved_before + last.moved_bytes
    if state.attempt > 1:  # a killed worker's last bytes were not told; what lies there has travelled at least once
        moved = max(moved, last.done_bytes)
    return TransferView(
        id=spec.id, state=name, direction=spec.direction, label=spec.label, local=spec.local, store=spec.store,
        priority=items.number(folder, "priority"), created_at=spec.created_at, started_at=state.started_at,
        ended_at=state.ended_at if name in FINISHED else None,
        done_files=last.done_files, total_files=last.total_files,
        done_bytes=last.done_bytes, total_bytes=last.total_bytes,
        moved_bytes=moved,
        rate=last.rate if live else None, eta_s=last.eta_s if live else None, attempt=state.attempt,
        retries=state.retries_before + last.retries, trouble=state.trouble, note=note, reason=reason, hint=hint,
        files=last.files if live else (), problems=problems[:_MOST_PROBLEMS],
        foreground=foreground,
    )  # fmt: skip


def in_foreground(spec: Spec, folder: Path) -> bool:
    """Whether a command moves it itself, or did; one that was resumed is the worker's like any other."""
    return spec.foreground and not items.asked(folder, "again")


def runnable(folder: Path, state: Fold, spec: Spec) -> bool:
    """Whether a worker should take it: no command's, not over (or asked for again since), not paused or cancelled."""
    if in_foreground(spec, folder):
        return False
    if state.ended and items.number(folder, "again") < state.attempt:
        return False
    return not (items.asked(folder, "pause") or items.asked(folder, "cancel"))


def _standing(folder: Path, state: Fold, session: str) -> tuple[State, str, str, str]:
    """State, note, reason and hint."""
    if state.ended and items.number(folder, "again") < state.attempt:
        phase, reason, hint = state.ended
        return (phase if phase in FINISHED else "failed"), "", reason, hint  # type: ignore[return-value]
    at_work = bool(session) and state.session == session and state.phase in ("running", "retrying")
    if at_work and not state.ended:
        asked = next((f"{word} soon" for word in ("cancel", "pause") if items.asked(folder, word)), "")
        return ("retrying" if state.phase == "retrying" else "running"), asked or state.note, "", ""
    if items.asked(folder, "cancel"):
        return "cancelled", "", "", ""
    if items.asked(folder, "pause"):
        return "paused", "", "", ""
    if session:
        return "queued", _waits(state), "", ""
    hint = f"drive.resume transfer={folder.name.rpartition('-')[2]} goes on where it was."
    if state.attempt and not state.ended:
        return "interrupted", "", "The worker ended without a word: it was killed, or the box went down.", hint
    return "queued", "no worker is running", "", hint


def _waits(state: Fold) -> str:
    return state.note if state.phase == "queued" else "goes on where it was" if state.attempt else ""


def _in_command(folder: Path, state: Fold, session: str) -> tuple[State, str, str, str]:
    """``_standing`` of one that a command moves itself: it lives as long as that holds the lock."""
    if state.ended:
        phase, reason, hint = state.ended
        return (phase if phase in FINISHED else "failed"), "", reason, hint  # type: ignore[return-value]
    cancelled = items.asked(folder, "cancel")
    if session:
        note = "in the foreground: the command that asked for it moves it"
        return "running", "cancel soon" if cancelled else note, "", ""
    if cancelled:
        return "cancelled", "", "", ""
    reason = "The command that moved it ended without a word: it was killed, or the box went down."
    hint = f"drive.resume transfer={folder.name.rpartition('-')[2]} goes on where it was, in the background."
    return "interrupted", "", reason, hint


_readers: dict[Path, Reader] = {}
_lock = threading.Lock()


def read(workspace: Workspace, folder: Path) -> TransferView:
    """One transfer now. Safe from any thread. Raises HybridError when its spec.json is missing or damaged."""
    session = items.living(workspace)
    with _lock:
        return _reader(folder).view(session)


def _reader(folder: Path) -> Reader:
    if folder not in _readers or not folder.exists():
        _readers.pop(folder, None)
        _readers[folder] = Reader(folder)
    return _readers[folder]


def next_one(workspace: Workspace, above: int | None = None) -> Reader | None:
    """The transfer that a worker is to take: the highest priority, then the oldest.

    ``above``: only one of a higher priority than that. What can't be read is left out.
    """
    found: list[tuple[int, float, Reader]] = []
    for folder in items.folders(workspace):
        priority = items.number(folder, "priority")
        if above is not None and priority <= above:
            continue
        with _lock, contextlib.suppress(HybridError):
            reader = _reader(folder)
            reader.view("")
            if runnable(folder, reader.state, reader.spec):
                found.append((-priority, reader.spec.created_at, reader))
    return min(found, key=lambda f: f[:2], default=(0, 0.0, None))[2]


def wait_for_worker(workspace: Workspace, folder: Path, seconds: float = 3.0) -> TransferView:
    """The transfer once a worker lives or has been at it, or as it is after so many ``seconds``. Blocks."""
    until = time.monotonic() + seconds
    seen = read(workspace, folder)
    while seen.state in ("queued", "interrupted") and not items.living(workspace) and time.monotonic() < until:
        time.sleep(0.03)
        seen = read(workspace, folder)
    return read(workspace, folder)


def read_all(workspace: Workspace) -> Transfers:
    """The queue. A transfer whose spec can't be read is listed as failed, with that as its reason."""
    session = items.living(workspace)
    present = items.folders(workspace)
    views: list[TransferView] = []
    with _lock:
        for gone in [p for p in _readers if p.parent == items.queue(workspace) and p not in present]:
            del _readers[gone]
        for folder in present:
            try:
                views.append(_reader(folder).view(session))
            except HybridError as error:
                views.append(
                    TransferView(
                        folder.name, "failed", "push", folder.name, "", "", 0, 0.0, reason=str(error), hint=error.hint
                    )
                )
    return Transfers(tuple(sorted(views, key=_order)), bool(session))


def _order(seen: TransferView) -> tuple[int, float, float]:
    if seen.state in FINISHED:
        return 2, 0.0, -(seen.ended_at or seen.created_at)
    return int(seen.state not in ("running", "retrying")), -float(seen.priority), seen.created_at
