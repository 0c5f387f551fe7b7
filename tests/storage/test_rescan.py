"""A rescan that takes over what did not change, against a full scan of the same tree; and the kept index."""

# ruff: noqa: PTH102, PTH104, PTH105, PTH108, PTH112, PTH113, PTH114, PTH116, PTH118, PTH123, PTH211
# pathlib can't hold names that are only bytes

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.storage import earlier
from services.storage.index import Index
from services.storage.reader import LARGE_BLOCKS, RECENT
from services.storage.scanner import Scanner
from services.storage.tree import Tree
from services.storage.types import Scan
from tests.storage.test_scanner import du, entries, names, plant

TICK = 0.02
"""Seconds after which this file system's clock has surely moved on (4 ms where it counts in jiffies)."""


def scan(path: str, before: Tree | None = None, top: int = 1000) -> tuple[Scan, Tree]:
    one = Scanner(path, top=top, before=None if before is None else (before, 0), settled=TICK)
    result = one.run()
    assert one.tree is not None
    return result, one.tree


def age_all(root: str | bytes, seconds: float = 10 * RECENT) -> None:
    """Let no file look as if it were being written, and the folders as if nobody had touched them just now."""
    for here, folders, files in os.walk(os.fsencode(root)):
        for name in files:
            path = os.path.join(here, name)
            if not os.path.islink(path):
                os.utime(path, (time.time() - seconds,) * 2)
        for name in folders:
            if not os.path.islink(os.path.join(here, name)):
                os.utime(os.path.join(here, name), (1e9, 1e9))
    os.utime(root, (1e9, 1e9))
    time.sleep(2 * TICK)


def same(ours: Scan, full: Scan) -> None:
    for field in ("total_bytes", "apparent_bytes", "files", "directories", "last_used", "folders", "largest"):
        assert getattr(ours, field) == getattr(full, field), field


def same_tree(ours: Tree, full: Tree) -> None:
    """The same folders with the same sums, row by row."""
    for column in ("names", "parent", "inode", "own", "files", "end", "all_blocks", "all_files", "all_apparent"):
        assert getattr(ours, column) == getattr(full, column), column


changes = st.lists(
    st.tuples(
        st.sampled_from(["file", "folder", "remove", "hard link", "move", "swap for link", "rewrite"]),
        names,
        st.integers(0, 30_000),
        st.integers(0, 1_000),
        st.integers(0, 1_000),
    ),
    max_size=12,
)


def change(root: bytes, plan: list[tuple[str, bytes, int, int, int]]) -> None:
    """Changes that touch a folder: names added, removed, renamed, or a file replaced as editors and tools do it."""
    for kind, name, size, where, target in plan:
        folders = [here for here, _, _ in os.walk(root)]
        everything = [os.path.join(h, n) for h, d, f in os.walk(root) for n in sorted(d + f)] or [root]
        files = [p for p in everything if os.path.isfile(p) and not os.path.islink(p)]
        aim = everything[target % len(everything)]
        path = os.path.join(folders[where % len(folders)], name)
        if kind == "remove" and aim != root:
            shutil.rmtree(aim) if os.path.isdir(aim) and not os.path.islink(aim) else os.unlink(aim)
        elif kind == "swap for link" and aim != root and os.path.isdir(aim) and not os.path.islink(aim):
            shutil.rmtree(aim)
            os.symlink(b"/usr", aim)
        elif kind == "rewrite" and files:
            path = files[target % len(files)]
            with open(path + b"~", "wb") as file:
                file.write(os.urandom(size))
            os.replace(path + b"~", path)
        elif os.path.lexists(path):
            continue
        elif kind == "file":
            with open(path, "wb") as file:
                file.write(os.urandom(size))
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "hard link" and files:
            os.link(files[target % len(files)], path)
        elif kind == "move" and aim != root and not path.startswith(aim + b"/"):
            os.rename(aim, path)


@settings(max_examples=60, deadline=None)
@given(span=st.sampled_from([1, 2, 4, earlier.SPAN]), plan=entries, first=changes, second=changes)
def test_a_rescan_after_changes_equals_a_full_scan(
    span: int,
    plan: list[tuple[str, bytes, int, int, int]],
    first: list[tuple[str, bytes, int, int, int]],
    second: list[tuple[str, bytes, int, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(earlier, "SPAN", span):
        root = os.path.join(os.fsencode(folder), b"root")
        os.mkdir(root)
        plant(root, plan)
        age_all(root)
        _, tree = scan(os.fsdecode(root))
        for changed in (first, second):
            change(root, changed)
            time.sleep(2 * TICK)
            ours, tree = scan(os.fsdecode(root), tree)
            full, full_tree = scan(os.fsdecode(root))
            same(ours, full)
            same_tree(tree, full_tree)
            assert ours.total_bytes == du(root)


def test_what_changed_deep_in_a_taken_over_run_is_found_and_named(tmp_path: Path) -> None:
    """Runs of neighbours are broken where a folder changed, however many rows they have."""
    rng = random.Random(5)
    folders = [tmp_path]
    for index in range(400):
        folders.append(rng.choice(folders[-40:]) / f"d{index}")
        folders[-1].mkdir()
        (folders[-1] / "f").write_bytes(b"x" * rng.randrange(9000))
    age_all(str(tmp_path))
    _, tree = scan(str(tmp_path))
    for span in (3, 20, 100, 1000):
        with mock.patch.object(earlier, "SPAN", span):
            changed = rng.sample(folders[1:], 5)
            for folder in changed:
                (folder / f"new{span}").write_bytes(b"x" * 5000)
            time.sleep(2 * TICK)
            ours, after = scan(str(tmp_path), tree)
        assert ours.read_directories == 6 and ours.reused_directories == 395
        full, full_tree = scan(str(tmp_path))
        same(ours, full)
        same_tree(after, full_tree)
        age_all(str(tmp_path))
        _, tree = scan(str(tmp_path), after)


def forest(root: Path, folders: int = 60, files: int = 5) -> None:
    for index in range(folders):
        here = root / f"g{index % 7}" / f"d{index}"
        here.mkdir(parents=True)
        for file in range(files):
            (here / f"f{file}").write_bytes(b"x" * 1000)


def test_an_unchanged_tree_is_taken_over_and_a_changed_folder_is_read(tmp_path: Path) -> None:
    forest(tmp_path)
    age_all(str(tmp_path))
    full, tree = scan(str(tmp_path))
    assert full.read_directories == full.directories == 68 and full.reused_directories == 0
    again, tree = scan(str(tmp_path), tree)
    assert (again.read_directories, again.reused_directories) == (1, 67)  # the folder itself is always read
    same(again, full)
    (tmp_path / "g3" / "d3" / "new").write_bytes(b"x" * 5000)
    time.sleep(2 * TICK)
    after, _ = scan(str(tmp_path), tree)
    assert (after.read_directories, after.reused_directories) == (2, 66)
    assert after.total_bytes == du(tmp_path) == full.total_bytes + 8192


def test_growth_in_place_is_seen_where_files_were_written_lately_or_are_large(tmp_path: Path) -> None:
    forest(tmp_path)
    log, dormant, model = tmp_path / "g1" / "d1" / "f0", tmp_path / "g2" / "d2" / "f0", tmp_path / "g3" / "d3" / "f0"
    with model.open("r+b") as file:
        file.write(b"x" * LARGE_BLOCKS * 512)
    age_all(str(tmp_path))
    os.utime(log, (time.time() - RECENT / 2,) * 2)
    _, tree = scan(str(tmp_path))
    for path in (log, model):
        with path.open("ab") as file:
            file.write(b"x" * 100_000)
    after, tree = scan(str(tmp_path), tree)
    assert after.total_bytes == du(tmp_path)
    assert after.read_directories == 3
    with dormant.open("ab") as file:  # what can't be seen without looking at each file
        file.write(b"x" * 100_000)
    missed, _ = scan(str(tmp_path), tree)
    assert missed.total_bytes < du(tmp_path)
    assert scan(str(tmp_path))[0].total_bytes == du(tmp_path)


def test_a_second_name_for_a_file_in_an_untouched_folder_is_no_second_file(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "blob").write_bytes(b"x" * 50_000)
    age_all(str(tmp_path))
    _, tree = scan(str(tmp_path))
    os.link(tmp_path / "b" / "blob", tmp_path / "c" / "same")
    time.sleep(2 * TICK)
    ours, tree = scan(str(tmp_path), tree)
    assert ours.total_bytes == du(tmp_path)
    os.unlink(tmp_path / "b" / "blob")
    assert scan(str(tmp_path), tree)[0].total_bytes == du(tmp_path)


def test_a_folder_changed_within_the_tick_in_which_it_was_read_is_read_again(tmp_path: Path) -> None:
    """Also when a change leaves no trace in its times, which a tool can only bring about for the mtime."""
    (tmp_path / "a").mkdir()
    _, tree = scan(str(tmp_path))
    (tmp_path / "a" / "file").write_bytes(b"x" * 10_000)
    assert scan(str(tmp_path), tree)[0].total_bytes == du(tmp_path)


def test_the_largest_files_survive_a_rescan(tmp_path: Path) -> None:
    rng = random.Random(0)
    for index in range(300):
        here = tmp_path / f"d{index % 30}"
        here.mkdir(exist_ok=True)
        (here / f"f{index}").write_bytes(b"x" * rng.randrange(1, 60_000))
    os.link(tmp_path / "d1" / "f1", tmp_path / "d2" / "f1")
    age_all(str(tmp_path))
    _, tree = scan(str(tmp_path))
    shutil.rmtree(tmp_path / "d5")
    (tmp_path / "d6" / "f-new").write_bytes(b"x" * 90_000)
    time.sleep(2 * TICK)
    _, ours = scan(str(tmp_path), tree)
    _, full = scan(str(tmp_path))
    assert ours.large[0].name == "f-new"
    for tree in (ours, full):
        sizes = [file.blocks for file in tree.large]
        assert sizes == sorted(sizes, reverse=True)
    floor = ours.large_blocks
    assert [f.blocks for f in ours.large if f.blocks > floor] == [f.blocks for f in full.large if f.blocks > floor]


# The index


def kept(tmp_path: Path) -> tuple[Index, Path, Scan, Tree]:
    root = tmp_path / "root"
    forest(root)
    (root / os.fsdecode(b"\xff odd\n")).mkdir()
    os.link(root / "g1" / "d1" / "f0", root / "g2" / "linked")
    age_all(str(root))
    result, tree = scan(str(root))
    index = Index(tmp_path / "index")
    index.save(result, tree)
    return index, root, result, tree


def test_a_kept_scan_comes_back_whole_with_its_age(tmp_path: Path) -> None:
    index, root, result, tree = kept(tmp_path)
    file = next(index.folder.iterdir())
    os.utime(file, (time.time() - 100,) * 2)
    found = index.load(str(root))
    assert found is not None and found.tree is not None
    assert 100 <= found.age < 110 and found.scan.age == found.age
    same(found.scan, result)
    same_tree(found.tree, tree)
    assert list(found.tree.link_inode) == list(tree.link_inode) and len(tree.link_inode) == 2
    assert [f.name for f in found.tree.large] == [f.name for f in tree.large]
    head = index.load(str(root), head_only=True)
    assert head is not None and head.tree is None
    assert index.load(str(tmp_path)) is None and not index.warnings
    again, _ = scan(str(root), found.tree)
    same(again, result)
    assert again.reused_directories > 60


def test_saving_what_is_there_already_only_notes_the_time(tmp_path: Path) -> None:
    index, root, _, tree = kept(tmp_path)
    file = next(index.folder.iterdir())
    os.utime(file, (1e9, 1e9))
    inode = file.stat().st_ino
    again, tree = scan(str(root), tree)
    index.save(again, tree)
    assert file.stat().st_ino == inode and file.stat().st_mtime > 1e9
    (root / "more").mkdir()
    index.save(*scan(str(root), tree))
    assert file.stat().st_ino != inode


def test_a_folder_is_found_in_the_scan_of_one_above_it(tmp_path: Path) -> None:
    index, root, _, _ = kept(tmp_path)
    found = index.covering(str(root / "g3" / "d3"))
    assert found is not None and found[0].tree is not None
    assert found[0].tree.path_of(found[1]) == str(root / "g3" / "d3")
    assert found[0].tree.all_blocks[found[1]] * 512 == du(root / "g3" / "d3")
    assert index.covering(str(root / "g3" / "none")) is None


def test_a_damaged_index_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    index, root, _, _ = kept(tmp_path)
    file = next(index.folder.iterdir())
    sound = file.read_bytes()
    rng = random.Random(1)
    damaged = [b"", b"x", sound[:10], sound[: len(sound) // 2], sound[:-1], sound + b"x", sound[::-1]]
    for _ in range(100):
        at = rng.randrange(len(sound))
        damaged.append(sound[:at] + bytes([sound[at] ^ (1 << rng.randrange(8))]) + sound[at + 1 :])
    for content in damaged:
        file.write_bytes(content)
        fresh = Index(index.folder)
        assert fresh.covering(str(root)) is None
        assert len(fresh.warnings) == 1 and "not used" in fresh.warnings[0]
    newer = sound[:7] + bytes([sound[7] + 1]) + sound[8:]
    file.write_bytes(newer)
    assert index.load(str(root)) is None and "another version" in index.warnings[-1]


def test_the_index_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.storage.index.MAX_FILES", 3)
    index = Index(tmp_path / "index")
    for number in range(6):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        index.save(*scan(str(folder)))
        file = max(index.folder.iterdir(), key=lambda file: file.stat().st_mtime)
        os.utime(file, (1e9 + number,) * 2)
    assert len(list(index.folder.iterdir())) == 3
    assert index.load(str(tmp_path / "d5")) is not None and index.load(str(tmp_path / "d0")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_mounts_that_come_and_go_are_noticed_by_a_rescan(tmp_path: Path) -> None:
    (tmp_path / "plain" / "below").mkdir(parents=True)
    (tmp_path / "plain" / "below" / "file").write_bytes(b"x" * 10_000)
    age_all(str(tmp_path))
    script = """
import subprocess, sys, time
from services.storage.scanner import Scanner
root, mounted = sys.argv[1], sys.argv[1] + "/plain/below"
def du(): return int(subprocess.run(["du", "-s", "-x", "-B1", root], capture_output=True).stdout.split()[0])
def scan(before=None):
    s = Scanner(root, before=before and (before, 0), settled=0.02); r = s.run(); assert r.total_bytes == du(), r
    return r, s.tree
first, tree = scan()
subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
second, tree = scan(tree)
assert second.other_mounts == (mounted,), second
subprocess.run(["umount", mounted], check=True)
third, tree = scan(tree)
assert third.total_bytes == first.total_bytes and not third.other_mounts
fourth, _ = scan(tree)
print(first.total_bytes > second.total_bytes, fourth.reused_directories)
"""
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", script, tmp_path],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"mounting is not allowed here: {result.stderr.strip()}")
    assert result.stdout.split() == ["True", "2"], result.stderr


def test_a_tree_on_tmpfs_counts_as_du_counts_it() -> None:
    place = Path("/dev/shm")
    if not place.is_dir() or os.stat(place).st_dev == os.stat("/").st_dev or not os.access(place, os.W_OK):
        pytest.skip("there is no tmpfs to write to")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        forest(Path(folder))
        os.link(Path(folder) / "g1" / "d1" / "f0", Path(folder) / "linked")
        age_all(folder)
        full, tree = scan(folder)
        assert full.total_bytes == du(Path(folder)) > 0
        (Path(folder) / "g1" / "d1" / "new").write_bytes(b"x" * 70_000)
        time.sleep(2 * TICK)
        after, _ = scan(folder, tree)
        assert after.total_bytes == du(Path(folder)) and after.reused_directories > 60


def test_constants_are_what_the_page_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "storage-scanning.md").read_text()
    assert f"{RECENT / 3600:.0f} hours" in text
    assert f"{LARGE_BLOCKS * 512 // 2**20} MiB" in text
