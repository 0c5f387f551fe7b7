"""Scans as actions make them: in a thread, from what the index has, and kept there for the next time."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from services.context import Context
from services.storage import paths
from services.storage.index import Index
from services.storage.scanner import Scanner
from services.storage.tree import Tree
from services.storage.types import Scan

T = TypeVar("T")


class Scanned(msgspec.Struct, frozen=True):
    """A scan, and its folders with the row that the scanned one has there (no tree when it was stopped)."""

    scan: Scan
    tree: Tree | None
    row: int = 0
    age: float = 0.0


def folder(ctx: Context, path: str) -> str:
    """The folder that ``path`` means; the workspace when it is empty."""
    return paths.actual(path or str(ctx.workspace.root))


def index(ctx: Context) -> Index:
    """The kept scans of this workspace."""
    return Index(ctx.workspace.state / "storage" / "index")


async def scan(
    ctx: Context, path: str, *, top: int, full: bool = False, cross_mounts: bool = False,
    report: Callable[[Scan], None],
) -> Scanned:  # fmt: skip
    """Scan ``path``, taking over what the index has unless ``full``. ``report`` gets results so far, in the loop's
    thread: at first the last one, if there is one. Cancelling the task stops the scan.

    Raises BadInput when the path is no readable folder.
    """
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def post(so_far: Scan) -> None:
        if not stop.is_set():  # else nobody listens any more, and the loop may be gone
            loop.call_soon_threadsafe(report, so_far)

    work = functools.partial(_scan, ctx, path, top, full, cross_mounts, post, stop)
    return await in_thread(work, stop)


async def in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run ``work`` in a thread; when the caller is cancelled, ``stop`` is set, so that the thread ends soon too."""
    try:
        return await asyncio.to_thread(work)
    finally:
        stop.set()


def _scan(
    ctx: Context, path: str, top: int, full: bool, cross_mounts: bool, post: Callable[[Scan], None],
    stop: threading.Event,
) -> Scanned:  # fmt: skip
    kept = index(ctx)
    before = None
    if not cross_mounts:
        last = kept.load(path, head_only=True)
        if last is not None:
            post(msgspec.structs.replace(last.scan, complete=False))
        if not full:
            found = kept.covering(path)
            if found is not None and found[0].tree is not None:
                before = found[0].tree, found[1]
    scanner = Scanner(path, top=top, cross_mounts=cross_mounts, before=before, on_partial=post, cancelled=stop)
    result = scanner.run()
    problems = list(dict.fromkeys(kept.warnings))
    if scanner.tree is not None and not cross_mounts and _may_keep(ctx):
        try:
            kept.save(result, scanner.tree)
        except OSError as error:
            problems.append(f"The result could not be kept for the next start in {kept.folder}: {error.strerror}.")
    return Scanned(msgspec.structs.replace(result, problems=tuple(problems)), scanner.tree)


def _may_keep(ctx: Context) -> bool:
    """Whether to write: not when told not to, and not into a folder that nobody made a workspace."""
    made = ctx.workspace.state.is_dir() or (ctx.workspace.root / "hybrid.toml").is_file()
    return made and not ctx.read_only and not ctx.dry_run
