"""Runs one attempt of a run and writes its events. One file, standard library only: it is copied to every target.

    python supervisor.py RUN_DIR [--detach]

The attempt is the highest folder under ``attempts/``; the supervisor holds a lock on its ``lock`` file as long as it
lives (inherited from whoever made the attempt through HYBRID_LOCK_FD, taken by itself otherwise). The trainer inherits
the lock too, so that a free lock means that nothing of the attempt is left. What the trainer is promised stands in
``emit.py``. The supervisor alone writes ``events-NNNNNN.jsonl``, ``log.txt`` and ``attempts/N/``.

Exit code: 0 the attempt ended and its end is written, 1 it could not be started, 3 another supervisor has it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not __package__ and not sys.flags.safe_path:
    del sys.path[0]  # started by its file: a types.py beside it is not the library's

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROTATE_BYTES = 256 * 1024  # an events file, so that a network target can fetch the last one again
LOG_BYTES = 4 * 1024 * 1024  # log.txt; one older part is kept as log.1.txt
RESERVE_BYTES = 64 * 1024  # given back to a full disk, so that the last events fit
END_BYTES = 4096  # end.json, written ahead, so that the end itself needs no space
PENDING_BYTES = 48 * 1024  # events kept in memory while the disk is full; beyond it only the weighty ones are
TICK_S = 0.2  # how often the controls and the trainer's life are looked at
LINE_BYTES = 1024 * 1024  # a longer line from the trainer is dropped
EXIT_CANCELLED = 130
WEIGHTY = ("phase", "log", "ckpt", "end")  # never dropped
DURABLE = ("phase", "ckpt", "end")  # on the disk before anything else happens
PHASES = ("provisioning", "preparing", "running", "stopping")
GRACE_S = 60.0  # for a cancelled trainer to checkpoint, when the spec says nothing else
COST_S = 60.0  # between two cost events
CEILING_S = 120.0  # between two looks at the ceilings on costs of a run elsewhere


class Taken(Exception):
    """The attempt is not ours to run: another supervisor has it, or it was run before."""


def main(argv: list[str] | None = None) -> int:
    """Supervise the newest attempt of RUN_DIR; with ``--detach`` in a process of its own that outlives this one."""
    parser = argparse.ArgumentParser(prog="supervisor", description="Run one attempt of a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--detach", action="store_true", help="go on in the background, in a session of its own")
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds between heartbeats")
    parser.add_argument(
        "--grace", type=float, default=0.0, help="seconds for a cancelled trainer to stop; 0: the spec's"
    )
    options = parser.parse_args(argv)
    run_dir = options.run_dir.absolute()
    if options.detach:
        return _detach(run_dir, options.heartbeat, options.grace)
    try:
        supervise(run_dir, options.heartbeat, options.grace)
    except Taken as error:
        print(error, file=sys.stderr)
        return 3
    return 0


def _detach(run_dir: Path, heartbeat: float, grace: float) -> int:
    """Fork; return once the background process stands (0), or with its complaint on stderr (1)."""
    reader, writer = os.pipe()
    if not os.fork():
        os.close(reader)
        _background(run_dir, writer, heartbeat, grace)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        complaint = pipe.read()
    sys.stderr.write(complaint)
    return 1 if complaint else 0


def _background(run_dir: Path, starter: int, heartbeat: float, grace: float) -> NoReturn:
    """The background process: own session, no terminal. Closes ``starter`` once the attempt stands, or complains."""
    pipe = os.fdopen(starter, "w", encoding="utf-8")
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(_attempt_dir(run_dir) / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for fd, end in ((null, 0), (errors, 1), (errors, 2)):
            os.dup2(fd, end)
        supervise(run_dir, heartbeat, grace, standing=pipe.close)
        code = 0
    except Exception as error:
        if not pipe.closed:
            pipe.write(f"{error}\n")
            pipe.close()
        traceback.print_exc()
    finally:
        os._exit(code)  # not through the interpreter's end: the starter's buffers are not ours to flush


def supervise(run_dir: Path, heartbeat: float, grace: float, standing: Callable[[], None] = lambda: None) -> None:
    """Run the newest attempt to its end. ``standing`` is called once the trainer has been started (or could not be).

    Raises Taken, and OSError or ValueError when the run's folder can't be written or its spec.json read.
    """
    attempt_dir = _attempt_dir(run_dir)
    lock = _take_lock(attempt_dir)
    if lock is None:
        raise Taken(f"another supervisor runs {attempt_dir}")
    if (attempt_dir / "end.json").exists():
        raise Taken(f"{attempt_dir} was run before; resume makes a new attempt")
    spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))
    Attempt(run_dir, attempt_dir, spec, lock, heartbeat, grace).run(standing)


def _attempt_dir(run_dir: Path) -> Path:
    numbers = [int(path.name) for path in (run_dir / "attempts").iterdir() if path.name.isdigit()]
    if not numbers:
        raise FileNotFoundError(f"{run_dir} has no attempts/1")
    return run_dir / "attempts" / str(max(numbers))


def _take_lock(attempt_dir: Path) -> int | None:
    """The file descriptor that holds the attempt's lock, or None when another process has it.

    Tried for two seconds, because a reader that looks whether we live holds a shared lock for an instant.
    """
    inherited = os.environ.pop("HYBRID_LOCK_FD", None)
    fd = int(inherited) if inherited else os.open(attempt_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + 2
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(0.02)


class Events:
    """Appends events to ``events-NNNNNN.jsonl``. Nothing is lost to a full disk but figures, and never the end."""

    def __init__(self, run_dir: Path, attempt_dir: Path, run: str, attempt: int) -> None:
        self._run_dir, self._attempt_dir = run_dir, attempt_dir
        self._stamp = {"v": 1, "run": run, "attempt": attempt}
        self._seq = 0
        self._pending = bytearray()  # what the disk has not taken yet; may start inside a line
        self._size = 0
        self._number = max((int(p.stem[7:]) for p in run_dir.glob("events-*.jsonl") if p.stem[7:].isdigit()), default=0)
        self._fd = -1
        self.disk_error: OSError | None = None
        _fill(attempt_dir / "reserve", RESERVE_BYTES)
        _fill(attempt_dir / "end.json", END_BYTES)
        self._open_next()

    def write(self, ev: str, **data: Any) -> None:
        """Append one event. On a full disk it waits in memory, except figures beyond ``PENDING_BYTES``."""
        if len(self._pending) > PENDING_BYTES and ev not in WEIGHTY:
            return
        self._pending += self._line(ev, data)
        self.flush()
        if ev in DURABLE and not self._pending:
            self._sync()

    def flush(self) -> bool:
        """Write what is pending; whether all of it is on the disk."""
        try:
            if self._fd < 0 or (self._size >= ROTATE_BYTES and self.disk_error is None):
                self._open_next()
            while self._pending:
                written = os.write(self._fd, self._pending)
                del self._pending[:written]
                self._size += written
        except OSError as error:
            self.disk_error = error
            return False
        self.disk_error = None
        return True

    def end(self, **data: Any) -> None:
        """Write the end event: into end.json, whose blocks exist already, and as the last event."""
        line = self._line("end", data)
        if len(line) > END_BYTES:
            line = self._line("end", {**data, "reason": str(data.get("reason"))[:500], "hint": ""}, again=True)
        fd = os.open(self._attempt_dir / "end.json", os.O_WRONLY | os.O_CREAT, 0o644)
        with contextlib.suppress(OSError):  # the event below says the same
            os.pwrite(fd, line.rjust(END_BYTES), 0)  # spaces before the line: never two ends in one file
            os.fsync(fd)
        os.close(fd)
        self._pending += line
        if not self.flush():
            (self._attempt_dir / "reserve").unlink(missing_ok=True)
        for _ in range(30):  # the space just freed may take a moment to be usable
            if self.flush():
                self._sync()
                break
            time.sleep(0.1)
        (self._attempt_dir / "reserve").unlink(missing_ok=True)

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # some mounts refuse it; the write itself stands
            os.fsync(self._fd)

    def _line(self, ev: str, data: dict[str, Any], again: bool = False) -> bytes:
        self._seq += not again
        head = {**self._stamp, "seq": self._seq, "t": round(time.time(), 3), "ev": ev}
        return json.dumps({**head, "data": data}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    def _open_next(self) -> None:
        path = self._run_dir / f"events-{self._number + 1:06d}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._number = fd, 0, self._number + 1


class Log:
    """log.txt, with one older part: what a chatty trainer prints can't fill the disk."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "log.txt"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append ``data``; dropped when the disk is full, since the events say so."""
        with contextlib.suppress(OSError):
            if self._size + len(data) > LOG_BYTES and self._size:
                self._path.replace(self._path.with_name("log.1.txt"))
                os.close(self._fd)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                self._size = 0
            self._size += os.write(self._fd, data)

    def tail(self) -> str:
        """The last line that says something, for a trainer that died without a word of its own."""
        with contextlib.suppress(OSError):
            data = self._path.read_bytes()[-2000:]
            lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
            return lines[-1][:300] if lines else ""
        return ""


class Attempt:
    """One execution of the spec's command, from the first event to the end event."""

    def __init__(
        self, run_dir: Path, attempt_dir: Path, spec: dict[str, Any], lock: int, heartbeat: float, grace: float
    ) -> None:
        self.run_dir, self.spec, self.lock = run_dir, spec, lock
        self.follows = bool(spec.get("remote")) and spec.get("target") != "local"  # the command is a target's agent
        self.number = int(attempt_dir.name)
        self.heartbeat, self.grace = heartbeat, grace or float(spec.get("grace_s") or GRACE_S)
        self.events = Events(run_dir, attempt_dir, str(spec["id"]), self.number)
        self.log = Log(run_dir)
        self.phase = "preparing"
        self.step: int | None = None
        self.rss = 0
        self.error: dict[str, str] = {}
        self.stopping_since: float | None = None
        self.killed_by_us = False
        self.terminated = False
        self.heard = self.told_to_stop = False  # whether the command has spoken, hence handles signals; was signalled
        self.over_budget = False
        self.ceiling = ""  # why a ceiling on costs stops the run, as control/cancel says
        self.limit = 0.0 if self.follows else _seconds_left(run_dir, self.number, float(spec.get("max_seconds") or 0))
        self.next_heartbeat = self.next_cost = self.next_look = 0.0
        self.look: subprocess.Popen[bytes] | None = None  # at the ceilings, going on beside the agent
        self.costed = self.warned = False  # whether costs were told since that look; whether a warning was
        self.started = time.monotonic()
        self.oom_before = _oom_kills()
        self.buffer = b""

    def run(self, standing: Callable[[], None]) -> None:
        """Start the trainer, serve it until it is gone, write the end."""
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self.events.write("phase", phase="preparing", note=f"attempt {self.number}")
        try:
            child, events, output = self._start()
        except OSError as error:
            reason = f"The trainer can't be started: {error.strerror}: {error.filename}."
            self.events.end(code=1, phase="failed", reason=reason, hint="")
            standing()
            return
        standing()
        try:
            self._serve(child, events, output)
        except Exception as error:
            _kill_group(child.pid)
            self.events.end(
                code=1, phase="failed", reason=f"The supervisor failed: {error!r}.", hint="See supervisor.log."
            )
            raise
        self._finish(child.returncode)

    def _start(self) -> tuple[subprocess.Popen[bytes], int, int]:
        reader, writer = os.pipe()
        names = {"HYBRID_RUN_DIR": str(self.run_dir), "HYBRID_ATTEMPT": str(self.number), "PYTHONUNBUFFERED": "1"}
        libc, parent = _libc(), os.getpid()
        try:
            child = subprocess.Popen(
                self.spec["command"],
                cwd=self.spec["cwd"],
                env={**os.environ, **names, "HYBRID_EVENTS_FD": str(writer)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=(writer, self.lock),
                preexec_fn=lambda: _tie(libc, parent),
            )
        finally:
            os.close(writer)
        assert child.stdout is not None
        return child, reader, child.stdout.fileno()

    def _serve(self, child: subprocess.Popen[bytes], events: int, output: int) -> None:
        """Until the trainer itself is gone: its lines, its output, the controls, the heartbeat.

        Its pipes are read out afterwards without waiting: something it started may hold them open for ever.
        """
        with selectors.DefaultSelector() as selector:
            for fd, take in ((events, self._lines), (output, self.log.write)):
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ, take)
            ended = False
            while not ended:
                ended = _has_ended(child.pid)
                for key, _ in selector.select(0 if ended else TICK_S):
                    if not _drain(key.fd, key.data):
                        selector.unregister(key.fd)
                if not selector.get_map() and not ended:
                    time.sleep(TICK_S)
                if not ended:
                    self._control(child)
                    self._beat(child.pid)
                    self._look_at_ceilings()
        _kill_group(child.pid)  # before it is reaped: its number can't be another's yet
        child.wait()

    def _lines(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self.buffer) > LINE_BYTES:
            self.buffer = b""
            self.events.write("log", level="warning", text="The trainer sent a line longer than 1 MB; it was dropped.")

    def _take(self, line: bytes) -> None:
        """One line of the trainer becomes an event."""
        self.heard = True
        try:
            data = json.loads(line)
            ev = data.pop("ev")
        except (ValueError, KeyError, AttributeError, TypeError):
            self.events.write("log", level="warning", text=f"The trainer sent an unreadable line: {line[:200]!r}")
            return
        if isinstance(data.get("step"), int) and ev in ("metric", "ckpt"):
            self.step = data["step"]
        if ev == "error":
            self.error = {key: str(data.get(key, "")) for key in ("message", "hint", "phase")}
            text = " ".join(self.error[key] for key in ("message", "hint") if self.error[key])
            self.events.write("log", level="error", text=text)
        elif ev == "phase":
            more = {key: data[key] for key in ("wants", "link", "origin") if key in data}
            self._enter(str(data.get("phase", "")), str(data.get("note", "")), **more)
        elif ev in ("metric", "log", "ckpt", "cost") or (ev == "hb" and self.follows):
            self.events.write(ev, **data)
            self.costed |= ev == "cost"
        else:
            self.events.write("log", level="warning", text=f"The trainer sent an event of unknown kind {ev!r:.50}.")

    def _enter(self, phase: str, note: str, **more: Any) -> None:
        if phase not in PHASES:
            phase, note = self.phase, f"{phase}: {note}" if note else phase
        elif self.phase == "stopping":
            phase = "stopping"  # once stopping, the trainer's own words don't take it back
        self.phase = phase
        self.events.write("phase", phase=phase, note=note, **more)

    def _control(self, child: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        if self.stopping_since is None:
            self.over_budget = bool(self.limit) and now - self.started > self.limit
            if self.over_budget or self.terminated or (self.run_dir / "control" / "cancel").exists():
                self.stopping_since = now
                self.ceiling = _ceiling(self.run_dir / "control" / "cancel")
                why = "the supervisor was told to stop" if self.terminated else self.ceiling or "cancelled"
                self._enter("stopping", "the budget is used up" if self.over_budget else why)
        elif not self.told_to_stop and (self.heard or not self.follows):  # an agent must live to free its machine
            self.told_to_stop = True
            os.kill(child.pid, signal.SIGTERM)  # Popen.terminate would reap it, were it gone already
        elif now - self.stopping_since > self.grace and not self.killed_by_us:
            self.killed_by_us = True
            _kill_group(child.pid)

    def _beat(self, pid: int) -> None:
        now = time.monotonic()
        if now < self.next_heartbeat:
            return
        self.next_heartbeat = now + self.heartbeat
        rss = _tree_rss(pid)
        self.rss = rss or self.rss
        self.events.flush()
        free = shutil.disk_usage(self.run_dir).free
        if self.follows:  # memory and disk that matter are those of the other side, which its own heartbeats tell
            self.events.write("hb", step=self.step, agent_rss_bytes=rss or None)
            return
        self.events.write("hb", step=self.step, rss_bytes=rss or None, disk_free_bytes=free, gpu=_gpu())
        if now >= self.next_cost:
            self._cost()

    def _look_at_ceilings(self) -> None:
        """Start the spec's command that knows the ceilings and asks to stop; take what the one before said."""
        command, now = self.spec.get("ceilings"), time.monotonic()
        if self.look is not None and self.look.poll() is not None:
            assert self.look.stdout is not None
            with self.look.stdout as output, contextlib.suppress(ValueError, AttributeError):
                said = json.loads(output.read())
                if said.get("verdict") == "warn" and not self.warned:
                    self.warned = True
                    self.events.write("log", level="warning", text=str(said.get("reason")))
            self.look = None
        if command and self.follows and self.costed and now >= self.next_look and self.look is None:
            self.costed, self.next_look = False, now + CEILING_S
            quiet = subprocess.DEVNULL
            with contextlib.suppress(OSError):
                self.look = subprocess.Popen(
                    command, cwd=self.spec["cwd"], stdin=quiet, stdout=subprocess.PIPE, stderr=quiet
                )

    def _cost(self) -> None:
        self.next_cost = time.monotonic() + COST_S
        self.events.write("cost", seconds=round(time.monotonic() - self.started, 1), of=f"attempt {self.number}")

    def _finish(self, code: int) -> None:
        if self.buffer:
            self._lines(b"\n")
        phase, reason, hint = self._verdict(code)
        if not self.follows:  # an agent counts what its machine costs
            self._cost()
        self.events.end(code=code, reason=reason, phase=phase, hint=hint)

    def _verdict(self, code: int) -> tuple[str, str, str]:
        """(phase, reason, hint) for the trainer's exit code; negative is a signal, as subprocess counts."""
        saved = _last_checkpoint(self.run_dir)
        on = f"resume continues from checkpoint step {saved}" if saved is not None else "resume starts anew"
        if code == 0:
            return "succeeded", "", ""
        if self.error and code != EXIT_CANCELLED:
            phase = self.error["phase"] if self.error["phase"] in ("over-budget", "lost") else "failed"
            return phase, self.error["message"], self.error["hint"]
        if self.over_budget:
            words = self.spec.get("budget") or f"{self.spec['max_seconds']:g} s"
            killed = "; the trainer did not stop in time and was killed" if self.killed_by_us else ""
            return "over-budget", f"The run's budget of {words} is used up{killed}; {on}.", "A larger budget goes on."
        if self.ceiling and not self.terminated:
            return "over-budget", f"{self.ceiling} The run was stopped; {on}.", "A larger ceiling goes on."
        if code == EXIT_CANCELLED or self.stopping_since is not None:
            if self.killed_by_us:
                return (
                    "cancelled",
                    f"Cancelled; the trainer did not stop within {self.grace:.0f} s and was killed; {on}.",
                    "",
                )
            who = "The supervisor was told to stop (SIGTERM)" if self.terminated else "Cancelled"
            return "cancelled", f"{who}; {on}.", ""
        if self.events.disk_error is not None or _disk_is_full(self.run_dir):
            free = shutil.disk_usage(self.run_dir).free
            return (
                "failed",
                f"The disk is full ({free} bytes free at {self.run_dir}); {on}.",
                "Free some space, then resume.",
            )
        if code < 0:
            return "failed", *self._killed(-code, on)
        tail = self.log.tail()
        return (
            "failed",
            f"The trainer ended with code {code}" + (f": {tail}" if tail else "."),
            "log.txt has all it printed.",
        )

    def _killed(self, number: int, on: str) -> tuple[str, str]:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if self.follows:
            return f"What follows the run here was killed ({name}).", "train.resume reattaches."
        short, total = _oom_kills() > self.oom_before, _memory_bytes()
        if number == signal.SIGKILL and (short or (total and self.rss > 0.8 * total)):
            held = f"it held {self.rss / 1e9:.1f} GB of {total / 1e9:.1f} GB"
            return (
                f"The trainer was killed ({name}), most likely for lack of memory ({held}); {on}.",
                "Lower batch_tokens or max_length, or use a smaller model.",
            )
        return f"The trainer was killed ({name}); {on}.", ""

    def _on_sigterm(self, *_: object) -> None:
        self.terminated = True


def _seconds_left(run_dir: Path, attempt: int, allowed: float) -> float:
    """What earlier attempts have left of the ``allowed`` seconds, at least one; 0 when there is no limit."""
    spent: dict[str, float] = {}
    for path in sorted(run_dir.glob("events-*.jsonl")) if allowed else ():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                event = json.loads(line) if b'"cost"' in line else {}
                if event.get("ev") == "cost" and event["attempt"] < attempt:
                    spent[str(event["data"].get("of"))] = float(event["data"]["seconds"])
    return max(1.0, allowed - sum(spent.values())) if allowed else 0.0


def _gpu() -> list[dict[str, float]] | None:
    """Each NVIDIA GPU's load (share of one) and memory (bytes), as nvidia-smi says; None where there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    ask = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, timeout=5, check=True, text=True).stdout
        rows = [[float(word) for word in line.split(",")] for line in said.strip().splitlines()]
        return [{"load": a / 100, "used_bytes": b * 2**20, "total_bytes": c * 2**20} for a, b, c in rows] or None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _fill(path: Path, size: int) -> None:
    """A file of ``size`` spaces, really on the disk (a hole or an unwritten extent might need space later).

    Raises OSError: without it an attempt that could not tell its end must not begin.
    """
    with path.open("wb") as file:
        file.write(b" " * (size - 1) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _drain(fd: int, take: Callable[[bytes], None]) -> bool:
    """Pass on all that can be read now (at most 4 MB a turn); False at the end of the stream."""
    for _ in range(64):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        take(data)
    return True


def _libc() -> ctypes.CDLL | None:
    """The C library, loaded before the fork; None where it has no prctl (macOS: the closed pipe stops the trainer)."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _tie(libc: ctypes.CDLL | None, parent: int) -> None:
    """In the trainer before exec: die with the supervisor, and be the first to go when memory runs out."""
    if libc is not None:
        libc.prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - after fork
            file.write("500")


def _has_ended(pid: int) -> bool:
    """Whether the child has ended, leaving it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pgid: int) -> None:
    """End the trainer and whatever it started in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _tree_rss(root: int) -> int:
    """Resident bytes of the process ``root`` and its descendants; 0 where /proc is absent."""
    parents: dict[int, tuple[int, int]] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = (int(fields[1]), int(fields[21]) * page)  # ppid, rss in pages
    total, members = 0, {root}
    grown = True
    while grown:
        found = {pid for pid, (parent, _) in parents.items() if parent in members} - members
        members |= found
        grown = bool(found)
    for pid in members:
        total += parents.get(pid, (0, 0))[1]
    return total


def _memory_groups() -> list[Path]:
    """Folders of this process's memory control group, version 2 or 1; inside a container its own path is the root."""
    roots: list[Path] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = Path("/sys/fs/cgroup") / controllers
                roots += [root / path.lstrip("/"), root]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory, as our control group and this machine count them."""
    files = [group / name for group in _memory_groups() for name in ("memory.events", "memory.oom_control")]
    total = 0
    for path in (*files, Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            total += int(counts.get("oom_kill", 0))
    return total


def _memory_bytes() -> int:
    """Memory this box may use: the smallest limit of its control groups or the machine's own; 0 when unknown."""
    limits: list[int] = []
    for group in _memory_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max": no limit
                limits.append(int((group / name).read_text()))
    with contextlib.suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=0)


def _ceiling(request: Path) -> str:
    """The reason in a request to stop that a ceiling on costs made; "" for a person's, which is an empty file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        asked = json.loads(request.read_text(encoding="utf-8"))
        if asked.get("phase") == "over-budget":
            return str(asked.get("reason") or "The run's budget is used up.")
    return ""


def _disk_is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path).free < 1_000_000
    return False


def _last_checkpoint(run_dir: Path) -> int | None:
    steps = [int(p.name[5:]) for p in (run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    return max(steps, default=None)


if __name__ == "__main__":
    sys.exit(main())
