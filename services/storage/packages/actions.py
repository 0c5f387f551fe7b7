"""The package actions that only look: what the panel's keys and ``--run packages.…`` call."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Progress
from services.errors import BadInput, nearest
from services.storage import paths
from services.storage.packages import cuda, holding, places, sizes
from services.storage.packages.graph import Graph
from services.storage.packages.sizes import Measured
from services.storage.packages.types import (
    Brought,
    CudaAudit,
    Distribution,
    Environment,
    Environments,
    PackageList,
    Why,
)

T = TypeVar("T")


class EnvironmentsParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``packages.environments`` takes no parameters."""


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``packages.list``."""

    env: Annotated[
        str, Meta(description="An environment's folder; this program's own when left out, 'all' for every one.")
    ] = ""
    top: Annotated[int, Meta(ge=0, le=100_000, description="How many of the largest; 0 for all.")] = 0


class WhyParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``packages.why``."""

    name: Annotated[str, Meta(min_length=1, description="The package, as pip names it.")]
    env: Annotated[str, Meta(description="An environment's folder; this program's own when left out.")] = ""


class CudaParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``packages.cuda``."""

    env: Annotated[str, Meta(description="An environment's folder; every one that is found when left out.")] = ""


async def environments(ctx: Context, _params: EnvironmentsParams) -> Environments:
    """Every Python environment of this box with its size; those measured so far are ``Progress.partial``."""
    started = time.monotonic()

    def result(rows: list[Environment], complete: bool) -> Environments:
        ordered = tuple(sorted(rows, key=lambda e: (-e.bytes, e.path)))
        return Environments(ordered, sum(e.bytes for e in rows), time.monotonic() - started, complete)

    def work(stop: threading.Event, report: Callable[[Progress], None]) -> Environments:
        found = places.find(ctx.workspace.root, os.environ, stop)
        rows: list[Environment] = []
        for place in found:
            rows.append(environment(sizes.measure(place, stop)))
            report(Progress("environments", len(rows), len(found), "environments", place.path, result(rows, False)))
            if stop.is_set():
                break
        return result(rows, not stop.is_set())

    return await in_thread(ctx, work)


async def list_packages(ctx: Context, params: ListParams) -> PackageList:
    """Every installed distribution with what it takes on disk, largest first.

    Raises BadInput when ``env`` is no environment.
    """

    def work(stop: threading.Event, report: Callable[[Progress], None]) -> PackageList:
        started = time.monotonic()
        if params.env == "all":
            chosen = places.find(ctx.workspace.root, os.environ, stop)
        else:
            chosen = [places.chosen(params.env, ctx.workspace.root, os.environ)]
        measured: list[Measured] = []
        for place in chosen:
            measured.append(sizes.measure(place, stop))
            report(Progress("packages", len(measured), len(chosen), "environments", place.path))
        return _list(measured, params.top, time.monotonic() - started)

    return await in_thread(ctx, work)


async def why(ctx: Context, params: WhyParams) -> Why:
    """Who needs a package, and what is here only because of it.

    Raises BadInput when ``env`` is no environment or the package is not installed there.
    """

    def work(stop: threading.Event, _report: Callable[[Progress], None]) -> Why:
        measured = sizes.measure(places.chosen(params.env, ctx.workspace.root, os.environ), stop)
        return _why(measured, params.name)

    return await in_thread(ctx, work)


async def audit(ctx: Context, params: CudaParams) -> CudaAudit:
    """The CUDA audit of one environment or of all; findings so far are ``Progress.partial``."""

    def work(stop: threading.Event, report: Callable[[Progress], None]) -> CudaAudit:
        started = time.monotonic()
        has_gpu, told = cuda.gpu()
        if params.env:
            chosen = [places.chosen(params.env, ctx.workspace.root, os.environ)]
        else:
            chosen = places.find(ctx.workspace.root, os.environ, stop)
        found = CudaAudit(told, (), (), 0, (), has_gpu, complete=False)
        for done, place in enumerate(chosen, 1):
            found = _audited(found, sizes.measure(place, stop))
            report(Progress("cuda", done, len(chosen), "environments", place.path, found))
            if stop.is_set():
                break
        rows = list(found.findings)
        return msgspec.structs.replace(
            found,
            sentences=cuda.sentences(has_gpu, rows),
            seconds=time.monotonic() - started,
            complete=not stop.is_set(),
        )

    return await in_thread(ctx, work)


def environment(measured: Measured) -> Environment:
    """The environment's row of what was measured in it."""
    place = measured.place
    taken = sum(size for record, size in zip(measured.records, measured.bytes, strict=True) if cuda.is_cuda(record))
    return Environment(
        paths.shown(place.path), place.kind, place.python, measured.total, len(measured.records), taken,
        tuple(paths.shown(folder) for folder in place.folders), measured.problem,
    )  # fmt: skip


async def in_thread(ctx: Context, work: Callable[[threading.Event, Callable[[Progress], None]], T]) -> T:
    """Run ``work`` in a thread with an event that a cancelled caller sets, and with ``ctx.report`` made safe for it."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def report(progress: Progress) -> None:
        if not stop.is_set():  # nobody listens any more, and the loop may be gone
            loop.call_soon_threadsafe(ctx.report, progress)

    try:
        return await asyncio.to_thread(work, stop, report)
    finally:
        stop.set()


def _list(measured: list[Measured], top: int, seconds: float) -> PackageList:
    rows: list[Distribution] = []
    for one in measured:
        graph = Graph(one.records, one.place.python)
        rows += [_distribution(one, graph, index) for index in range(len(one.records))]
    rows.sort(key=lambda row: (-row.bytes, row.name.lower(), row.environment))
    orphans = tuple(sorted((o for one in measured for o in one.orphan_rows()), key=lambda o: (-o.bytes, o.path)))
    taken = sum(row.bytes for row in rows)
    freed = sum(one.freed(range(len(one.records))) for one in measured)
    return PackageList(
        environments=tuple(environment(one) for one in measured),
        distributions=tuple(rows[: top or None]),
        distributions_bytes=taken,
        orphan_bytes=sum(o.bytes for o in orphans),
        folder_bytes=sum(one.folder_bytes for one in measured),
        outside_bytes=sum(one.outside_bytes for one in measured),
        linked_bytes=taken - freed,
        total_bytes=sum(one.total for one in measured),
        seconds=seconds,
        complete=all(one.complete for one in measured),
        orphans=orphans[: top or None],
        sentences=_list_sentences(rows, taken - freed, sum(o.bytes for o in orphans)),
    )


def _list_sentences(rows: list[Distribution], linked: int, orphaned: int) -> tuple[str, ...]:
    said: list[str] = []
    if linked > 1_000_000:
        said.append(
            f"{formats.size(linked)} would not come free by deleting packages: the files have other names elsewhere, "
            "as uv links them from its cache."
        )
    missing = [row.name for row in rows if row.missing_files]
    if missing:
        said.append(f"Files of their RECORD are missing in: {', '.join(missing[:8])}{', …' * (len(missing) > 8)}.")
    if orphaned > 1_000_000:
        said.append(f"{formats.size(orphaned)} in the package folders belong to no distribution.")
    return tuple(said)


def _distribution(measured: Measured, graph: Graph, index: int) -> Distribution:
    record = measured.records[index]
    problem = record.problem
    if not problem and measured.missing[index]:
        count = measured.missing[index]
        problem = f"{count} file{'s' * (count != 1)} of its RECORD {'is' if count == 1 else 'are'} missing."
    if not problem and graph.index[record.key] != index:
        problem = "Another distribution of the same name is installed beside it."
    return Distribution(
        record.name, record.version, paths.shown(measured.place.path), measured.bytes[index], measured.freed([index]),
        measured.files[index], record.installer, paths.shown(record.editable), cuda.is_cuda(record),
        graph.needed_by(index), problem, measured.missing[index], measured.shared[index], record.requested,
    )  # fmt: skip


def _why(measured: Measured, name: str) -> Why:
    graph = Graph(measured.records, measured.place.python)
    index = graph.index_of(name)
    if index is None:
        close = nearest(name, [record.name for record in measured.records])
        raise BadInput(
            f"'{name}' is not installed in {paths.shown(measured.place.path)}{close or '.'}",
            hint="packages.list shows what is.",
        )
    record = measured.records[index]
    brought = graph.brought([index])
    rows = [
        Brought(r.name, r.version, measured.bytes[i], measured.freed([i])) for i in brought if (r := graph.records[i])
    ]
    return Why(
        record.name, record.version, paths.shown(measured.place.path), measured.bytes[index],
        measured.freed([index, *brought]), record.requested, _why_sentence(graph, index),
        tuple(graph.tree(index)), tuple(sorted(rows, key=lambda row: -row.bytes)),
    )  # fmt: skip


def _why_sentence(graph: Graph, index: int) -> str:
    record, needed = graph.records[index], graph.needed_by(index)
    if needed:
        asked = " It was also asked for by name." if record.requested else ""
        return f"{record.name} is needed by {', '.join(needed)}.{asked}"
    if record.requested:
        return f"Nobody needs {record.name}; it was asked for by name."
    return f"Nobody needs {record.name}, and nothing tells that it was asked for by name."


def _audited(so_far: CudaAudit, measured: Measured) -> CudaAudit:
    rows = cuda.findings(measured, Graph(measured.records, measured.place.python))
    unfinished = so_far.unfinished
    if holding.unfinished(measured.place.path):
        unfinished = (*unfinished, paths.shown(measured.place.path))
    found = sorted((*so_far.findings, *rows), key=lambda row: (-row.bytes, row.name))
    return msgspec.structs.replace(
        so_far,
        environments=(*so_far.environments, environment(measured)) if rows else so_far.environments,
        findings=tuple(found),
        total_bytes=sum(row.bytes for row in found),
        freed_bytes=so_far.freed_bytes + measured.freed(_indices(measured)),
        unfinished=unfinished,
    )


def _indices(measured: Measured) -> list[int]:
    return [index for index, record in enumerate(measured.records) if cuda.is_cuda(record)]
