"""A small real box for the storage screen's tests, of which only the test home's caches are ever seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybrid_tui.actions import ACTIONS, Action
from services.context import Context
from services.storage.actions import ItemsParams
from services.storage.reclaim import Reclaimable

CACHES = {"pip": ".cache/pip", "npm": ".npm"}
REAL: dict[str, Action] = {}


def fill(home: Path) -> None:
    """A pip cache of two parts and an npm cache of one."""
    for name, size in ((".cache/pip/http-v2", 700_000), (".cache/pip/wheels", 200_000), (".npm/_cacache", 400_000)):
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "body").write_bytes(b"x" * size)


def digest(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` and its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def measure(path: Path) -> tuple[int, int]:
    """Bytes on disk and files of a folder."""
    found = [path, *path.rglob("*")]
    return sum(p.lstat().st_blocks * 512 for p in found), sum(p.is_file() for p in found)


async def home_items(ctx: Context, params: ItemsParams) -> Reclaimable:
    """``storage.items`` of the home folder's caches alone."""
    real = REAL["items"]
    found: Reclaimable = await real.function()(ctx, ItemsParams(kinds=tuple(CACHES)))
    return found


def install(setitem: Callable[[Any, str, Any], None]) -> None:
    """Nothing else of the machine that runs the tests is ever measured, offered or cleaned."""
    setitem(REAL, "items", ACTIONS["storage.items"])
    setitem(ACTIONS, "storage.items", Action("storage.items", f"{__name__}:home_items", "The home's caches."))
