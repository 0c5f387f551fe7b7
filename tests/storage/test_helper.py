"""The process that reads along with a scan: the result must be what one process alone finds, whatever becomes of it."""

# ruff: noqa: PTH102, PTH118

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings

from services.storage import pool as pools
from services.storage.pool import Pool
from services.storage.scanner import Scanner
from services.storage.tree import LINKS, OWN, TOTALS, Tree
from services.storage.types import Scan
from tests.storage.test_scanner import du, entries, needs_root, plant


def helped(path: str, **options: object) -> tuple[Scan, Tree, int]:
    """A scan that has help from the start, its tree, and how many folders the helper read."""
    taken: list[int] = []

    class Counting(Scanner):
        def _take_in(self, piece, batch) -> None:  # type: ignore[no-untyped-def]
            super()._take_in(piece, batch)
            taken.append(batch.rows)

    scanner = Counting(path, top=1000, help_after=0, settled=0, **options)  # type: ignore[arg-type]
    result = scanner.run()
    assert scanner.tree is not None
    return result, scanner.tree, sum(taken)


def alone(path: str) -> tuple[Scan, Tree]:
    scanner = Scanner(path, top=1000, help_after=None, settled=0)
    result = scanner.run()
    assert scanner.tree is not None
    return result, scanner.tree


def assert_same(one: tuple[Scan, Tree], other: tuple[Scan, Tree]) -> None:
    """Row by row: order, names, sizes, times, links, and the largest files."""
    for name in ("total_bytes", "apparent_bytes", "files", "directories", "folders", "largest", "complete"):
        assert getattr(one[0], name) == getattr(other[0], name), name
    assert sorted(one[0].unreadable) == sorted(other[0].unreadable)
    assert sorted(one[0].other_mounts) == sorted(other[0].other_mounts)
    assert one[1].names == other[1].names
    for column in (*OWN, *TOTALS, *LINKS):
        assert getattr(one[1], column) == getattr(other[1], column), column
    assert one[1].large_blocks == other[1].large_blocks  # of files of just this size, any may be remembered
    large = [
        sorted((f.blocks, f.row, f.name, f.inode) for f in tree.large if f.blocks > tree.large_blocks)
        for _, tree in (one, other)
    ]
    assert large[0] == large[1]


def make(root: Path, folders: int, seed: int = 1) -> None:
    """A tree of one large subfolder and some small ones, with hard links through all of it."""
    rng = random.Random(seed)
    made = [root / "large"]
    made[0].mkdir()
    files: list[Path] = []
    for index in range(folders):
        parent = root if index % 40 == 0 else rng.choice(made[-60:])
        if len(parent.parts) > len(root.parts) + 10:
            parent = made[0]
        made.append(parent / f"d{index}")
        made[-1].mkdir()
        for number in range(3):
            path = made[-1] / f"f{number}"
            if files and rng.random() < 0.2:
                os.link(rng.choice(files), path)
            else:
                path.write_bytes(b"x" * rng.choice((0, 100, 5000, 20000)))
                files.append(path)


@settings(max_examples=25, deadline=None)
@given(plan=entries)
def test_random_trees_are_the_same_with_and_without_help(plan: list[tuple[str, bytes, int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(os.fsencode(folder), b"root")
        os.mkdir(root)
        plant(root, plan)
        result, tree, _ = helped(os.fsdecode(root))
        assert result.total_bytes == du(root)
        assert_same((result, tree), alone(os.fsdecode(root)))


@pytest.mark.parametrize("seed", range(3))
def test_a_large_tree_is_shared_and_comes_out_the_same(tmp_path: Path, seed: int) -> None:
    make(tmp_path, 1500, seed)
    result, tree, taken = helped(str(tmp_path))
    assert taken > 100  # it did read a share, the hard links among it
    assert result.total_bytes == du(tmp_path)
    assert_same((result, tree), alone(str(tmp_path)))
    again = Scanner(str(tmp_path), top=1000, before=(tree, 0), settled=0)
    (tmp_path / "large" / "new").write_bytes(b"x" * 30_000)
    assert again.run().total_bytes == du(tmp_path)


def test_one_single_chain_of_subfolders_is_shared_too(tmp_path: Path) -> None:
    make(tmp_path, 600)
    (tmp_path / "only").mkdir()
    for child in list(tmp_path.iterdir()):
        if child.name != "only":
            child.rename(tmp_path / "only" / child.name)
    result, tree, taken = helped(str(tmp_path))
    assert taken > 50 and result.total_bytes == du(tmp_path)
    assert_same((result, tree), alone(str(tmp_path)))


def test_a_hard_link_counts_once_whichever_process_meets_it(tmp_path: Path) -> None:
    for index in range(60):
        (tmp_path / f"d{index:02}").mkdir()
        if index:
            os.link(tmp_path / "d00" / "blob", tmp_path / f"d{index:02}" / "blob")
        else:
            (tmp_path / "d00" / "blob").write_bytes(os.urandom(1_000_000))
    result, _, taken = helped(str(tmp_path))
    assert 0 < taken < 60
    assert result.total_bytes == du(tmp_path) < 2_000_000
    assert [row.bytes > 1_000_000 for row in result.folders if row.path.endswith("d00")] == [True]


def test_sums_so_far_never_exceed_the_result_and_end_in_it(tmp_path: Path) -> None:
    make(tmp_path, 1000)
    parts: list[Scan] = []
    scanner = Scanner(str(tmp_path), on_partial=parts.append, help_after=0)
    scanner.clock = iter(range(10_000_000)).__next__
    final = scanner.run()
    totals = [part.total_bytes for part in parts]
    assert totals == sorted(totals) and totals[-1] <= final.total_bytes == du(tmp_path)
    last = scanner._so_far()  # the sums that rows on screen show, at the end
    assert (last.total_bytes, last.files) == (final.total_bytes, final.files)
    assert all(row.finished for row in last.folders[:-1])


@pytest.mark.parametrize(("when", "how"), [(1, signal.SIGKILL), (5, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_a_helper_that_dies_or_hangs_in_mid_scan_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int, how: signal.Signals
) -> None:
    monkeypatch.setattr(pools, "STALLED", 0.3)
    make(tmp_path, 1500)
    calls = []
    lend = Pool.lend

    def lend_and_kill(self: Pool, turns, gate: int) -> None:  # type: ignore[no-untyped-def]
        lend(self, turns, gate)
        if self.lent:
            calls.append(self.process)
            if len(calls) == when:
                assert self.process is not None
                os.kill(self.process, how)

    monkeypatch.setattr(Pool, "lend", lend_and_kill)
    result, tree, _ = helped(str(tmp_path))
    assert len(calls) >= when and not psutil.pid_exists(calls[0] or 0)
    assert result.total_bytes == du(tmp_path)
    assert_same((result, tree), alone(str(tmp_path)))


@pytest.mark.parametrize("spoil", ["bytes", "rows", "number"])
def test_a_helper_that_answers_nonsense_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    make(tmp_path, 800)
    code = {
        "bytes": "h.send = lambda out, m: (out.write(b'\\x05\\0\\0\\0nonse'), out.flush()) if m else old(out, m)",
        "rows": "h.send = lambda out, m: old(out, (*m[:4], m[4][:-1], *m[5:]) if len(m) > 4 else m)",
        "number": "h.send = lambda out, m: old(out, (m[0] + 99, *m[1:]) if m else m)",
    }[spoil]
    start = f"import sys; sys.path.append(sys.argv[1]); import services.storage.helper as h; old = h.send; {code}; "
    monkeypatch.setattr(pools, "_START", start + "h.main(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))")
    result, tree, taken = helped(str(tmp_path))
    assert taken == 0
    assert result.total_bytes == du(tmp_path)
    assert_same((result, tree), alone(str(tmp_path)))


def test_an_interpreter_that_cant_be_started_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 100)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    assert helped(str(tmp_path))[0].total_bytes == du(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert helped(str(tmp_path))[0].total_bytes == du(tmp_path)


def test_cancelling_leaves_no_process_and_no_descriptor_behind(tmp_path: Path) -> None:
    make(tmp_path, 1000)
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else set()  # noqa: PTH208
    stop = threading.Event()
    others = set(psutil.Process().children())  # of tests before this one
    seen: set[psutil.Process] = set()

    def on_partial(_: Scan) -> None:
        seen.update(set(psutil.Process().children()) - others)
        stop.set()

    scanner = Scanner(str(tmp_path), on_partial=on_partial, cancelled=stop, help_after=0)
    scanner.clock = iter(range(10_000_000)).__next__
    started = time.monotonic()
    stops_late = threading.Timer(5, stop.set)
    stops_late.start()
    result = scanner.run()
    stops_late.cancel()
    assert not result.complete and time.monotonic() - started < 2
    assert not any(child.is_running() for child in seen)
    assert set(psutil.Process().children()) <= others
    if before:
        assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_helper_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, os, time; from services.storage.pool import Pool\n"
        "pool = Pool(os.open(sys.argv[1], os.O_RDONLY), 0.0, 0.0, wait=True)\n"
        "print(pool.process, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    assert psutil.pid_exists(helper)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    while psutil.pid_exists(helper) and psutil.Process(helper).status() != "zombie":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_small_and_repeated_scans_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 50)
    monkeypatch.setattr(Pool, "_start", lambda *_: pytest.fail("a process was started"))
    first = Scanner(str(tmp_path), help_after=5)
    first.run()
    assert first.tree is not None
    Scanner(str(tmp_path), before=(first.tree, 0), help_after=0).run()
    Scanner(str(tmp_path), cross_mounts=True, help_after=0).run()
    Scanner(str(tmp_path), on_file=lambda *_: None, help_after=0).run()


@needs_root
def test_closed_folders_and_mounts_that_the_helper_meets_are_reported(tmp_path: Path) -> None:
    """As a root who may not read everything, with file systems mounted here and there."""
    for index in range(40):
        for name in ("a", "closed", "listed/sub", "mounted"):
            (tmp_path / f"d{index:02}" / name).mkdir(parents=True)
        (tmp_path / f"d{index:02}" / "a" / "file").write_bytes(b"x" * 5000)
    tmp_path.chmod(0o755)
    script = """
        set -e
        for d in "$0"/d*; do mount -t tmpfs none "$d/mounted"; chmod 000 "$d/closed"; chmod 444 "$d/listed"; done
        cd "$0"
        exec setpriv --bounding-set=-dac_override,-dac_read_search "$1" -c '
from pathlib import Path
from tests.storage.test_helper import alone, assert_same, du, helped
result, tree, taken = helped(".")
assert_same((result, tree), alone("."))
print(taken, result.unreadable_count, len(result.other_mounts), result.total_bytes == du(Path("."), "-x"))
print(*result.unreadable[:1], *result.other_mounts[:1])'
    """
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, tmp_path, sys.executable],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": os.getcwd()},  # noqa: PTH109
    )  # fmt: skip
    if "unshare:" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"mounting is not allowed here: {result.stderr.strip()}")
    taken, unreadable, mounts, same, *names = result.stdout.split()
    assert int(taken) > 20
    assert (unreadable, mounts, same) == ("80", "40", "True")
    assert names[0].endswith(("closed", "listed")) and names[1].endswith("mounted")
