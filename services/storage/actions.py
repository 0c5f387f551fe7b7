"""The storage actions: what the panel's keys and ``--run storage.…`` call. None of them writes."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services.context import Context, Progress
from services.storage import disk, paths, scanning
from services.storage.kinds import listing
from services.storage.reclaim import KindItems, Reclaimable
from services.storage.types import Cache, Caches, DiskUsage, Scan
from services.storage.upkeep import samples

T = TypeVar("T")


class UsageParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.usage``."""

    path: Annotated[str, Meta(description="Any path on the disk that is meant; the workspace when left out.")] = ""


class ScanParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.scan``."""

    path: Annotated[str, Meta(description="The folder to scan; the workspace when left out.")] = ""
    top: Annotated[int, Meta(ge=0, le=10_000, description="How many folders and files get a row of their own.")] = 20
    cross_mounts: Annotated[
        bool, Meta(description="Count what other disks hold that are mounted below, as du does without -x.")
    ] = False
    full: Annotated[bool, Meta(description="Read everything again, also what looks unchanged since the last scan.")] = (
        False
    )


class CachesParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``storage.caches`` takes no parameters: every known cache is found by its own tool's settings."""


class ItemsParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.items``."""

    kinds: Annotated[
        tuple[str, ...], Meta(description="Cache kinds to look at (pip, huggingface, pycache, …); all when left out.")
    ] = ()


async def usage(ctx: Context, params: UsageParams) -> DiskUsage:
    """The disk's total, used and free bytes, and in words which budgets are broken."""
    path = paths.actual(params.path or str(ctx.workspace.root))
    found = await asyncio.to_thread(disk.usage, path, ctx.workspace.settings.disk)
    if not params.path and not (ctx.read_only or ctx.dry_run):
        await asyncio.to_thread(samples.record_usage, ctx.workspace, found)
    return found


async def scan(ctx: Context, params: ScanParams) -> Scan:
    """What fills a folder. Results so far are reported as ``Progress.partial``, at first the last scan's if it was kept
    (its ``age`` is not 0). Folders unchanged since are taken over from that unless ``full``. Cancelling the task stops
    the scan.

    Raises BadInput when the path is no readable folder.
    """
    path = scanning.folder(ctx, params.path)

    def report(so_far: Scan) -> None:
        ctx.report(Progress("scan", so_far.total_bytes, None, "bytes", f"{so_far.files:,} files", so_far))

    found = await scanning.scan(
        ctx, path, top=params.top, full=params.full, cross_mounts=params.cross_mounts, report=report
    )
    return found.scan


async def items(ctx: Context, params: ItemsParams) -> Reclaimable:
    """All that can go, by cache kind, largest first; results so far are reported as ``Progress.partial``.

    Raises BadInput for an unknown kind.
    """
    listing.choose(ctx.workspace, params.kinds)  # a wrong name is met before any thread starts
    budget = round(ctx.workspace.settings.disk.caches_gb * disk.GB)

    def report(so_far: Reclaimable) -> None:
        done = sum(kind.bytes is not None for kind in so_far.kinds)
        ctx.report(Progress("items", done, len(so_far.kinds), "kinds", partial=so_far))

    return await _listed(ctx, params.kinds, functools.partial(_reclaimable, budget=budget), report)


async def caches(ctx: Context, _params: CachesParams) -> Caches:
    """Every known cache with its size, largest first; sizes so far are reported as ``Progress.partial``.

    These are the kinds that count against the caches' budget; of those that are not there only the usual ones.
    """
    budget = round(ctx.workspace.settings.disk.caches_gb * disk.GB)
    budgeted = listing.budgeted(ctx.workspace)

    def report(so_far: Caches) -> None:
        done = sum(cache.bytes is not None for cache in so_far.caches)
        ctx.report(Progress("caches", done, len(so_far.caches), "caches", partial=so_far))

    found = await _listed(ctx, budgeted, functools.partial(_caches, budget=budget), report)
    if not (ctx.read_only or ctx.dry_run):
        await asyncio.to_thread(samples.record_caches, ctx.workspace, found)
    return found


async def _listed(
    ctx: Context,
    names: tuple[str, ...],
    result: Callable[..., T],
    report: Callable[[T], None],
) -> T:
    """``result(kinds, complete=…)`` of the kinds called ``names``, measured in a thread and reported on the way."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> T:
        def post(so_far: tuple[KindItems, ...]) -> None:
            _post(loop, stop, report, result(so_far, complete=False))

        found = listing.list_kinds(ctx.workspace, names, stop=stop, on_partial=post)
        return result(found, complete=not stop.is_set())

    return await _in_thread(work, stop)


def _reclaimable(found: tuple[KindItems, ...], *, budget: int, complete: bool) -> Reclaimable:
    total = sum(kind.bytes or 0 for kind in found if kind.budgeted)
    problem = disk.caches_problem(total, budget)
    return Reclaimable(found, total, budget, complete, (problem,) if problem else ())


def _caches(found: tuple[KindItems, ...], *, budget: int, complete: bool) -> Caches:
    total = sum(kind.bytes or 0 for kind in found)
    problem = disk.caches_problem(total, budget)
    shown = tuple(_cache(kind) for kind in found if kind.exists or kind.kind in listing.USUAL)
    return Caches(shown, total, budget, complete, (problem,) if problem else ())


def _cache(kind: KindItems) -> Cache:
    return Cache(
        kind.kind,
        kind.title,
        next(iter(kind.paths), ""),
        kind.exists,
        kind.bytes,
        kind.files,
        kind.last_used,
        kind.restore,
        kind.problem,
    )


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run ``work`` in a thread; when the caller is cancelled, ``stop`` is set, so that the thread ends soon too."""
    try:
        return await asyncio.to_thread(work)
    finally:
        stop.set()


def _post(loop: asyncio.AbstractEventLoop, stop: threading.Event, report: Callable[[T], None], value: T) -> None:
    """Report ``value`` in the loop's thread. Nobody listens any more once ``stop`` is set: the loop may be gone."""
    if not stop.is_set():
        loop.call_soon_threadsafe(report, value)
