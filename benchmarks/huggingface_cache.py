"""Our listing of a Hugging Face cache against ``huggingface_hub.scan_cache_dir``, in one run.

``python -m benchmarks.huggingface_cache [--repos N] [--revisions N] [--files N] [--changed SHARE] [--rounds N]``

The cache is made from a seed: each revision has its own links, and changes a fifth of its files (``--changed``). It is
read once before anything is timed; then the two take turns. "hub scan" is our reading of the cache; "storage.items"
is the whole listing as the panel calls it, with items, what each would free, and results so far. The sizes of every
repository and revision must be the same, and the total what du counts, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from services import workspace as workspaces
from services.storage.kinds import listing
from services.storage.kinds.hub_layout import repo_name
from services.storage.kinds.hub_scan import scan_repo
from services.storage.reclaim import KindItems

Sizes = dict[str, tuple[int, dict[str, int]]]


def make_cache(hub: Path, repos: int, revisions: int, files: int, changed: float, seed: int = 0) -> None:
    """Fill ``hub``: the same for the same seed. The newest revision has a ref; ``changed`` of its files are new."""
    rng = random.Random(seed)
    for number in range(repos):
        repo = hub / f"models--org{number % 7}--model{number}"
        (repo / "blobs").mkdir(parents=True)
        (repo / "refs").mkdir()
        last: list[str] = []
        for _ in range(revisions):
            commit = hashlib.sha1(rng.randbytes(8)).hexdigest()
            snapshot = repo / "snapshots" / commit
            (snapshot / "onnx").mkdir(parents=True)
            blobs = rng.sample(last, round(len(last) * (1 - changed)))
            while len(blobs) < files:
                blob = hashlib.sha256(rng.randbytes(8)).hexdigest()
                (repo / "blobs" / blob).write_bytes(b"x" * rng.choice((10, 500, 3000)))
                blobs.append(blob)
            for index, blob in enumerate(blobs):
                deep = index % 5 == 0
                link = snapshot / "onnx" / f"file{index}" if deep else snapshot / f"file{index}"
                link.symlink_to(f"{'../' * (3 if deep else 2)}blobs/{blob}")
            last = blobs
        (repo / "refs" / "main").write_text(commit)


def with_hub(hub: str) -> Sizes:
    """The owner's own scan."""
    from huggingface_hub import scan_cache_dir

    return {
        f"{repo.repo_type}/{repo.repo_id}": (
            repo.size_on_disk,
            {revision.commit_hash: revision.size_on_disk for revision in repo.revisions},
        )
        for repo in scan_cache_dir(hub).repos
    }


def with_ours(hub: str) -> Sizes:
    """Our scan of the same."""
    found = {}
    for folder in os.listdir(hub):  # noqa: PTH208  (what is timed)
        repo = scan_repo(f"{hub}/{folder}", repo_name(folder))
        found[repo.name] = (repo.size, {commit: revision.size for commit, revision in repo.revisions.items()})
    return found


def with_listing(hub: str) -> tuple[float, float, KindItems]:
    """Seconds until the first sizes, seconds in all, and the kind as listed."""
    os.environ["HF_HUB_CACHE"] = hub
    started = time.perf_counter()
    first: list[float] = []

    def partial(kinds: tuple[KindItems, ...]) -> None:
        if not first and kinds[0].bytes:
            first.append(time.perf_counter() - started)

    workspace = workspaces.open_workspace(Path(hub).parent / "work")
    kind = listing.list_kinds(workspace, ("huggingface",), stop=threading.Event(), on_partial=partial)[0]
    total = time.perf_counter() - started
    return (first or [total])[0], total, kind


def with_du(hub: str) -> int:
    """What GNU du counts."""
    return int(subprocess.run(["du", "-s", "-B1", hub], capture_output=True, text=True).stdout.split()[0])


def measure(method: Callable[[str], Sizes], hub: str) -> tuple[float, float, Sizes]:
    """Seconds by the clock, seconds of processor, and the sizes found."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    sizes = method(hub)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, sizes


def main() -> int:
    """Run it; 1 when sizes differ."""
    parser = argparse.ArgumentParser(description="A Hugging Face cache listed by us and by huggingface_hub.")
    for name, default in (("repos", 200), ("revisions", 5), ("files", 50), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--changed", type=float, default=0.2, help="share of files that a revision changes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hub = f"{folder}/hub"
        (Path(folder) / "work").mkdir()
        make_cache(Path(hub), options.repos, options.revisions, options.files, options.changed)
        same = with_ours(hub) == with_hub(hub)
        runs: dict[str, list[tuple[float, float]]] = {"scan_cache_dir": [], "hub scan": [], "storage.items": []}
        firsts = []
        for _ in range(options.rounds):
            for name, method in (("scan_cache_dir", with_hub), ("hub scan", with_ours)):
                clock, cpu, sizes = measure(method, hub)
                runs[name].append((clock, cpu))
                same = same and sizes == with_ours(hub)
            before = time.process_time()
            first, total, kind = with_listing(hub)
            firsts.append(first)
            runs["storage.items"].append((total, time.process_time() - before))
        print(
            f"{options.repos} repositories × {options.revisions} revisions × {options.files} files, "
            f"{options.changed:.0%} of them new in each, seed 0"
        )
        print(f"{'':16}{'clock s':>10}{'times':>8}{'cpu s':>10}{'times':>8}")
        medians = {name: [statistics.median(run[i] for run in all_) for i in (0, 1)] for name, all_ in runs.items()}
        clock, cpu = medians["scan_cache_dir"]
        for name, (own_clock, own_cpu) in medians.items():
            print(f"{name:16}{own_clock:10.3f}{clock / own_clock:8.1f}{own_cpu:10.3f}{cpu / own_cpu:8.1f}")
        same = same and bool(kind.bytes) and kind.bytes == with_du(hub)
        print(f"first sizes after {statistics.median(firsts):.3f} s; {len(kind.items)} items")
        print(
            f"sizes of every repository and revision, and the total as du counts it: {'same' if same else 'DIFFERENT'}"
        )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
