"""A full scan against ``du -s`` and ``os.walk``, in one run: ``python -m benchmarks.storage [--files N] [--rounds N]``.

Two trees: one made from a seed (files in 1 folder of 10, 2 % hard links, 2 % symbolic links, 1 % sparse) and ``/usr``.
Each is read once before anything is timed, so that all find it in the kernel's cache; then the three take turns, each
round in another order. Every time is the processor's as well as the clock's; ratios are of medians. The totals must be
the same to the byte, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from services.storage.scanner import Scanner

Method = Callable[[str], int]


def make_tree(root: Path, files: int, seed: int = 0) -> None:
    """Fill ``root`` with ``files`` entries, the same for the same seed."""
    rng = random.Random(seed)
    folders, regular = [root], []
    for index in range(files):
        if index % 10 == 0:
            folders.append(rng.choice(folders[-50:]) / f"folder{index}")
            folders[-1].mkdir()
        path = rng.choice(folders[-20:]) / f"file{index}"
        draw = rng.random()
        if draw < 0.02 and regular:
            os.link(rng.choice(regular), path)
        elif draw < 0.04:
            path.symlink_to(rng.choice(folders))
        else:
            with path.open("wb") as file:
                file.write(b"x" * rng.choice((0, 10, 500, 3000, 9000)))
                if draw < 0.05:
                    file.truncate(10_000_000)
            regular.append(path)


def with_du(root: str) -> int:
    """GNU du, without crossing mounts."""
    return int(subprocess.run(["du", "-s", "-x", "-B1", root], capture_output=True).stdout.split()[0])


def with_walk(root: str) -> int:
    """The obvious way in Python."""
    device = os.lstat(root).st_dev
    total = os.lstat(root).st_blocks
    seen: set[int] = set()
    for here, folders, names in os.walk(root):
        for name in folders[:]:
            status = os.lstat(os.path.join(here, name))  # noqa: PTH118  (what is timed)
            if status.st_dev != device:
                folders.remove(name)
            else:
                total += status.st_blocks
        for name in names:
            status = os.lstat(os.path.join(here, name))  # noqa: PTH118
            if status.st_nlink > 1:
                if status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
            total += status.st_blocks
    return total * 512


def with_scanner(root: str) -> int:
    """Ours, with everything the panel asks of it: rows, largest folders, results so far."""
    return Scanner(root, top=500, on_partial=lambda _: None).run().total_bytes


METHODS: dict[str, Method] = {"du -s": with_du, "os.walk": with_walk, "scanner": with_scanner}


def measure(method: Method, root: str) -> tuple[float, float, int]:
    """Seconds by the clock, seconds of processor (children's included), and the bytes counted."""

    def processor() -> float:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    before, started = processor(), time.perf_counter()
    total = method(root)
    return time.perf_counter() - started, processor() - before, total


def compare(title: str, root: str, rounds: int) -> bool:
    """Print the table of one tree; false when the totals differ."""
    measured: dict[str, list[tuple[float, float, int]]] = {name: [] for name in METHODS}
    found = Scanner(root).run()
    order = list(METHODS)
    for _ in range(rounds):
        order.append(order.pop(0))
        for name in order:
            measured[name].append(measure(METHODS[name], root))
    print(f"\n{title}: {found.files:,} files, {found.directories:,} folders, {found.total_bytes:,} bytes")
    print(f"{'':10}{'clock s':>10}{'/ du':>8}{'cpu s':>10}{'/ du':>8}  bytes")
    clock, cpu = (statistics.median(run[i] for run in measured["du -s"]) for i in (0, 1))
    for name, runs in measured.items():
        own_clock, own_cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
        same = {run[2] for run in runs} == {found.total_bytes}
        print(
            f"{name:10}{own_clock:10.3f}{own_clock / clock:8.2f}{own_cpu:10.3f}{own_cpu / cpu:8.2f}  "
            f"{'same' if same else 'DIFFERENT'}"
        )
    return all(run[2] == found.total_bytes for runs in measured.values() for run in runs)


def main() -> int:
    """Run it; 1 when totals differ."""
    parser = argparse.ArgumentParser(description="A full scan against du -s and os.walk.")
    parser.add_argument("--files", type=int, default=30_000, help="entries of the made tree")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, of which the median is shown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder), options.files)
        same = compare(f"made tree, seed 0, {options.files:,} entries", folder, options.rounds)
    return 0 if compare("/usr", "/usr", options.rounds) and same else 1


if __name__ == "__main__":
    sys.exit(main())
