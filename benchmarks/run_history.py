"""How soon the panel answers keys while it reads a long run's history for the first time, and how long that takes.

``python -m benchmarks.run_history [--events 300000] [--rounds 4]``: a finished run with that many events is written,
the panel is opened on it on a pseudo-terminal of 120x40, and keys are pressed until all of it is there: tab, then m for
another figure. All that several times; the percentiles are of all keys together.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.panel import ROOT, Terminal, panel
from services import workspace
from services.runs import spec
from services.runs.types import Event, RunSpec, TrainConfig

QUIET = 0.1  # seconds between two presses
CURVE = b"the last line of all"
TITLES = (b"Learning rate", b"Speed, ", b"Gradient norm", b"Loss")


def write_run(folder: Path, events: int) -> Path:
    """A finished run with ``events`` metrics, as a trainer writes them; its folder."""
    place = workspace.open_workspace(folder)
    run = "20261123-1405-k3v9"
    run_dir = place.runs / run
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "lock").touch()
    spec.write(
        run_dir,
        RunSpec(
            v=1, id=run, kind="train", target="local", command=(sys.executable,), cwd=str(ROOT), config=TrainConfig(),
            model="model", model_label="model", data=str(folder), data_sha256="0" * 64, seed=0, created_at=time.time(),
        ),
    )  # fmt: skip
    encode = msgspec.json.Encoder().encode
    with (run_dir / "events-000001.jsonl").open("wb") as file:
        for step in range(1, events):
            figures = {
                "step": step, "total_steps": events, "split": "train", "loss": 0.3 + 3 * math.exp(-5 * step / events),
                "lr": 1e-3, "grad_norm": 1.0, "tokens_s": 500.0, "tokens": 2000 * step, "epoch": step / events,
                "eta_s": 60.0,
            }  # fmt: skip
            file.write(encode(Event(1, run, 1, step, 1.795e9 + step, "metric", figures)) + b"\n")
        file.write(encode(Event(1, run, 1, events, 1.796e9, "log", {"text": CURVE.decode()})) + b"\n")
        file.write(encode(Event(1, run, 1, events + 1, 1.796e9, "end", {"code": 0, "phase": "succeeded"})) + b"\n")
    return run_dir


def _read(terminal: Terminal, seconds: float) -> bytes:
    """What comes within so long."""
    seen, end = b"", time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        if select.select([terminal.fd], [], [], left)[0]:
            seen += os.read(terminal.fd, 65536)
    return seen


def _cpu_seconds(terminal: Terminal) -> float:
    fields = Path(f"/proc/{terminal.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def keys_while_reading(folder: Path) -> tuple[list[float], float]:
    """Milliseconds from each key to its answer while the history is read; seconds until the curve was there."""
    terminal = Terminal(panel(folder))
    terminal.wait_for(b"Overview")
    terminal.drain(3)
    began, busy = time.perf_counter(), _cpu_seconds(terminal)
    terminal.press(b"4")
    terminal.wait_for(b"Runs")
    times: list[float] = []
    seen = b""
    while CURVE not in seen:
        # Until there is a curve nothing is drawn but what a key causes; from then on a key changes the chart's title.
        key, answers = (b"m", TITLES) if "● train".encode() in seen else (b"\t", (b"\x1b[",))
        seen += _read(terminal, QUIET)
        asked = time.perf_counter()
        terminal.press(key)
        answer = b""
        while not any(word in answer for word in answers):
            answer += os.read(terminal.fd, 65536)
        times.append(1000 * (time.perf_counter() - asked))
        seen = seen[-100_000:] + answer
    done = time.perf_counter() - began
    busy, rss = _cpu_seconds(terminal) - busy, terminal.rss_mb()
    terminal.close()
    print(f"{rss:.1f} MB resident at the end, {busy:.1f} s of processor time")
    return times, done


def main() -> None:
    """Write the run, press keys, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=300_000)
    options.add_argument("--rounds", type=int, default=4, help="how often the panel is opened on it")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = workspace.init(Path(name) / "work").root
        run_dir = write_run(folder, args.events)
        size = sum(path.stat().st_size for path in run_dir.glob("events-*")) / 1e6
        found = [keys_while_reading(folder) for _ in range(args.rounds)]
    times = sorted(taken for some, _ in found for taken in some)
    done = statistics.median(seconds for _, seconds in found)
    print(f"{args.events:,} events, {size:.0f} MB: the whole curve after {done:.1f} s")
    p95 = times[min(int(0.95 * len(times)), len(times) - 1)]
    print(f"key press to answer meanwhile: p50 {statistics.median(times):.0f} ms, p95 {p95:.0f} ms, n {len(times)}")


if __name__ == "__main__":
    main()
