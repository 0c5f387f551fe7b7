"""The storage actions: what the panel's keys and ``--run storage.…`` call. None of them writes."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services.context import Context, Progress
from services.errors import HybridError
from services.storage import disk, kinds, paths
from services.storage.scanner import Scanner
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


class CachesParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``storage.caches`` takes no parameters: every known cache is found by its own tool's settings."""


async def usage(ctx: Context, params: UsageParams) -> DiskUsage:
    """The disk's total, used and free bytes, and in words which budgets are broken."""
    path = paths.actual(params.path or str(ctx.workspace.root))
    found = await asyncio.to_thread(disk.usage, path, ctx.workspace.settings.disk)
    if not params.path and not (ctx.read_only or ctx.dry_run):
        await asyncio.to_thread(samples.record_usage, ctx.workspace, found)
    return found


async def scan(ctx: Context, params: ScanParams) -> Scan:
    """What fills a folder. Results so far are reported as ``Progress.partial``; cancelling the task stops the scan.

    Raises BadInput when the path is no readable folder.
    """
    path = paths.actual(params.path or str(ctx.workspace.root))

    def report(so_far: Scan) -> None:
        ctx.report(Progress("scan", so_far.total_bytes, None, "bytes", f"{so_far.files:,} files", so_far))

    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> Scan:
        return Scanner(
            path,
            top=params.top,
            cross_mounts=params.cross_mounts,
            on_partial=lambda so_far: _post(loop, stop, report, so_far),
            cancelled=stop,
        ).run()

    return await _in_thread(work, stop)


async def caches(ctx: Context, _params: CachesParams) -> Caches:
    """Every known cache with its size, largest first; sizes so far are reported as ``Progress.partial``."""
    found = await _measure(ctx)
    if not (ctx.read_only or ctx.dry_run):
        await asyncio.to_thread(samples.record_caches, ctx.workspace, found)
    return found


async def _measure(ctx: Context) -> Caches:
    budget = round(ctx.workspace.settings.disk.caches_gb * disk.GB)
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def report(so_far: Caches) -> None:
        done = sum(cache.bytes is not None for cache in so_far.caches)
        ctx.report(Progress("caches", done, len(so_far.caches), "caches", partial=so_far))

    def work() -> Caches:
        found = [_unmeasured(kind) for kind in kinds.KINDS]

        def post(index: int, cache: Cache) -> None:
            found[index] = cache
            _post(loop, stop, report, _sum_up(found, budget, complete=False))

        for index, cache in enumerate(found):
            post(index, cache)
            if cache.exists:
                found[index] = _measured(cache, stop, functools.partial(post, index))
        return _sum_up(found, budget, complete=not stop.is_set())

    return await _in_thread(work, stop)


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


def _unmeasured(kind: kinds.Kind) -> Cache:
    place = str(kind.place(os.environ, kinds.home(os.environ)))
    exists = os.path.isdir(place)  # noqa: PTH112  (Path.is_dir raises when a folder above may not be entered)
    size = None if exists else 0
    return Cache(kind.name, kind.title, paths.shown(place), exists, size, size, None, kind.restore)


def _measured(cache: Cache, stop: threading.Event, on_partial: Callable[[Cache], None]) -> Cache:
    def so_far(scan: Scan) -> Cache:
        count = scan.unreadable_count
        return msgspec.structs.replace(
            cache,
            bytes=scan.total_bytes,
            files=scan.files,
            last_used=scan.last_used,
            problem=f"{count} folder{'s' * (count != 1)} in it may not be read." if count else "",
        )

    def report(scan: Scan) -> None:
        on_partial(so_far(scan))

    try:
        return so_far(Scanner(paths.actual(cache.path), top=0, on_partial=report, cancelled=stop).run())
    except HybridError as error:
        return msgspec.structs.replace(cache, problem=str(error))


def _sum_up(found: list[Cache], budget: int, *, complete: bool) -> Caches:
    """``found`` largest first, those not measured yet last; what lies inside another cache is not summed twice."""
    places = [(paths.actual(cache.path), cache) for cache in found if cache.exists]
    total = 0
    counted: list[str] = []
    for place, cache in sorted(places, key=lambda pair: len(pair[0])):  # a folder before what lies in it
        if not any(place == other or place.startswith(other.rstrip("/") + "/") for other in counted):
            total += cache.bytes or 0
            counted.append(place)
    problem = disk.caches_problem(total, budget)
    return Caches(
        tuple(sorted(found, key=lambda cache: -1 if cache.bytes is None else cache.bytes, reverse=True)),
        total,
        budget,
        complete,
        (problem,) if problem else (),
    )
