"""The scanner against ``du -s``, gdu and ``os.walk``, in one run: ``python -m benchmarks.storage [--files N]``.

Two trees: one made from a seed (2 % hard links, 2 % symbolic links, 1 % sparse files, the files' times spread over two
years) and ``/usr``. Each is read once before anything is timed, so that all find it in the kernel's cache; then the
methods take turns, each round in another order. Every time is the processor's as well as the clock's (gdu uses all
cores, the others one); ratios are of medians. The totals must be the same to the byte, or the benchmark fails.

"rescan" is a scan of the unchanged tree that takes over what the kept index has: loading that, looking, and saving it.
``--million N`` makes a tree of N files in ``--large-tree-in`` (a tmpfs by default) and prints the memory of its scan.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from services.storage.index import Index
from services.storage.scanner import Scanner
from services.storage.types import Scan

Method = Callable[[str], int]
YEARS = 2 * 365 * 86400


def make_tree(root: Path, files: int, seed: int = 0) -> None:
    """Fill ``root`` with ``files`` entries in a tenth as many folders, the same for the same seed."""
    rng = random.Random(seed)
    now = time.time()
    folders, regular = [root], []
    for index in range(files):
        if index % 10 == 0:
            parent = root if index % 5000 == 0 else rng.choice(folders[-50:])
            if len(parent.parts) - len(root.parts) > 12:
                parent = root
            folders.append(parent / f"folder{index}")
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
            os.utime(path, (now - 86400 - rng.random() * YEARS,) * 2)
            regular.append(path)


def with_du(root: str) -> int:
    """GNU du, without crossing mounts."""
    return int(subprocess.run(["du", "-s", "-x", "-B1", root], capture_output=True).stdout.split()[0])


def with_gdu(root: str) -> int:
    """gdu without its screen; it prints no exact total that could be compared."""
    subprocess.run(["gdu", "-n", "-p", "-c", "-x", root], capture_output=True, check=True)
    return -1


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
    """Ours, with everything the panel asks of it: rows, largest folders and files, results so far."""
    return Scanner(root, top=500, on_partial=lambda _: None).run().total_bytes


def rescanner(folder: Path) -> Method:
    """Ours from the index in ``folder``, saved there again."""

    def rescan(root: str) -> int:
        index = Index(folder)
        found = index.load(root)
        before = (found.tree, 0) if found is not None and found.tree is not None else None
        scanner = Scanner(root, top=500, before=before, on_partial=lambda _: None)
        result = scanner.run()
        assert scanner.tree is not None
        index.save(result, scanner.tree)
        return result.total_bytes

    return rescan


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
    with tempfile.TemporaryDirectory() as folder:
        methods: dict[str, Method] = {"du -s": with_du, "os.walk": with_walk, "scanner": with_scanner}
        methods["rescan"] = rescanner(Path(folder))
        if shutil.which("gdu"):
            methods["gdu"] = with_gdu
        for method in methods.values():
            method(root)
        found = Scanner(root).run()
        measured: dict[str, list[tuple[float, float, int]]] = {name: [] for name in methods}
        order = list(methods)
        for _ in range(rounds):
            order.append(order.pop(0))
            for name in order:
                measured[name].append(measure(methods[name], root))
        print(f"\n{title}: {found.files:,} files, {found.directories:,} folders, {found.total_bytes:,} bytes")
        print(f"{'':10}{'clock s':>10}{'best':>8}{'/ du':>8}{'cpu s':>10}{'/ du':>8}  bytes")
        clock, cpu = (statistics.median(run[i] for run in measured["du -s"]) for i in (0, 1))
        for name, runs in measured.items():
            own_clock, own_cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
            totals = {run[2] for run in runs}
            same = "not exact" if totals == {-1} else "same" if totals == {found.total_bytes} else "DIFFERENT"
            print(
                f"{name:10}{own_clock:10.3f}{min(run[0] for run in runs):8.3f}{own_clock / clock:8.2f}"
                f"{own_cpu:10.3f}{own_cpu / cpu:8.2f}  {same}"
            )
        full, again = (statistics.median(run[0] for run in measured[name]) for name in ("scanner", "rescan"))
        print(f"rescan of the unchanged tree / full scan: {again / full:.2f}")
        show_start(root, Path(folder))
        show_first_partial(root, rounds)
        asyncio.run(show_lag(root, rounds))
    return all(run[2] in (-1, found.total_bytes) for runs in measured.values() for run in runs)


def show_start(root: str, folder: Path) -> None:
    """How long the last result takes to be there, in a process that has not loaded it before."""
    index = Index(folder)

    def timed(load: Callable[[], object]) -> float:
        times = []
        for _ in range(9):
            started = time.perf_counter()
            load()
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000

    size = sum(file.stat().st_size for file in folder.iterdir())
    head = timed(lambda: index.load(root, head_only=True))
    print(f"last result: {head:.1f} ms; with every folder's {timed(lambda: index.load(root)):.1f} ms ({size:,} bytes)")


def show_first_partial(root: str, rounds: int) -> None:
    """Seconds from the start of a scan to its first result, and how many of the subfolders that shows with a size."""
    firsts = []
    for _ in range(rounds):
        stop = threading.Event()
        seen: list[tuple[float, Scan]] = []
        started = time.perf_counter()

        def note(scan: Scan, seen: list[tuple[float, Scan]] = seen, stop: threading.Event = stop) -> None:
            seen.append((time.perf_counter(), scan))
            stop.set()

        final = Scanner(root, top=500, on_partial=note, cancelled=stop).run()
        if final.complete:
            seen.append((time.perf_counter(), final))
        sized = sum(row.bytes > 0 for row in seen[0][1].folders if row.kind == "folder")
        firsts.append((seen[0][0] - started, sized, sum(row.kind == "folder" for row in seen[0][1].folders)))
    seconds, sized, rows = sorted(firsts)[len(firsts) // 2]
    print(f"first result: {seconds * 1000:.0f} ms, {sized} of {rows} subfolders with a size")


async def show_lag(root: str, rounds: int) -> None:
    """How late the loop wakes up from sleeps of 10 ms while a scan runs in a thread, and while none does."""

    async def ticks(until: Callable[[], bool]) -> list[float]:
        late = []
        while not until():
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            late.append(time.perf_counter() - started - 0.01)
        return late

    end = time.perf_counter() + 1
    idle = await ticks(lambda: time.perf_counter() > end)
    busy: list[float] = []
    for _ in range(rounds):
        scan = asyncio.create_task(asyncio.to_thread(with_scanner, root))
        busy += await ticks(scan.done)
    if len(busy) < 2:
        print("loop lag: the scan ends before it could be seen")
        return
    p = [statistics.quantiles(lags, n=100)[i] * 1000 for lags in (busy, idle) for i in (49, 94, 98)]
    print(
        f"loop lag during a scan: p50 {p[0]:.1f}, p95 {p[1]:.1f}, p99 {p[2]:.1f}, max {max(busy) * 1000:.1f} ms ",
        end="",
    )
    print(f"(without one: p95 {p[4]:.1f} ms)")


LARGE = """
import json, sys, time
from pathlib import Path
from services.storage.index import Index
from services.storage.scanner import Scanner
def peak():  # ru_maxrss starts at what the parent had
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
root, index, before = sys.argv[1], Index(Path(sys.argv[2])), peak()
started = time.perf_counter(); found = index.load(root); load = time.perf_counter() - started
started = time.perf_counter(); index.load(root, head_only=True); head = time.perf_counter() - started
started = time.perf_counter()
scanner = Scanner(root, top=500, before=found and (found.tree, 0), on_partial=lambda _: None)
result = scanner.run(); index.save(result, scanner.tree)
print(json.dumps([result.total_bytes, result.files, result.directories, before, peak(), load, head,
                  time.perf_counter() - started]))
"""


def show_large(files: int, place: str) -> bool:
    """Print memory and times of a scan and a rescan of a tree of ``files`` entries, each in a fresh process."""
    with tempfile.TemporaryDirectory(dir=place) as folder, tempfile.TemporaryDirectory() as index:
        make_tree(Path(folder), files)
        ours = []
        for title in ("full scan", "rescan"):
            command = [sys.executable, "-c", LARGE, folder, index]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            total, count, folders, before, peak, load, head, seconds = json.loads(out)
            if not ours:
                print(f"\nlarge tree in {place}: {count:,} files, {folders:,} folders, {total:,} bytes")
            ours.append(total)
            print(
                f"{title:10} {seconds:.2f} s, peak {peak / 1e6:.0f} MB of memory ({before / 1e6:.0f} MB before); "
                f"load of the last result {head * 1000:.1f} ms, of the whole index {load * 1000:.1f} ms"
            )
        print(f"the index takes {sum(file.stat().st_size for file in Path(index).iterdir()):,} bytes")
        return set(ours) == {with_du(folder)}


def main() -> int:
    """Run it; 1 when totals differ."""
    parser = argparse.ArgumentParser(description="The scanner against du -s, gdu and os.walk.")
    parser.add_argument("--files", type=int, default=300_000, help="entries of the made tree")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, of which the median is shown")
    parser.add_argument("--million", type=int, default=0, metavar="N", help="also a tree of N files, for its memory")
    parser.add_argument("--large-tree-in", default="/dev/shm", metavar="DIR", help="where that is made for the time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder), options.files)
        time.sleep(3)  # a folder changed within two seconds before its scan is not trusted
        same = compare(f"made tree, seed 0, {options.files:,} entries", folder, options.rounds)
    same = compare("/usr", "/usr", options.rounds) and same
    if options.million:
        same = show_large(options.million, options.large_tree_in) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
