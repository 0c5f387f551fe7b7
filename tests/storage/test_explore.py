"""The explorer's actions on real trees: levels from a scan and from the index, largest files, file types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.context import Context, Progress
from services.errors import BadInput
from services.storage import actions, explore
from services.storage.types import Explored, Scan
from services.workspace import Workspace

CHECKOUT = Path(__file__).parents[2]


def du(path: Path) -> int:
    return int(subprocess.run(["du", "-s", "-x", "-B1", path], capture_output=True).stdout.split()[0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Models, a cache, logs, a hidden folder."""
    root = tmp_path / "tree"
    for name, size in {
        "models/a/model.safetensors": 900_000,
        "models/b/model.safetensors": 300_000,
        "models/b/config.json": 100,
        ".cache/wheels/torch.whl": 500_000,
        "logs/train.log": 50_000,
        "logs/old.log": 10_000,
        "notes.md": 3_000,
        "libx.so.1.2": 20_000,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    os.utime(root / "logs" / "old.log", (1e9, 1e9))
    for path in (root / ".cache" / "wheels" / "torch.whl", root / "notes.md"):
        os.utime(path, (1.5e9, 1.5e9))
    return root


def names(level: Explored) -> list[str]:
    return [row.name for row in level.rows[:-1]]


def adds_up(level: Explored, path: Path) -> None:
    assert level.total_bytes == du(path) == sum(row.bytes for row in level.rows)
    assert level.files == sum(row.files for row in level.rows)
    assert level.apparent_bytes == sum(row.apparent_bytes for row in level.rows)
    assert level.rows[-1].kind == "rest"
    assert sum(row.share for row in level.rows) == pytest.approx(1)


async def test_a_level_is_scanned_at_first_and_then_there_at_once(ctx: Context, tree: Path) -> None:
    first = await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    assert names(first) == ["models", ".cache", "logs", "libx.so.1.2", "notes.md"]
    assert first.complete and first.age == 0
    adds_up(first, tree)
    index = next((ctx.workspace.state / "storage" / "index").iterdir())
    os.utime(index, (time.time() - 500,) * 2)
    again = await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    assert 500 <= again.age < 520 and again.rows == first.rows
    below = await explore.explore(ctx, explore.ExploreParams(path=str(tree / "models")))
    assert names(below) == ["a", "b"] and 500 <= below.age < 520
    adds_up(below, tree / "models")
    assert len(list(index.parent.iterdir())) == 1


async def test_sorting_hiding_filtering_and_limits_keep_the_sum(ctx: Context, tree: Path) -> None:
    async def level(**options: object) -> Explored:
        found = await explore.explore(ctx, explore.ExploreParams(path=str(tree), **options))  # type: ignore[arg-type]
        adds_up(found, tree)
        return found

    assert names(await level(sort="name")) == [".cache", "libx.so.1.2", "logs", "models", "notes.md"]
    assert names(await level(sort="count"))[:2] == ["models", "logs"]
    assert names(await level(sort="age"))[:2] == [".cache", "notes.md"]
    assert names(await level(hidden=False)) == ["models", "logs", "libx.so.1.2", "notes.md"]
    assert names(await level(filter="MOD")) == ["models"]
    assert names(await level(limit=2)) == ["models", ".cache"]
    assert names(await level(filter="nothing")) == []


async def test_what_came_and_went_since_the_scan_is_seen_in_the_level(ctx: Context, tree: Path) -> None:
    await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    (tree / "notes.md").unlink()
    (tree / "logs" / "train.log").unlink()
    (tree / "new").mkdir()
    (tree / "new" / "big").write_bytes(b"x" * 2_000_000)
    (tree / "file").write_bytes(b"x" * 700_000)
    shown = await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    assert "notes.md" not in names(shown) and "file" in names(shown)
    assert not next(row for row in shown.rows if row.name == "new").finished and not shown.complete
    fresh = await explore.explore(ctx, explore.ExploreParams(path=str(tree), refresh=True))
    assert names(fresh)[0] == "new" and fresh.complete and fresh.age == 0
    adds_up(fresh, tree)
    assert fresh.reused_directories + fresh.read_directories == fresh.directories


async def test_a_file_with_several_names_counts_once_and_is_marked_at_the_others(ctx: Context, tree: Path) -> None:
    os.link(tree / "models" / "a" / "model.safetensors", tree / "zz")
    os.link(tree / "zz", tree / "zzz")
    level = await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    adds_up(level, tree)
    assert [row.counted_elsewhere for row in level.rows if row.name in ("zz", "zzz")] == [False, True]
    below = await explore.explore(ctx, explore.ExploreParams(path=str(tree / "models")))
    assert below.total_bytes == sum(row.bytes for row in below.rows) < 900_000


async def test_the_largest_files_and_folders_at_any_depth(ctx: Context, tree: Path) -> None:
    files = await explore.largest(ctx, explore.LargestParams(path=str(tree), limit=3))
    assert [row.name for row in files.rows] == [
        "models/a/model.safetensors", ".cache/wheels/torch.whl", "models/b/model.safetensors",
    ]  # fmt: skip
    assert files.rows[0].bytes == du(tree / "models" / "a" / "model.safetensors") and files.down_to_bytes == 0
    (tree / "models" / "a" / "model.safetensors").unlink()
    files = await explore.largest(ctx, explore.LargestParams(path=str(tree), limit=3))
    assert files.rows[0].name == ".cache/wheels/torch.whl"
    folders = await explore.largest(ctx, explore.LargestParams(path=str(tree), kind="folders", refresh=True))
    assert [row.name for row in folders.rows[:2]] == [".cache/wheels", "models/b"]


async def test_more_large_files_than_are_remembered_are_found_in_a_folder_below(ctx: Context, tree: Path) -> None:
    for number in range(230):
        (tree / "models" / f"m{number}").write_bytes(b"x" * 60_000)
    await actions.scan(ctx, actions.ScanParams(path=str(tree)))
    found = await explore.largest(ctx, explore.LargestParams(path=str(tree / "logs"), limit=5))
    assert [row.name for row in found.rows] == ["train.log", "old.log"]


async def test_types_of_files_by_their_endings(ctx: Context, tree: Path) -> None:
    (tree / "empty.").touch()
    (tree / ".bashrc").touch()
    (tree / "x.JSON").write_bytes(b"x")
    os.link(tree / "notes.md", tree / "other.md")
    found = await explore.types(ctx, explore.TypesParams(path=str(tree)))
    rows = {row.type: row for row in found.rows}
    assert list(rows)[:2] == [".safetensors", ".whl"]
    assert rows[".safetensors"].files == 2 and rows[".safetensors"].apparent_bytes == 1_200_000
    assert rows[".json"].files == 2 and rows[".so"].files == 1 and rows["none"].files == 2
    assert rows[".md"].files == 1  # once, by either name
    assert found.total_bytes + found.folder_bytes == du(tree)
    assert found.total_bytes == sum(row.bytes for row in found.rows)
    few = await explore.types(ctx, explore.TypesParams(path=str(tree), top=1))
    assert [row.type for row in few.rows] == [".safetensors", "other"] and few.total_bytes == found.total_bytes


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.py", ".py"), ("a.tar.gz", ".gz"), ("libc.so.6", ".so"), ("libstdc++.so.6.0.30", ".so"), ("README", "none"),
        (".profile", "none"), ("a.", "none"), ("x.SafeTensors", ".safetensors"), ("man.1", ".1"), ("a.b c", "none"),
    ],
)  # fmt: skip
def test_the_ending_of_a_name(name: str, ending: str) -> None:
    assert explore.ending(name) == ending


async def test_the_last_result_is_reported_first_with_its_age(ctx: Context, tree: Path) -> None:
    await actions.scan(ctx, actions.ScanParams(path=str(tree)))
    index = next((ctx.workspace.state / "storage" / "index").iterdir())
    os.utime(index, (time.time() - 60,) * 2)
    (tree / "more").write_bytes(b"x" * 100_000)
    reports: list[Progress] = []
    result = await actions.scan(Context(ctx.workspace, reports.append), actions.ScanParams(path=str(tree)))
    first = reports[0].partial
    assert isinstance(first, Scan) and 60 <= first.age < 70 and not first.complete
    assert first.folders[0].path == str(tree / "models") and result.age == 0
    assert result.total_bytes == du(tree) == first.total_bytes + 102_400


async def test_a_known_level_shows_the_last_rows_before_the_index_is_loaded(ctx: Context, tree: Path) -> None:
    await explore.explore(ctx, explore.ExploreParams(path=str(tree)))
    reports: list[Progress] = []
    level = await explore.explore(
        Context(ctx.workspace, reports.append), explore.ExploreParams(path=str(tree), sort="name")
    )
    (first,) = reports
    assert isinstance(first.partial, Explored) and not first.partial.complete and level.complete
    assert names(first.partial) == names(level) and first.partial.total_bytes == level.total_bytes
    below: list[Progress] = []
    await explore.explore(Context(ctx.workspace, below.append), explore.ExploreParams(path=str(tree / "models")))
    assert not below  # no scan of this very folder is kept


@pytest.mark.parametrize("options", [{"read_only": True}, {"dry_run": True}])
async def test_nothing_is_kept_when_nothing_may_be_written(
    workspace: Workspace, tree: Path, options: dict[str, bool]
) -> None:
    ctx = Context(workspace, **options)  # type: ignore[arg-type]
    assert (await explore.explore(ctx, explore.ExploreParams(path=str(tree)))).complete
    assert not (workspace.state / "storage").exists()


async def test_a_folder_that_nobody_made_a_workspace_stays_as_it_is(tmp_path: Path, tree: Path) -> None:
    from services.settings import Settings

    plain = tmp_path / "plain"
    plain.mkdir()
    assert (await actions.scan(Context(Workspace(plain, Settings())), actions.ScanParams(path=str(tree)))).complete
    assert list(plain.iterdir()) == []


async def test_a_damaged_index_is_a_problem_in_words_and_no_more(ctx: Context, tree: Path) -> None:
    await actions.scan(ctx, actions.ScanParams(path=str(tree)))
    index = next((ctx.workspace.state / "storage" / "index").iterdir())
    index.write_bytes(index.read_bytes()[:-9])
    result = await actions.scan(ctx, actions.ScanParams(path=str(tree)))
    assert result.total_bytes == du(tree) and len(result.problems) == 1 and "not used" in result.problems[0]
    assert (await actions.scan(ctx, actions.ScanParams(path=str(tree)))).problems == ()


@pytest.mark.parametrize("path", ["missing", "notes.md", "\0"])
@pytest.mark.parametrize("action", ["explore", "largest", "types"])
async def test_a_bad_path_is_met_with_one_sentence(ctx: Context, tree: Path, action: str, path: str) -> None:
    params = {"explore": explore.ExploreParams, "largest": explore.LargestParams, "types": explore.TypesParams}[action]
    with pytest.raises(BadInput) as caught:
        await getattr(explore, action)(ctx, params(path=str(tree / path)))
    assert str(caught.value).endswith(".")


def test_the_command_line(workspace: Workspace, tree: Path) -> None:
    def run(*words: str) -> dict[str, object]:
        command = [sys.executable, "-m", "hybrid_tui", "--run", *words, f"path={tree}", "--json"]
        out = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT,
                             env={**os.environ, "HYBRID_WORKSPACE": str(workspace.root)})  # fmt: skip
        assert out.returncode == 0, out.stderr
        found: dict[str, object] = json.loads(out.stdout)
        return found

    assert run("storage.explore", "sort=age", "limit=2")["total_bytes"] == du(tree)
    assert run("storage.largest", "kind=folders")["kind"] == "folders"
    assert run("storage.types")["complete"] is True
