"""How fast the panel starts and answers, and how large it is, in one run: ``python -m benchmarks.panel [--quick]``.

Every figure is taken from real processes on a pseudo-terminal of 120x40; ratios compare processes of the same run,
taken in turns, by their medians.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from services import workspace

ROOT = Path(__file__).resolve().parent.parent
ONE_STATIC = """
from textual.app import App
from textual.widgets import Static

class One(App):
    def compose(self):
        yield Static("painted")

One().run()
"""
# Reports as a trainer does, to the real supervisor, but computes nothing: argv is metrics a second (0 = as fast as it
# can be written) and how many.
TRAINER = """
import sys, time
from services.runs.emit import EXIT_CANCELLED, Emitter
rate, total = float(sys.argv[1]), int(sys.argv[2])
emit = Emitter()
emit.phase("running")
for step in range(1, total + 1):
    emit.metric(step, total_steps=total, loss=3 / step ** 0.3, lr=1e-3, grad_norm=1.0, tokens_s=500.0,
                tokens=2000 * step, epoch=step / total, eta_s=60.0)
    if rate:
        time.sleep(1 / rate)
    if emit.cancelled():
        sys.exit(EXIT_CANCELLED)
"""


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, argv: Sequence[str], cwd: Path = ROOT) -> None:
        self.started = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execv(argv[0], argv)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def wait_for(self, *needles: bytes, seconds: float = 60.0) -> float:
        """Read until one of ``needles`` has come; the time since the start. Raises TimeoutError."""
        seen, end = b"", time.perf_counter() + seconds
        while time.perf_counter() < end:
            if select.select([self.fd], [], [], 0.5)[0]:
                seen += os.read(self.fd, 65536)
                if any(needle in seen for needle in needles):
                    return time.perf_counter() - self.started
        raise TimeoutError(f"{needles} did not appear; last: {seen[-300:]!r}")

    def drain(self, seconds: float) -> int:
        """Read what comes for so long; how many bytes came."""
        count, end = 0, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                count += len(os.read(self.fd, 65536))
        return count

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self.fd, keys)

    def rss_mb(self) -> float:
        """The process's resident memory in MB (10^6 bytes)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def close(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def panel(folder: Path) -> list[str]:
    """The command that opens the panel."""
    return [sys.executable, "-m", "hybrid_tui", "--workspace", str(folder)]


def first_frames(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds from exec to the first painted frame of the panel and of a Textual app with one Static."""
    script = folder / "one_static.py"
    script.write_text(ONE_STATIC)
    times: dict[str, list[float]] = {"panel": [], "one Static": []}
    for _ in range(rounds):
        for name, argv, needle in (
            ("one Static", [sys.executable, str(script)], b"painted"),
            ("panel", panel(folder), b"Overview"),
        ):
            terminal = Terminal(argv)
            times[name].append(terminal.wait_for(needle))
            terminal.close()
    return {name: statistics.median(values) for name, values in times.items()}


def start_run(folder: Path, per_second: float, steps: int) -> Path:
    """A run under the supervisor whose trainer only reports; its folder."""
    from services.runs import local, spec
    from services.runs.types import RunSpec, TrainConfig

    return local.submit(
        workspace.open_workspace(folder),
        RunSpec(
            v=1,
            id=spec.make_run_id(),
            kind="train",
            target="local",
            command=(sys.executable, "-c", TRAINER, str(per_second), str(steps)),
            cwd=str(ROOT),
            config=TrainConfig(),
            model="model",
            model_label="model",
            data=str(folder),
            data_sha256="0" * 64,
            seed=0,
            created_at=time.time(),
        ),
    )


def wait_for_end(run: Path, terminal: Terminal) -> None:
    """Read what the panel draws until the run has ended."""
    from services.runs import view
    from services.runs.types import FINISHED

    while view.read(run).phase not in FINISHED:
        terminal.drain(1)


def memory(folder: Path, steps: int) -> dict[str, float]:
    """RSS in MB after the start, and after a run of ``steps`` metrics has been watched on the training screen."""
    terminal = Terminal(panel(folder))
    terminal.wait_for(b"Overview")
    terminal.drain(3)
    start = terminal.rss_mb()
    run = start_run(folder, 0, steps)
    terminal.press(b"4")
    wait_for_end(run, terminal)
    terminal.drain(8)
    after = terminal.rss_mb()
    idle = terminal.drain(10)
    terminal.close()
    return {"start": start, "after": after, "idle_bytes_per_s": idle / 10}


def latency(folder: Path, presses: int) -> dict[str, float]:
    """Milliseconds from a key press to its answer on the terminal, while a run streams ten metrics a second.

    The key is "m", another figure on the chart of the training screen; the answer is the chart's new title.
    """
    from services.runs import local

    run = start_run(folder, 10, 10_000)
    terminal = Terminal(panel(folder))
    terminal.wait_for(b"Overview")
    terminal.press(b"4")
    terminal.wait_for(b"Loss")
    terminal.drain(4)
    times: list[float] = []
    titles = (b"Learning rate", b"Speed, ", b"Gradient norm", b"Memory, ", b"Loss")
    for _ in range(presses):
        terminal.drain(0.137)  # no multiple of the stream's period
        terminal.started = time.perf_counter()
        terminal.press(b"m")
        times.append(1000 * terminal.wait_for(*titles, seconds=5))
    output = terminal.drain(3) / 3
    terminal.close()
    local.cancel(run)
    times.sort()
    return {
        "p50": statistics.median(times),
        "p95": times[min(int(0.95 * len(times)), len(times) - 1)],
        "n": len(times),
        "stream_bytes_per_s": output,
    }


def headless_help(rounds: int) -> dict[str, float]:
    """Seconds of ``--run storage.scan --help`` and of a Python that imports argparse, json and asyncio."""
    commands = {
        "--run storage.scan --help": [sys.executable, "-m", "hybrid_tui", "--run", "storage.scan", "--help"],
        "python -c imports": [sys.executable, "-c", "import argparse, json, asyncio"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            began = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print a table, or with ``--json`` one document."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    options.add_argument("--json", action="store_true")
    options.add_argument("--events", type=int, default=100_000, help="metrics of the watched run")
    args = options.parse_args()
    rounds = 5 if args.quick else 15
    with tempfile.TemporaryDirectory() as name:
        folder = workspace.init(Path(name) / "work").root
        frames = first_frames(folder, rounds)
        helps = headless_help(rounds)
        room = memory(folder, args.events)
        keys = latency(folder, 20 if args.quick else 60)
    rows = [
        ("first frame, panel", f"{frames['panel'] * 1000:.0f} ms", ""),
        ("first frame, Textual app with one Static", f"{frames['one Static'] * 1000:.0f} ms", ""),
        ("  ratio", f"{frames['panel'] / frames['one Static']:.2f}", "at most 1.5"),
        ("RSS after start", f"{room['start']:.1f} MB", "at most 80"),
        (f"RSS after {args.events:,} metrics watched", f"{room['after']:.1f} MB", "at most 80"),
        ("terminal output when nothing changes", f"{room['idle_bytes_per_s']:.0f} bytes/s", "0"),
        (f"key press to answer, p50 of {keys['n']:.0f}", f"{keys['p50']:.1f} ms", ""),
        ("key press to answer, p95", f"{keys['p95']:.1f} ms", "at most 50"),
        ("--run storage.scan --help", f"{helps['--run storage.scan --help'] * 1000:.0f} ms", ""),
        ("python -c 'import argparse, json, asyncio'", f"{helps['python -c imports'] * 1000:.0f} ms", ""),
        ("  ratio", f"{helps['--run storage.scan --help'] / helps['python -c imports']:.2f}", "at most 3"),
    ]
    if args.json:
        print(json.dumps({"frames": frames, "memory": room, "latency_ms": keys, "headless": helps}))
        return
    for what, figure, bound in rows:
        print(f"{what:<45} {figure:>14}   {bound}")


if __name__ == "__main__":
    main()
