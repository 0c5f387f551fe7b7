"""What a plan shows, and what it holds back."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.storage.cleaning.plan import Source
from services.storage.cleaning.records import StoredPlan
from services.workspace import Workspace
from tests.storage.cleaning.beds import item, keep, plan_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in an own home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".cache" / "tool"
    folder.mkdir(parents=True)
    return folder


def fill(folder: Path, *sizes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        (folder / f"file{number}").write_bytes(b"x" * size)
    return folder


def du(*paths: Path) -> int:
    table = subprocess.run(["du", "-sc", "-B1", *paths], capture_output=True, text=True, check=True).stdout
    return int(table.splitlines()[-1].split()[0])


def reason(stored: StoredPlan) -> str:
    assert not stored.targets
    (held,) = stored.plan.held
    return held.reason


def test_bytes_are_those_of_du_and_a_link_from_outside_frees_nothing(workspace: Workspace, cache: Path) -> None:
    a, b = fill(cache / "a", 5000, 100_000), fill(cache / "b", 70_000)
    os.link(a / "file1", b / "same")
    os.link(b / "file0", cache / "outside")
    plan = plan_of(workspace, [a, b], cache).plan
    assert plan.moves_bytes == du(a, b) == sum(line.bytes for line in plan.lines)
    assert plan.freed_bytes == plan.moves_bytes - (b / "file0").stat().st_blocks * 512
    assert plan.files == 4
    assert plan_of(workspace, [a], cache).plan.freed_bytes == du(a) - (a / "file1").stat().st_blocks * 512


def test_what_lies_in_another_chosen_path_counts_once(workspace: Workspace, cache: Path) -> None:
    inner = fill(cache / "a" / "inner", 9000)
    plan = plan_of(workspace, [inner, cache / "a"], cache).plan
    assert [line.paths for line in plan.lines] == [(str(cache / "a"),)]
    assert plan.moves_bytes == du(cache / "a")


def test_places_that_never_go(workspace: Workspace, cache: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for path, words in (
        (home, "your home folder"), (tmp_path, "your home folder"), (Path("/"), "your home folder"),
        (workspace.root, "the workspace"), (workspace.state, "a workspace's state"),
        (workspace.state / "trash", "belongs to the trash"), (workspace.state / "cleaning" / "plans", "the trash"),
    ):  # fmt: skip
        stored = keep(workspace, [Source(item("x", path), (str(path),))])
        assert words in reason(stored), path


def test_a_root_itself_or_a_path_outside_is_not_for_marking(workspace: Workspace, cache: Path) -> None:
    assert "a whole place" in reason(plan_of(workspace, [cache], cache))
    assert "outside the places" in reason(plan_of(workspace, [Path("/usr/lib")], cache))
    assert "outside the places" in reason(plan_of(workspace, [cache / ".." / "other"], cache))
    outside = keep(workspace, [Source(item("x", Path("/usr/lib")), (str(cache),))])
    assert "outside the places" in reason(outside)
    fill(cache, 10)
    assert keep(workspace, [Source(item("x", cache), (str(cache),))]).targets, "an item may be its kind's whole place"


def test_a_link_on_the_way_is_not_followed_but_one_above_the_root_is(
    workspace: Workspace, cache: Path, tmp_path: Path
) -> None:
    real = fill(tmp_path / "disk" / "real", 10)
    (cache / "link").symlink_to(real.parent)
    assert "symbolic link" in reason(plan_of(workspace, [cache / "link" / "real"], cache))
    moved = tmp_path / "home" / "moved"
    moved.symlink_to(real.parent)
    stored = plan_of(workspace, [moved / "real"], moved)
    assert stored.targets[0].text() == str(real)
    link = plan_of(workspace, [cache / "link"], cache)
    assert link.plan.files == 1, "a link that is marked goes itself"


def git(folder: Path, *words: str) -> None:
    options = ["-c", "user.email=a@b", "-c", "user.name=n"]
    subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True)


def test_what_git_tracks_stays_and_what_it_ignores_may_go(workspace: Workspace, cache: Path) -> None:
    repository = fill(cache / "repository", 10)
    git(repository, "init")
    kept, junk = fill(repository / "src", 10), fill(repository / "__pycache__", 10)
    git(repository, "add", "src", "file0")
    assert "Git tracks files in it, such as src/file0" in reason(plan_of(workspace, [kept], cache))
    assert reason(plan_of(workspace, [kept / "file0"], cache)) == "Git tracks it."
    assert "git repository" in reason(plan_of(workspace, [repository], cache))
    assert "git repository" in reason(plan_of(workspace, [repository / ".git" / "objects"], cache))
    assert plan_of(workspace, [junk], cache).targets
    assert keep(workspace, [Source(item("checkout", cache / "repository" / "junk"), (str(cache),))]).plan.files == 0


def test_a_workspace_in_it_an_exclude_and_an_unreadable_path(workspace: Workspace, cache: Path) -> None:
    deep = fill(cache / "a" / "b", 10)
    (deep / "hybrid.toml").touch()
    assert reason(plan_of(workspace, [cache / "a"], cache)) == "It holds a workspace: b."
    (deep / "hybrid.toml").rename(deep / "model.gguf")
    assert "excluded: b/model.gguf" in reason(plan_of(workspace, [cache / "a"], cache, excludes=("*.gguf",)))
    assert "excluded: b/model" in reason(plan_of(workspace, [cache / "a"], cache, excludes=("~/.cache/*/b/model*",)))
    assert plan_of(workspace, [cache / "a"], cache, excludes=("*.bin",)).targets
    assert "nothing any more" in reason(plan_of(workspace, [cache / "gone"], cache))


@pytest.mark.parametrize("how", ["open", "mapped", "cwd"])
def test_what_a_process_uses_is_held_whole(workspace: Workspace, cache: Path, how: str) -> None:
    folder = fill(cache / "a" / "b", 5000)
    hold = {
        "open": "f = open('file0')",
        "mapped": "import mmap; f = open('file0', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
        "cwd": "pass",
    }[how]
    stand = "pass" if how == "cwd" else "os.chdir('/')"
    script = f"import os\nos.chdir({str(folder)!r})\n{hold}\n{stand}\nprint(1, flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            words = reason(plan_of(workspace, [cache / "a"], cache))
        finally:
            process.kill()
    assert f"({process.pid})" in words and "in use by" in words
    assert plan_of(workspace, [cache / "a"], cache).targets


def test_our_own_open_files_count_too(workspace: Workspace, cache: Path) -> None:
    path = fill(cache / "a", 5000) / "file0"
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert "in use" in reason(plan_of(workspace, [cache / "a"], cache))
    memory.close()


def test_an_item_goes_whole_or_not_at_all(workspace: Workspace, cache: Path) -> None:
    one, other = fill(cache / "one", 10), fill(cache / "other", 10)
    (other / "hybrid.toml").touch()
    assert "workspace" in reason(keep(workspace, [Source(item("both", one, other), (str(cache),))]))
