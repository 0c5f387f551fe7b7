"""The storage actions as ``--run`` and the panel call them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.context import Context, Progress
from services.errors import BadInput
from services.settings import Disk, Settings
from services.storage import actions
from services.storage.types import Cache, Caches, Scan
from services.workspace import Workspace

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder, and none of the variables that move a cache."""
    for variable in (
        "PIP_CACHE_DIR", "PIP_CONFIG_FILE", "UV_CACHE_DIR", "UV_CONFIG_FILE", "HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE",
        "HUGGINGFACE_HUB_CACHE", "TORCH_HOME", "npm_config_cache", "npm_config_userconfig", "NPM_CONFIG_CACHE",
        "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    ):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))  # torch.compile's cache lies there
    yield folder


def du(path: Path) -> int:
    return int(subprocess.run(["du", "-s", "-B1", path], capture_output=True, text=True, check=True).stdout.split()[0])


def df(path: Path) -> tuple[int, ...]:
    command = ["df", "-B1", "--output=size,used,avail", path]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, table.splitlines()[1].split()))


def cache(result: Caches, kind: str) -> Cache:
    return next(c for c in result.caches if c.kind == kind)


def fill(folder: Path, size: int) -> None:
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(b"x" * size)


async def test_the_workspace_is_scanned_when_no_path_is_named(ctx: Context) -> None:
    (ctx.workspace.root / "data.bin").write_bytes(b"x" * 100_000)
    expected = du(ctx.workspace.root)  # before the scan is kept there
    result = await actions.scan(ctx, actions.ScanParams())
    assert result.path == str(ctx.workspace.root)
    assert result.complete and result.total_bytes == expected
    assert result.folders[0].path == str(ctx.workspace.root / "data.bin")


async def test_a_folder_is_found_from_home_and_through_a_link(ctx: Context, home: Path) -> None:
    fill(home / "real", 50_000)
    (home / "link").symlink_to("real")
    for path in ("~/real", "~/link", str(home / "real" / "..") + "/real"):
        result = await actions.scan(ctx, actions.ScanParams(path=path))
        assert result.path == str(home / "real") and result.total_bytes == du(home / "real")


@pytest.mark.parametrize("path", ["missing", "file", "file/below", "\0"])
async def test_a_bad_path_is_met_with_one_sentence(ctx: Context, path: str) -> None:
    (ctx.workspace.root / "file").touch()
    with pytest.raises(BadInput) as caught:
        await actions.scan(ctx, actions.ScanParams(path=str(ctx.workspace.root / path)))
    assert str(caught.value).endswith(".") and str(caught.value).count("\n") == 0


async def test_results_so_far_arrive_in_the_loops_thread(ctx: Context) -> None:
    here = threading.get_ident()
    reports: list[tuple[int, Progress]] = []
    reported = asyncio.Event()

    def report(progress: Progress) -> None:
        reports.append((threading.get_ident(), progress))
        reported.set()

    task = asyncio.create_task(actions.scan(Context(ctx.workspace, report=report), actions.ScanParams(path="/usr")))
    task.add_done_callback(lambda _: reported.set())
    await asyncio.wait_for(reported.wait(), 30)
    if not reports:
        pytest.skip("this machine reads /usr too fast to see results so far")
    thread, progress = reports[0]
    assert thread == here
    assert isinstance(progress.partial, Scan) and not progress.partial.complete
    assert progress.done == progress.partial.total_bytes > 0
    before = threading.active_count()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 5)  # its thread ends soon too
    assert threading.active_count() < before


async def test_disk_usage_agrees_with_df_and_names_broken_budgets(workspace: Workspace) -> None:
    size, used, free = df(workspace.root)

    async def usage(**budgets: float) -> tuple[int, int, int, tuple[str, ...]]:
        settings = Settings(disk=Disk(**budgets))
        it = await actions.usage(Context(Workspace(workspace.root, settings)), actions.UsageParams())
        return it.total_bytes, it.used_bytes, it.free_bytes, it.problems

    total, ours, ours_free, problems = await usage(budget_gb=used / 1e9 * 2, min_free_gb=free / 1e9 / 2)
    assert total == size and problems == ()
    assert abs(ours - used) < 0.02 * size and abs(ours_free - free) < 0.02 * size  # others write meanwhile
    *_, problems = await usage(budget_gb=used / 1e9 / 2, min_free_gb=free / 1e9 * 2)
    assert len(problems) == 2
    assert "more than the budget" in problems[0] and "must stay free" in problems[1]


async def test_usage_of_a_missing_path_is_bad_input(ctx: Context) -> None:
    with pytest.raises(BadInput, match="no disk"):
        await actions.usage(ctx, actions.UsageParams(path="/no/such/place"))


async def test_caches_are_measured_as_du_does_largest_first(ctx: Context, home: Path) -> None:
    fill(home / ".cache" / "pip", 100_000)
    fill(home / ".cache" / "huggingface" / "hub" / "models--a--b", 500_000)
    fill(home / ".npm", 10_000)
    reports: list[Progress] = []
    result = await actions.caches(Context(ctx.workspace, report=reports.append), actions.CachesParams())
    assert [c.kind for c in result.caches[:3]] == ["huggingface", "pip", "npm"]
    assert {c.kind for c in result.caches} >= {"pip", "uv", "huggingface", "torch", "npm"}
    assert result.complete and result.problems == ()
    assert cache(result, "pip").bytes == du(home / ".cache" / "pip")
    assert cache(result, "pip").files == 1 and cache(result, "pip").last_used
    assert not cache(result, "uv").exists and cache(result, "uv").bytes == 0
    assert result.total_bytes == sum(du(home / p) for p in (".cache/pip", ".cache/huggingface/hub", ".npm"))
    assert all(c.restore.endswith(".") for c in result.caches)
    parts = [report.partial for report in reports]
    assert parts and all(isinstance(part, Caches) and not part.complete for part in parts)
    assert cache(parts[0], "pip").exists and cache(parts[0], "pip").bytes is None


async def test_caches_over_their_budget_are_a_problem_in_words(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache" / "uv", 2_000_000)
    small = Workspace(workspace.root, Settings(disk=Disk(caches_gb=0.001)))
    result = await actions.caches(Context(small), actions.CachesParams())
    assert result.budget_bytes == 1_000_000
    assert len(result.problems) == 1 and "1.0 MB more than their budget" in result.problems[0]


async def test_a_cache_inside_another_counts_once(ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home / "all" / "hub", 100_000)
    fill(home / "all" / "pip", 50_000)
    monkeypatch.setenv("UV_CACHE_DIR", str(home / "all"))
    monkeypatch.setenv("PIP_CACHE_DIR", str(home / "all" / "pip"))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "all" / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(home / "all"))
    result = await actions.caches(ctx, actions.CachesParams())
    assert cache(result, "huggingface").bytes == du(home / "all" / "hub")
    assert cache(result, "pip").bytes == du(home / "all" / "pip")
    assert not cache(result, "torch").bytes  # the same folder as the hub's, which has it already
    assert cache(result, "uv").bytes == du(home / "all") - du(home / "all" / "hub") - du(home / "all" / "pip")
    assert result.total_bytes == du(home / "all")


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, services.storage.actions; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout
    assert not {"textual", "rich", "torch", "psutil", "concurrent.futures.process"} & set(out.split())


def test_the_command_line_gives_the_bytes_that_du_gives(tmp_path: Path) -> None:
    fill(tmp_path / "tree" / "a", 123_456)
    (tmp_path / "tree" / "b").symlink_to("/")
    out = subprocess.run(
        [sys.executable, "-m", "hybrid_tui", "--run", "storage.scan", f"path={tmp_path / 'tree'}", "--json"],
        capture_output=True, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["total_bytes"] == du(tmp_path / "tree")


def test_params_reject_what_makes_no_sense() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"top": -1}, actions.ScanParams)
