"""``storage.items`` as ``--run`` and the panel call it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.context import Context, Progress
from services.errors import BadInput
from services.settings import Cleaning, Disk, Settings
from services.storage import actions
from services.storage.reclaim import Reclaimable
from services.workspace import Workspace
from tests.storage.kinds.conftest import du, fill
from tests.storage.kinds.hub_cache import Cache

CHECKOUT = Path(__file__).parents[3]


async def test_kinds_come_largest_first_with_their_sum_against_the_budget(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache/pip/wheels/w.whl", 2_000_000)
    fill(home / ".npm/_cacache/x", 50_000)
    fill(home / ".local/share/Trash/files/film", 9_000_000)
    small = Workspace(workspace.root, Settings(disk=Disk(caches_gb=0.001)))
    result = await actions.items(Context(small), actions.ItemsParams(kinds=("npm", "pip", "trash")))
    assert [kind.kind for kind in result.kinds] == ["trash", "pip", "npm"] and result.complete
    assert result.cache_bytes == du(home / ".cache/pip", home / ".npm")  # the trash has no part in the caches' budget
    assert "more than their budget" in result.problems[0]


async def test_the_first_sizes_of_a_large_cache_come_at_once(workspace: Workspace, home: Path) -> None:
    cache = Cache(home / ".cache/huggingface/hub")
    for number in range(120):
        cache.revision(f"m{number}", 1, {f"f{index}": f"b{index}" for index in range(20)}, refs=("main",))
    started = time.perf_counter()
    reports: list[tuple[float, Progress]] = []
    ctx = Context(workspace, report=lambda progress: reports.append((time.perf_counter() - started, progress)))
    result = await actions.items(ctx, actions.ItemsParams(kinds=("huggingface",)))
    total = time.perf_counter() - started
    partial = reports[0][1].partial
    assert isinstance(partial, Reclaimable) and partial.kinds[0].bytes is None and not partial.complete
    sized = [at for at, progress in reports if progress.partial.kinds[0].bytes]
    if total > 0.2:  # else the whole answer is there before any part of it would be
        assert sized and sized[0] < 0.15 and reports[-1][1].partial.kinds[0].items
    assert result.kinds[0].bytes == du(cache.hub)


async def test_cancelling_ends_the_thread(workspace: Workspace, home: Path) -> None:
    for number in range(300):
        fill(home / f".cache/pip/wheels/{number}/x")
    begun: asyncio.Event = asyncio.Event()
    ctx = Context(workspace, report=lambda _: begun.set())
    task = asyncio.create_task(actions.items(ctx, actions.ItemsParams()))
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 5)


async def test_what_the_settings_keep_is_not_suggested(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache/pip/wheels/x")
    fill(home / ".cache/pip/http-v2/x")
    kept = Workspace(workspace.root, Settings(cleaning=Cleaning(keep=("pip:wh*",))))
    result = await actions.items(Context(kept), actions.ItemsParams(kinds=("pip",)))
    assert {item.id: item.suggested for item in result.kinds[0].items} == {"pip:http-v2": True, "pip:wheels": False}


async def test_a_wrong_kind_is_bad_input(ctx: Context) -> None:
    with pytest.raises(BadInput, match="did you mean 'pip'"):
        await actions.items(ctx, actions.ItemsParams(kinds=("pipp",)))


def test_the_command_line_lists_items(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache/pip/wheels/w.whl")
    words = [
        sys.executable,
        "-m",
        "hybrid_tui",
        "--workspace",
        str(workspace.root),
        "--run",
        "storage.items",
        "kinds=pip,uv",
    ]
    out = subprocess.run([*words, "--json", "--read-only"], capture_output=True, text=True, cwd=CHECKOUT)
    assert out.returncode == 0, out.stderr
    pip = json.loads(out.stdout)["kinds"][0]
    assert pip["items"][0]["id"] == "pip:wheels" and pip["bytes"] == du(home / ".cache/pip")
    shown = subprocess.run(words, capture_output=True, text=True, cwd=CHECKOUT).stdout
    assert "pip" in shown and "Item(" not in shown
