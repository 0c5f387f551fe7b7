"""Actions on the queue of transfers, and on the store's folders: list, trash."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan
from services.drive.open import open_store
from services.drive.store import TRASH, Entry, parts
from services.errors import BadInput, HybridError, Refused
from services.transfers import items
from services.transfers.guards import check_free
from services.transfers.plan import files as count_files
from services.transfers.types import (
    FINISHED,
    Cleared,
    Level,
    LevelEntry,
    TransferLine,
    TransferLines,
    Transfers,
    TransferView,
    Trashed,
)
from services.transfers.view import read, read_all, wait_for_worker
from services.workspace import Workspace

_Transfer = Annotated[str, Meta(min_length=1, description="The transfer's id or its last four letters.")]
_SOON_S = 3.0  # so long a pause or cancel is waited for, so that its answer is the new state


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which folder of the store."""

    path: Annotated[str, Meta(description="Folder in the store; empty: its root.")] = ""


class TransfersParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which transfers, and how much of them."""

    state: Annotated[str, Meta(description="Only those in this state, e.g. running or failed; empty: all.")] = ""
    whole: Annotated[bool, Meta(description="All that is known of each, its files on their way included.")] = False


class TransferParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which transfer."""

    transfer: _Transfer


class PriorityParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which transfer, and where it goes."""

    transfer: _Transfer
    to: Annotated[str, Meta(pattern=r"^(up|down|-?\d{1,4})$", description="up, down, or a number; higher is sooner.")]


class ClearParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which finished transfers to forget."""

    transfer: Annotated[str, Meta(description="One of them; empty: all that are over.")] = ""


class TrashParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to throw away."""

    path: Annotated[str, Meta(min_length=1, description="File or folder in the store.")]


# The store's folders


async def list_level(ctx: Context, params: ListParams) -> Level:
    """One level of the store. Raises BadInput when there is no such folder, StoreUnreachable."""
    path = params.path.strip("/")
    store = open_store(ctx.workspace)
    if path:
        parts(path)
    entries = await store.list(path)
    if not entries and path:
        entry = await store.stat(path)
        if entry is None or not entry.folder:
            raise BadInput(f"There is no folder {path} in the store.", hint="drive.list shows what there is.")
    shown = [_level_entry(e) for e in entries if e.name != TRASH and not e.name.endswith(".hybrid-part")]
    shown.sort(key=lambda e: (e.kind != "folder", e.name.casefold(), e.name))
    root = store.local(path or "docs").removesuffix("/docs") if not path else store.local(path)
    return Level(path, root, store.label, store.kind == "drive", tuple(shown))


def _level_entry(entry: Entry) -> LevelEntry:
    return LevelEntry(
        entry.name,
        "folder" if entry.folder else "file",
        None if entry.folder else entry.size,
        entry.modified or None,
        entry.skipped.rstrip("."),
    )


async def trash(ctx: Context, params: TrashParams) -> Trashed | Plan:
    """Move a file or folder of the store to the store's trash, from where a person can bring it back.

    Raises BadInput, NeedsYes, Refused (the registry needs it), StoreUnreachable.
    """
    ctx.will_write("drive.trash")
    path = params.path.strip("/")
    parts(path)
    store = open_store(ctx.workspace)
    entry = await store.stat(path)
    if entry is None:
        raise BadInput(f"There is no {path} in the store.", hint="drive.list shows what there is.")
    await check_free(ctx.workspace, path, "thrown away")
    above, _, name = path.rpartition("/")
    inside = await store.files(path) if entry.folder else ()
    count, size = (len(inside), sum(f.size for f in inside)) if entry.folder else (1, entry.size)
    what = f"folder {path} with {count_files(count)}" if entry.folder else f"file {path}"
    plan = Plan("drive.trash", f"move the {what}, {formats.size(size)}, to the store's trash", (store.local(path),))
    if ctx.dry_run:
        return plan
    ctx.approve(plan)
    if entry.folder and store.kind == "bucket":
        await store.trash(path, [f.path for f in inside])
    else:
        await store.trash(above, [name])
    return Trashed(path, count, size)


# The queue


async def transfers(ctx: Context, params: TransfersParams) -> Transfers | TransferLines:
    """The queue: what runs, what waits, what is over."""
    seen = await asyncio.to_thread(read_all, ctx.workspace)
    chosen = tuple(t for t in seen.transfers if params.state in ("", t.state))
    if params.whole:
        return Transfers(chosen, seen.worker)
    return TransferLines(tuple(_line(t) for t in chosen), seen.worker)


def _line(seen: TransferView) -> TransferLine:
    share = 1.0 if seen.state == "done" else seen.done_bytes / seen.total_bytes if seen.total_bytes else None
    speed = f"{formats.size(seen.rate)}/s" if seen.rate is not None else ""
    bad = seen.reason if seen.state != "done" else ""
    what = f"{seen.direction} {seen.label}{', in the foreground' * seen.foreground}"
    return TransferLine(seen.id, seen.state, what, share, seen.total_bytes, speed, seen.eta_s, seen.retries, bad)


async def pause(ctx: Context, params: TransferParams) -> TransferView | Plan:
    """Let a transfer rest; what arrived stays. Raises Refused when it is over, or when its own command moves it."""
    return await _wish(ctx, params.transfer, "pause")


async def cancel(ctx: Context, params: TransferParams) -> TransferView | Plan:
    """End a transfer; what arrived stays. Raises Refused when it is over."""
    return await _wish(ctx, params.transfer, "cancel")


async def _wish(ctx: Context, word: str, wish: str) -> TransferView | Plan:
    ctx.will_write(f"drive.{wish}")
    folder = await asyncio.to_thread(items.find, ctx.workspace, word)
    seen = await asyncio.to_thread(read, ctx.workspace, folder)
    if seen.state in FINISHED:
        raise Refused(f"The transfer {seen.id} is {seen.state}; there is nothing to {wish}.", hint=seen.hint)
    if wish == "pause" and seen.foreground:
        raise Refused(
            f"The transfer {seen.id} is moved by the command that asked for it and can't be paused.",
            hint="drive.cancel ends that command; drive.resume then goes on in the background.",
        )
    if ctx.dry_run:
        return Plan(f"drive.{wish}", f"{wish} the transfer {seen.id}; what arrived stays")
    await asyncio.to_thread(items.ask, folder, wish)
    return await _settled(ctx.workspace, folder)


async def _settled(workspace: Workspace, folder: Path) -> TransferView:
    """The transfer once the worker has let go of it, or as it is after some seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SOON_S
    while True:
        seen = await asyncio.to_thread(read, workspace, folder)
        if seen.state not in ("running", "retrying") or loop.time() > until:
            return seen
        await asyncio.sleep(0.05)


async def resume(ctx: Context, params: TransferParams) -> TransferView | Plan:
    """Go on with a transfer that is paused, interrupted, cancelled or failed; one that waits tries again at once.

    Raises Refused when it runs or is done.
    """
    ctx.will_write("drive.resume")
    folder = await asyncio.to_thread(items.find, ctx.workspace, params.transfer)
    seen = await asyncio.to_thread(read, ctx.workspace, folder)
    if seen.state in ("running", "done"):
        raise Refused(f"The transfer {seen.id} is {seen.state}; there is nothing to resume.")
    if ctx.dry_run:
        return Plan("drive.resume", f"go on with the transfer {seen.id}")
    return await asyncio.to_thread(_resume, ctx.workspace, folder, seen)


def _resume(workspace: Workspace, folder: Path, seen: TransferView) -> TransferView:
    items.ask(folder, "now")
    items.ask(folder, "again", str(seen.attempt))
    items.forget(folder, "pause", "cancel")
    items.start_worker(workspace)
    return wait_for_worker(workspace, folder)


async def priority(ctx: Context, params: PriorityParams) -> Transfers | Plan:
    """Move a transfer up or down in the queue. One that runs makes room for one that waits and is higher now.

    Raises Refused for one that its own command moves: it has no place in the order.
    """
    ctx.will_write("drive.priority")
    folder = await asyncio.to_thread(items.find, ctx.workspace, params.transfer)
    all_of_them = (await asyncio.to_thread(read_all, ctx.workspace)).transfers
    if any(t.foreground and t.id == folder.name for t in all_of_them):
        raise Refused(f"The transfer {folder.name} is moved by the command that asked for it: it waits for no other.")
    waiting = [t for t in all_of_them if t.state not in FINISHED and not t.foreground]
    wanted = _wanted(params.to, items.number(folder, "priority"), [t.priority for t in waiting if t.id != folder.name])
    if ctx.dry_run:
        return Plan("drive.priority", f"give the transfer {folder.name} the priority {wanted}")
    await asyncio.to_thread(items.ask, folder, "priority", str(wanted))
    return await asyncio.to_thread(read_all, ctx.workspace)


def _wanted(to: str, now: int, others: list[int]) -> int:
    """The priority that moves it one place past the nearest other group: up beyond those at or above it."""
    if to == "up":
        return min((p for p in others if p >= now), default=now) + 1
    if to == "down":
        return max((p for p in others if p <= now), default=now) - 1
    return int(to)


async def clear(ctx: Context, params: ClearParams) -> Cleared | Plan:
    """Forget transfers that are over; what they moved stays. Raises Refused for one that is not over."""
    ctx.will_write("drive.clear")
    seen = (await asyncio.to_thread(read_all, ctx.workspace)).transfers
    over = [t.id for t in seen if t.state in FINISHED]
    if params.transfer:
        one = (await asyncio.to_thread(items.find, ctx.workspace, params.transfer)).name
        if one not in over:
            raise Refused(f"The transfer {one} is not over.", hint="drive.cancel ends it.")
        over = [one]
    if ctx.dry_run:
        return Plan("drive.clear", f"forget {len(over)} finished transfer{'s' * (len(over) != 1)}", tuple(over))
    try:
        for name in over:
            folder = items.queue(ctx.workspace) / name
            await asyncio.to_thread(shutil.rmtree, folder)
    except OSError as error:
        raise HybridError(f"{error.filename} can't be removed: {(error.strerror or str(error)).lower()}.") from error
    return Cleared(tuple(over))
