"""A small real box for the storage screen's tests, and stand-ins over real files for actions that are not installed.

The stand-ins do what the actions promise in the simplest way: they read the disk, move folders into a trash and back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hybrid_tui.actions import ACTIONS, Action
from services.context import Context, NeedsYes, Plan, Progress
from services.errors import BadInput
from services.storage.actions import ScanParams, scan
from services.storage.reclaim import (
    Batch,
    Cleaned,
    CleanHistory,
    CleanPlan,
    Event,
    Item,
    KindItems,
    PlanLine,
    Purged,
    Reclaimable,
    Restored,
    Risk,
    TrashList,
)
from services.storage.types import Explored, Folder, Largest, Row, Scan
from tests.panel.storage_sample import BatchParams, CleanParams, ItemsParams, NoParams, PlanParams

CACHES = {"pip": ".cache/pip", "npm": ".npm"}
DAY = 86_400.0


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


def home() -> Path:
    return Path(os.environ["HOME"])


def item(kind: str, path: Path, risk: Risk = "low") -> Item:
    size, files = measure(path)
    name, restore = f"{kind}:{path.name}", "pip downloads it again."
    return Item(name, kind, path.name, (str(path),), size, size, files, time.time(), restore, risk)


async def items(ctx: Context, params: ItemsParams) -> Reclaimable:
    kinds = []
    for kind, below in CACHES.items():
        place = home() / below
        found = tuple(item(kind, p) for p in sorted(place.iterdir())) if place.is_dir() else ()
        size = sum(i.bytes for i in found)
        kinds.append(KindItems(kind, f"{kind}: cache", (str(place),), place.is_dir(), size, size,
                               sum(i.files for i in found), time.time(), "It comes back.", "low", found))  # fmt: skip
    used = sum(kind.bytes or 0 for kind in kinds)
    return Reclaimable(tuple(sorted(kinds, key=lambda k: -(k.bytes or 0))), used, 3 * 10**9, True)


def _trash(ctx: Context) -> Path:
    return ctx.workspace.root / ".hybrid" / "trash"


async def plan(ctx: Context, params: PlanParams) -> CleanPlan:
    known = {i.id: i for kind in (await items(ctx, ItemsParams())).kinds for i in kind.items}
    chosen = [known[i] for i in params.items]
    lines = [PlanLine(i.id, f"{i.kind}: {i.name}", i.paths, i.bytes, i.freed_bytes, i.files, i.risk, i.restore)
             for i in chosen]  # fmt: skip
    for path in params.paths:
        size, files = measure(Path(path))
        lines.append(PlanLine(f"path:{path}", path, (path,), size, size, files, "high", ""))
    size, name = sum(line.bytes for line in lines), f"{len(list(_trash(ctx).glob('*')))}-{time.time_ns()}"
    made = CleanPlan(name, time.time(), f"{len(lines)} chosen.", tuple(lines), (), size, size,
                     sum(line.files for line in lines))  # fmt: skip
    folder = ctx.workspace.root / ".hybrid" / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(msgspec.json.encode(made))
    return made


async def clean(ctx: Context, params: CleanParams) -> Cleaned:
    ctx.will_write("storage.clean")
    made = msgspec.json.decode((ctx.workspace.root / ".hybrid" / "plans" / params.plan).read_bytes(), type=CleanPlan)
    if not ctx.yes:
        raise NeedsYes(Plan("storage.clean", made.scope))
    batch = _trash(ctx) / made.id
    for at, path in enumerate(path for line in made.lines for path in line.paths):
        ctx.report(Progress("moving to the trash", at, len(made.lines), "things"))
        if params.now:
            shutil.rmtree(path)
        else:
            batch.mkdir(parents=True, exist_ok=True)
            shutil.move(path, batch / str(at))
            (batch / f"{at}.from").write_text(path)
        await asyncio.sleep(0)
    what = "freed" if params.now else "trashed"
    _record(ctx, Event(time.time(), what, made.scope, made.freed_bytes, made.freed_bytes * params.now, made.files))
    return Cleaned(made.id, "" if params.now else made.id, made.scope, made.files, made.freed_bytes,
                   made.freed_bytes * params.now, 0.1)  # fmt: skip


def _record(ctx: Context, event: Event) -> None:
    with (ctx.workspace.root / ".hybrid" / "cleaned").open("ab") as file:
        file.write(msgspec.json.encode(event) + b"\n")


async def trash(ctx: Context, params: NoParams) -> TrashList:
    batches = []
    for folder in sorted(_trash(ctx).glob("*"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        size, files = measure(folder)
        names = tuple(Path(p.read_text()).name for p in folder.glob("*.from"))
        at = folder.stat().st_mtime
        batches.append(
            Batch(folder.name, at, "What was chosen.", names, size, files, at + 7 * DAY, "whole", str(folder))
        )
    return TrashList(tuple(batches), sum(batch.bytes for batch in batches))


async def undo(ctx: Context, params: BatchParams) -> Restored:
    ctx.will_write("storage.undo")
    there = await trash(ctx, NoParams())
    if not there.batches:
        raise BadInput("The trash is empty.")
    batch = params.batch or there.batches[0].id
    folder = _trash(ctx) / batch
    size, files = measure(folder)
    for source in folder.glob("*.from"):
        shutil.move(folder / source.stem, source.read_text())
    shutil.rmtree(folder)
    return Restored(batch, files, size)


async def purge(ctx: Context, params: BatchParams) -> Purged:
    ctx.will_write("storage.purge")
    size, files = measure(_trash(ctx) / params.batch)
    if not ctx.yes:
        raise NeedsYes(Plan("storage.purge", "Delete this clean-up for good.", (f"{files} files",), size))
    shutil.rmtree(_trash(ctx) / params.batch)
    _record(ctx, Event(time.time(), "purged", "What was chosen.", size, size, files, params.batch))
    return Purged((params.batch,), files, size, size)


async def history(ctx: Context, params: NoParams) -> CleanHistory:
    file = ctx.workspace.root / ".hybrid" / "cleaned"
    lines = file.read_bytes().splitlines() if file.exists() else []
    events = tuple(msgspec.json.decode(line, type=Event) for line in reversed(lines))
    return CleanHistory(events, sum(event.disk_freed_bytes for event in events))


class ExploreParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    kind: str = "folders"
    limit: int = 0
    refresh: bool = False


def _row(folder: Folder, whole: Scan) -> Row:
    name = folder.path.removeprefix(whole.path).lstrip("/")
    share = folder.bytes / whole.total_bytes if whole.total_bytes else 0.0
    return Row(
        folder.path, name, folder.kind, folder.bytes, folder.apparent_bytes, folder.files, folder.last_used, share
    )


def _explored(found: Scan) -> Explored:
    rows = tuple(_row(folder, found) for folder in found.folders)
    return Explored(found.path, rows, found.total_bytes, found.apparent_bytes, found.files, found.directories,
                    found.complete, unreadable_count=found.unreadable_count, unreadable=found.unreadable)  # fmt: skip


def _largest(found: Scan) -> Largest:
    rows = tuple(_row(folder, found) for folder in found.largest)
    return Largest(found.path, "folders", rows, found.total_bytes, found.complete)


async def _scanned(ctx: Context, params: ExploreParams, shape: Callable[[Scan], Any]) -> Any:
    def report(progress: Progress) -> None:
        ctx.report(msgspec.structs.replace(progress, partial=shape(progress.partial)))

    inner = dataclasses.replace(ctx, report=report)
    return shape(await scan(inner, ScanParams(params.path, top=params.limit)))


async def explore(ctx: Context, params: ExploreParams) -> Explored:
    found: Explored = await _scanned(ctx, params, _explored)
    return found


async def largest(ctx: Context, params: ExploreParams) -> Largest:
    found: Largest = await _scanned(ctx, params, _largest)
    return found


STAND_INS = (items, plan, clean, undo, trash, purge, history, explore, largest)


def install(setitem: Callable[[Any, str, Any], None]) -> None:
    """Stand-ins for those actions that are not installed; of those that are, only the home folder's caches are seen.

    Nothing else of the machine that runs the tests is ever measured, offered or cleaned.
    """
    for function in STAND_INS:
        name = f"storage.{function.__name__}"
        if name not in ACTIONS:
            setitem(ACTIONS, name, Action(name, f"{__name__}:{function.__name__}", "A stand-in."))
    setitem(REAL, "items", ACTIONS["storage.items"])
    setitem(ACTIONS, "storage.items", Action("storage.items", f"{__name__}:home_items", "The home's caches."))


REAL: dict[str, Action] = {}


async def home_items(ctx: Context, params: ItemsParams) -> Reclaimable:
    real = REAL["items"]
    found: Reclaimable = await real.function()(ctx, real.parameters()(kinds=tuple(CACHES)))
    return found
