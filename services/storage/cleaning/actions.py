"""The clean-up's actions: plan, clean, undo, trash, purge, history. What a killed one left is ended before the next."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from services import formats
from services.context import Context, Plan, Progress
from services.errors import BadInput, HybridError, Refused
from services.storage.cleaning import guards, history, overview, places, system, tree
from services.storage.cleaning.choose import Choice, Wanted, choose
from services.storage.cleaning.params import (
    CleanParams,
    HistoryParams,
    PlanParams,
    PurgeParams,
    TrashParams,
    UndoParams,
)
from services.storage.cleaning.plan import Planner, Source, exact, marked
from services.storage.cleaning.records import StoredPlan
from services.storage.cleaning.store import Note, Store
from services.storage.cleaning.work import Cleaner
from services.storage.reclaim import (
    Cleaned,
    CleanHistory,
    CleanPlan,
    KindItems,
    Purged,
    Restored,
    TrashList,
)

T = TypeVar("T")


async def plan(ctx: Context, params: PlanParams) -> CleanPlan:
    """What a clean-up would do. It is kept, so that ``storage.clean plan=ID`` does exactly that; not if read-only.

    Raises BadInput for an item, kind or setting that is not there.
    """
    wanted = _wanted(ctx, params)

    def work(stop: threading.Event, post: Callable[[Progress], None]) -> CleanPlan:
        stored = _planned(ctx, wanted, _excludes(ctx, params), stop, post)
        if ctx.read_only or ctx.dry_run:
            return msgspec.structs.replace(stored.plan, id="")
        try:
            Store(ctx.workspace).keep_plan(stored)
        except OSError as error:
            note = f"This plan could not be kept ({error.strerror}); storage.clean with the same words makes it again."
            return msgspec.structs.replace(stored.plan, id="", notes=(*stored.plan.notes, note))
        return stored.plan

    return await _in_thread(ctx, work)


async def clean(ctx: Context, params: CleanParams) -> Cleaned | Plan:
    """Move what the plan shows to the trash, or delete it with ``now``. Asks; the yes covers exactly the plan shown.

    Raises NeedsYes with the exact figures, Refused while another clean-up is at work, HybridError when the journal
    can't be written; in all cases nothing was touched.
    """
    _one_or_the_other(params)
    ctx.will_write("storage.clean")
    store = Store(ctx.workspace)

    def prepare(stop: threading.Event, post: Callable[[Progress], None]) -> tuple[StoredPlan, list[str]]:
        if ctx.dry_run:
            if params.plan:
                return store.plan(params.plan), []
            stored = _planned(ctx, _wanted(ctx, params), _excludes(ctx, params), stop, post)
            return msgspec.structs.replace(stored, plan=msgspec.structs.replace(stored.plan, id="")), []
        with store.lock():
            recovered = Cleaner(store, stop=stop).recover()
        if params.plan:
            return store.plan(params.plan), recovered
        stored = _planned(ctx, _wanted(ctx, params), _excludes(ctx, params), stop, post)
        try:
            store.keep_plan(stored)
        except OSError as error:
            raise _no_room(error) from error
        return stored, recovered

    stored, notes = await _in_thread(ctx, prepare)
    expired = overview.expired(store, ctx.workspace.settings.cleaning.trash_days)
    shown = overview.shown(stored.plan, params.now, expired)
    if ctx.dry_run:
        return shown
    if not stored.targets:
        return Cleaned(stored.plan.id, "", stored.plan.scope, 0, 0, 0, 0.0, stored.plan.held, tuple(notes))
    ctx.approve(shown)

    def work(stop: threading.Event, post: Callable[[Progress], None]) -> Cleaned:
        cleaner = _cleaner(store, stop, post)
        with store.lock():
            said = notes + _purge_expired(cleaner, expired)
            done = cleaner.execute(stored, now=params.now)
        return msgspec.structs.replace(done, notes=(*stored.plan.notes, *said))

    return await _in_thread(ctx, work)


async def undo(ctx: Context, params: UndoParams) -> Restored | Plan:
    """Bring a clean-up back from the trash. Nothing is overwritten: what finds its old place taken stays in the trash.

    Raises BadInput when the trash holds no such batch.
    """
    ctx.will_write("storage.undo")
    store = Store(ctx.workspace)

    def work(stop: threading.Event, post: Callable[[Progress], None]) -> Restored | Plan:
        if ctx.dry_run:
            batch, note = overview.one(store, params.batch)
            return Plan(
                "storage.undo", f"Bring {overview.figures(note)} back to their old places.", (f"batch {batch}",)
            )
        with store.lock():
            cleaner = _cleaner(store, stop, post)
            notes = cleaner.recover()
            batch, note = overview.one(store, params.batch)
            return msgspec.structs.replace(cleaner.undo(batch, note), notes=tuple(notes))

    return await _in_thread(ctx, work)


async def trash(ctx: Context, _params: TrashParams) -> TrashList:
    """What lies in the trash, newest first, and when it will be emptied."""

    def work(_stop: threading.Event, _post: Callable[[Progress], None]) -> TrashList:
        store = Store(ctx.workspace)
        notes = _recovered(ctx, store)
        batches, problems = overview.listed(store)
        days = ctx.workspace.settings.cleaning.trash_days
        rows = tuple(overview.row(batch, note, days) for batch, note in batches)
        return TrashList(rows, sum(row.bytes for row in rows), (*notes, *problems))

    return await _in_thread(ctx, work)


async def purge(ctx: Context, params: PurgeParams) -> Purged | Plan:
    """Delete batches of the trash for good. Asks, with the exact size.

    Raises BadInput when the trash holds no such batch, NeedsYes.
    """
    ctx.will_write("storage.purge")
    store = Store(ctx.workspace)
    notes = await _in_thread(ctx, lambda _stop, _post: _recovered(ctx, store))
    batches = overview.chosen(store, params)
    size = sum(note.size or 0 for _, note in batches)
    shown = Plan(
        "storage.purge",
        f"Delete {overview.count(len(batches), 'batch', 'batches')} of the trash for good: {exact(size)}.",
        tuple(f"{batch}: {note.scope}, {overview.figures(note)}" for batch, note in batches),
        freed_bytes=size,
    )
    if ctx.dry_run:
        return shown
    if not batches:
        return Purged((), 0, 0, 0, (*notes, "There is nothing to delete in the trash."))
    ctx.approve(shown)

    def work(stop: threading.Event, post: Callable[[Progress], None]) -> Purged:
        with store.lock():
            still = [(batch, note) for batch, note in overview.listed(store)[0] if batch in {b for b, _ in batches}]
            done = _cleaner(store, stop, post).purge(still)
        return msgspec.structs.replace(done, notes=(*notes, *done.notes))

    return await _in_thread(ctx, work)


async def history_of(ctx: Context, _params: HistoryParams) -> CleanHistory:
    """What was cleaned, restored and deleted in this workspace, newest first."""
    return await asyncio.to_thread(history.read, Store(ctx.workspace).folder / "history.jsonl")


# Plans


def _wanted(ctx: Context, params: PlanParams) -> Wanted:
    return Wanted(
        items=params.items,
        kinds=params.kinds,
        paths=params.paths,
        keep=(*ctx.workspace.settings.cleaning.keep, *params.keep),
        older_than_days=params.older_than_days,
        under_gb=params.under_gb,
        risk=params.risk,
    )


def _excludes(ctx: Context, params: PlanParams) -> tuple[str, ...]:
    return (*ctx.workspace.settings.cleaning.exclude, *params.exclude)


def _one_or_the_other(params: CleanParams) -> None:
    if not params.plan:
        return
    defaults = {f.name: f.default for f in msgspec.structs.fields(PlanParams)}
    if more := [name for name, value in defaults.items() if getattr(params, name) != value]:
        raise BadInput(
            f"plan= says what is to be cleaned; {' and '.join(f'{m}=' for m in more)} can't be given with it.",
            hint="Leave them out, or make another plan with storage.plan.",
        )


def _planned(
    ctx: Context, wanted: Wanted, excludes: tuple[str, ...], stop: threading.Event, post: Callable[[Progress], None]
) -> StoredPlan:
    """List the kinds that are meant, choose, and walk what was chosen. Raises BadInput, Stopped."""
    kinds: tuple[KindItems, ...] = ()
    if wanted.everything or wanted.items or wanted.kinds:
        kinds = _listed(ctx, wanted.kind_names(), stop, post)
    choice: Choice = choose(kinds, wanted)
    roots = {kind.kind: tuple(map(places.written, kind.paths)) for kind in kinds}
    sources = [Source(item, roots[item.kind]) for item in choice.items]
    own: tuple[str, ...] = (places.written(str(ctx.workspace.root)), guards.home())
    marks = [places.written(text) for text in wanted.paths]
    if any(not any(system.below(path, root) for root in own) for path in marks):
        kinds = kinds if wanted.everything else _listed(ctx, (), stop, post)
        own += tuple(places.written(path) for kind in kinds for path in kind.paths)
    sources += [marked(text, own) for text in wanted.paths]
    found = guards.Guards(ctx.workspace)
    last = [0.0]

    def report(files: int) -> None:
        if time.monotonic() - last[0] > 0.1:
            last[0] = time.monotonic()
            post(Progress("plan", files, None, "files"))

    return Planner(found, excludes, stop, report).plan(sources, choice.scope, choice.held)


def _listed(
    ctx: Context, names: tuple[str, ...], stop: threading.Event, post: Callable[[Progress], None]
) -> tuple[KindItems, ...]:
    """All kinds, or those named, with their items. Imported here: only some clean-ups need it."""
    from services.storage.kinds import listing

    def report(so_far: tuple[KindItems, ...]) -> None:
        post(Progress("look", sum(kind.bytes is not None for kind in so_far), len(so_far), "kinds"))

    kinds: tuple[KindItems, ...] = listing.list_kinds(ctx.workspace, names, stop=stop, on_partial=report)
    if stop.is_set():
        raise tree.Stopped
    return kinds


# Threads


def _purge_expired(cleaner: Cleaner, expired: list[tuple[str, Note]]) -> list[str]:
    if not expired:
        return []
    done = cleaner.purge(expired)
    what = overview.count(len(done.batches), "batch", "batches")
    return [
        f"Deleted for good, since its time in the trash was over: {what}, {formats.size(done.bytes)}.",
        *done.notes,
    ]


def _recovered(ctx: Context, store: Store) -> list[str]:
    """End what a killed clean-up left, if this session may write and none is at work right now."""
    if ctx.read_only or ctx.dry_run or not store.ids():
        return []
    with contextlib.suppress(Refused), store.lock():
        return Cleaner(store).recover()
    return []


def _cleaner(store: Store, stop: threading.Event, post: Callable[[Progress], None]) -> Cleaner:
    last = [0.0]

    def report(stage: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 0.1 or done >= total:
            last[0] = time.monotonic()
            post(Progress(stage, done, total, "files"))

    return Cleaner(store, stop=stop, report=report)


async def _in_thread(ctx: Context, work: Callable[[threading.Event, Callable[[Progress], None]], T]) -> T:
    """Run ``work`` in a thread; it is told to stop when the caller is cancelled. What it posts is reported."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def post(progress: Progress) -> None:
        if not stop.is_set():  # else nobody listens: the loop may be gone
            loop.call_soon_threadsafe(ctx.report, progress)

    try:
        return await asyncio.to_thread(functools.partial(work, stop, post))
    finally:
        stop.set()


def _no_room(error: OSError) -> HybridError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is so full that not even the plan can be kept" if full else f"{error.strerror}"
    return HybridError(f"Nothing was cleaned: {reason}.", hint="Make a little room by hand, then try again." * full)
