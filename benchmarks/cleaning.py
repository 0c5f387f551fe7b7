"""Deleting 50,000 files against ``rm -rf``, in one run: ``python -m benchmarks.cleaning [--in DIR] [--rounds N]``.

Each round makes one tree a method, all alike, and writes them to the disk before anything is timed; the methods take
turns, each round in another order. What is timed of ours is all that a yes starts: reading the kept plan, the guards,
the journal, the renames, looking at every file, and deleting it (or not: "to the trash"). Planning, which comes before
the yes, is printed by itself. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from services import workspace as workspaces
from services.storage.cleaning.guards import Guards
from services.storage.cleaning.plan import Planner, marked
from services.storage.cleaning.store import Store
from services.storage.cleaning.work import Cleaner
from services.workspace import Workspace

METHODS = ("rm -rf", "free now", "to the trash")


def make_tree(root: Path, files: int) -> None:
    """``files`` files of 1 or 9 kB, fifty a folder, with a hard link and a symbolic link in every tenth folder."""
    for number in range(files // 50):
        folder = root / f"part{number // 20}" / f"folder{number}"
        folder.mkdir(parents=True)
        for index in range(50):
            path = folder / f"file{index}"
            if number % 10 == 0 and index == 48:
                os.link(folder / "file0", path)
            elif number % 10 == 0 and index == 49:
                path.symlink_to("file1")
            else:
                path.write_bytes(b"x" * (9000 if index % 5 == 0 else 1000))


def planned(workspace: Workspace, store: Store, tree: Path) -> str:
    """A kept plan for the whole tree; its id."""
    planner = Planner(Guards(workspace), (), threading.Event(), lambda _: None)
    stored = planner.plan([marked(str(tree), (str(workspace.root),))], "benchmark")
    if not stored.targets:
        raise SystemExit(f"nothing to plan: {stored.plan.held}")
    store.keep_plan(stored)
    return stored.plan.id


def execute(store: Store, plan: str, *, now: bool) -> None:
    """What a yes starts."""
    with store.lock():
        done = Cleaner(store).execute(store.plan(plan), now=now)
    if done.held:
        raise SystemExit(f"held back: {done.held[:3]}")


def measure(method: str, workspace: Workspace, store: Store, tree: Path, plan: str) -> float:
    """Seconds by the clock; the tree must be gone afterwards."""
    started = time.perf_counter()
    if method == "rm -rf":
        subprocess.run(["rm", "-rf", tree], check=True)
    else:
        execute(store, plan, now=method == "free now")
    seconds = time.perf_counter() - started
    if tree.exists():
        raise SystemExit(f"{method} left {tree}")
    return seconds


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in", dest="place", default=None, help="a folder on the disk that is meant")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="cleaning-", dir=args.place))
    try:
        _run(home, args.files, args.rounds)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


def _run(home: Path, files: int, rounds: int) -> None:
    workspace = workspaces.init(home / "work")
    store = Store(workspace)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    planning: list[float] = []
    order = list(METHODS)
    for number in range(rounds):
        order.append(order.pop(0))
        trees = {name: workspace.root / f"tree-{number}-{index}" for index, name in enumerate(order)}
        for tree in trees.values():
            make_tree(tree, files)
        plans: dict[str, str] = {}
        for name in METHODS[1:]:
            started = time.perf_counter()
            plans[name] = planned(workspace, store, trees[name])
            planning.append(time.perf_counter() - started)
        for name in order:
            os.sync()
            seconds[name].append(measure(name, workspace, store, trees[name], plans.get(name, "")))
        for place in store.trash.iterdir():
            shutil.rmtree(place)
    base = statistics.median(seconds["rm -rf"])
    print(f"{files:,} files, {rounds} rounds, on {home.parent}")
    print(f"{'':14}{'median s':>10}{'min s':>10}{'max s':>10}{'/ rm -rf':>10}")
    for name, runs in seconds.items():
        median = statistics.median(runs)
        print(f"{name:14}{median:10.3f}{min(runs):10.3f}{max(runs):10.3f}{median / base:10.2f}")
    print(f"{'(planning)':14}{statistics.median(planning):10.3f}{min(planning):10.3f}{max(planning):10.3f}")


if __name__ == "__main__":
    sys.exit(main())
