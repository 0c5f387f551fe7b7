"""Actions that move folders between this box and the store: plan, push, pull, verify."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.drive.open import open_store
from services.drive.store import Store, parts
from services.errors import BadInput, CheckFailed
from services.transfers import foreground, items, plan, verifying
from services.transfers.guards import check_free
from services.transfers.meter import Reading
from services.transfers.plan import Comparison
from services.transfers.types import Direction, Moved, Spec, TransferPlan, TransferView, Verified
from services.transfers.view import wait_for_worker

_STEPS = 12  # files that a plan names before it counts

_Background = Annotated[bool, Meta(description="Queue it: it goes on after this command and the panel end.")]
_Delete = Annotated[bool, Meta(description="Move what is only in the store to the store's trash.")]


class PushParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to send, and where to."""

    path: Annotated[str, Meta(min_length=1, description="Local folder or file; relative to the workspace.")]
    to: Annotated[
        str, Meta(min_length=1, description='Folder in the store that becomes equal to it; "models/": into models.')
    ]
    delete: _Delete = False
    background: _Background = False


class PullParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to fetch, and where to."""

    what: Annotated[
        str, Meta(min_length=1, description="Folder or file in the store, or a version: banking@2, banking@deployed.")
    ]
    to: Annotated[str, Meta(description="Local folder; empty: .hybrid/models/<name>.")] = ""
    background: _Background = False


class PlanParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which two folders to compare."""

    direction: Annotated[Literal["push", "pull"], Meta(description="push: this box to the store; pull: back.")]
    path: Annotated[str, Meta(description="Local folder or file; with pull empty: .hybrid/models/<name>.")] = ""
    what: Annotated[str, Meta(min_length=1, description="Folder in the store; with pull also a version.")] = ""
    delete: _Delete = False


class VerifyParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which two folders should be equal."""

    what: Annotated[str, Meta(min_length=1, description="Folder in the store, or a version: banking@2.")]
    path: Annotated[str, Meta(description="Local folder; empty: .hybrid/models/<name>.")] = ""


class _Sides(msgspec.Struct, frozen=True):
    """The two folders that a transfer is about; ``only`` one file of them, "" for all."""

    local: Path
    store: str
    only: str
    label: str


async def push(ctx: Context, params: PushParams) -> Moved | TransferView | Plan:
    """Make a folder of the store equal to a local one: what is new or changed travels, manifest.json last.

    Overwriting, and moving extras to the trash, needs a yes. Raises BadInput, NeedsYes, Refused (a registered version
    lies there), StoreUnreachable, HybridError.
    """
    ctx.will_write("drive.push")
    sides = await asyncio.to_thread(_push_sides, ctx, params.path, params.to)
    await check_free(ctx.workspace, _under(sides), "overwritten")
    return await _transfer(ctx, "push", sides, params.delete, params.background)


async def pull(ctx: Context, params: PullParams) -> Moved | TransferView | Plan:
    """Fetch a folder (or a registered version) of the store: what is missing or different here, verified.

    Overwriting local files, and breaking a disk budget, needs a yes. Raises BadInput, NeedsYes, Refused (it does not
    fit the disk), StoreUnreachable, Corrupted, HybridError.
    """
    ctx.will_write("drive.pull")
    sides = await _pull_sides(ctx, open_store(ctx.workspace), params.what, params.to)
    return await _transfer(ctx, "pull", sides, False, params.background)


async def plan_of(ctx: Context, params: PlanParams) -> TransferPlan:
    """What a push or pull would do, file by file. Raises BadInput, Refused, StoreUnreachable."""
    store = open_store(ctx.workspace)
    if params.direction == "push":
        sides = await asyncio.to_thread(_push_sides, ctx, params.path, params.what)
        await check_free(ctx.workspace, _under(sides), "overwritten")
    else:
        sides = await _pull_sides(ctx, store, params.what, params.path)
    found = await _compared(ctx, store, params.direction, sides)
    return plan.public(found, store.local(_under(sides)), await _space(ctx, found), params.delete)


async def verify(ctx: Context, params: VerifyParams) -> Verified:
    """Compare a local folder with the store's byte for byte as far as checksums are known; nothing is changed.

    Raises CheckFailed, with the result, when a file is missing here or differs.
    """
    store = open_store(ctx.workspace)
    sides = await _pull_sides(ctx, store, params.what, params.path)
    if not sides.local.is_dir():
        raise BadInput(
            f"There is no folder {sides.local} to verify.", hint=f"drive.pull what={params.what} fetches it."
        )
    told = _reading(ctx, "verify")
    result = await verifying.verify(store, sides.local, sides.store, sides.only, told)
    if not result.ok:
        wrong = len(result.missing) + len(result.changed) + len(result.problems)
        raise CheckFailed(
            f"{sides.local} is not what lies in the store: {_differences(wrong)}.", result,
            hint="drive.pull mends the local side, drive.push the store's.",
        )  # fmt: skip
    return result


def _differences(n: int) -> str:
    return "1 file differs" if n == 1 else f"{n} files differ"


async def _transfer(
    ctx: Context, direction: Direction, sides: _Sides, delete: bool, background: bool
) -> Moved | TransferView | Plan:
    store = open_store(ctx.workspace)
    found = await _compared(ctx, store, direction, sides)
    budget = await _space(ctx, found)
    wanted = as_plan(f"drive.{direction}", plan.public(found, store.local(_under(sides)), budget, delete), delete)
    if ctx.dry_run:
        return wanted
    if found.of("changed") or budget or (delete and found.of("extra")):
        ctx.approve(wanted)
    spec = Spec(
        1, items.new_id(), direction, str(sides.local), sides.store, sides.only, delete, ctx.yes,
        items.place(ctx.workspace.settings), sides.label, time.time(), foreground=not background,
    )  # fmt: skip
    if background:
        return await asyncio.to_thread(_enqueue, ctx, spec)
    stage = "sending" if direction == "push" else "fetching"
    return await foreground.carry_out(ctx.workspace, spec, store, found, lambda r: ctx.report(_progress(stage, r)))


def _enqueue(ctx: Context, spec: Spec) -> TransferView:
    folder = items.add(ctx.workspace, spec)
    items.start_worker(ctx.workspace)
    return wait_for_worker(ctx.workspace, folder)


def as_plan(action: str, seen: TransferPlan, delete: bool = False) -> Plan:
    """A comparison as the plan that a person says yes to."""
    words = [f"{seen.new} new", f"{seen.changed} changed" + ", overwritten" * bool(seen.changed), f"{seen.same} same"]
    if seen.extra:
        where = "the store" if seen.direction == "push" else "this box"
        words.append(f"{seen.extra} only in {where}" + (", to its trash" if delete else ", left alone"))
    way = f"{seen.local} → {seen.store}" if seen.direction == "push" else f"{seen.store} → {seen.local}"
    marks = {"new": "+", "changed": "~", "extra": "-" if delete else "=", "skipped": "!"}
    steps = [f"▲ {problem}" for problem in (seen.budget, *seen.problems) if problem]
    steps += [f"{marks[f.state]} {f.path}  {formats.size(f.bytes)}" for f in seen.files[:_STEPS]]
    if len(seen.files) > _STEPS:
        steps.append(f"and {formats.count(len(seen.files) - _STEPS)} more")
    return Plan(action, f"{way}: {', '.join(words)}", tuple(steps), written_bytes=seen.send_bytes)


async def _compared(ctx: Context, store: Store, direction: Direction, sides: _Sides) -> Comparison:
    ctx.report(Progress("comparing"))
    return await plan.compare(store, direction, sides.local, sides.store, sides.only, _reading(ctx, "comparing"))


def _reading(ctx: Context, stage: str) -> plan.Told:
    """Tells of bytes that are read for checksums, ten times a second at most."""
    read_bytes, told_at = 0, 0.0

    def told(n: int) -> None:
        nonlocal read_bytes, told_at
        read_bytes += n
        if time.monotonic() - told_at > 0.1:
            told_at = time.monotonic()
            ctx.report(Progress(stage, read_bytes, None, "bytes", f"{formats.size(read_bytes)} read for checksums"))

    return told


async def _space(ctx: Context, found: Comparison) -> str:
    if found.direction == "push":
        return ""
    return await asyncio.to_thread(plan.check_space, found, ctx.workspace.settings.disk)


def _progress(stage: str, reading: Reading) -> Progress:
    words = [f"{formats.size(reading.done_bytes)} of {formats.size(reading.total_bytes)}"]
    words.append(f"{reading.done_files} of {plan.files(reading.total_files)}")
    if reading.rate:
        words.append(f"{formats.size(reading.rate)}/s")
    if reading.eta_s:
        words.append(f"{formats.duration(reading.eta_s)} left")
    if reading.retries:
        words.append(f"{reading.retries} retries")
    return Progress(stage, reading.done_bytes, reading.total_bytes, "bytes", ", ".join(words))


# Which folders are meant


def _push_sides(ctx: Context, path: str, to: str) -> _Sides:
    target = _folder(to)
    given = Path(path).expanduser()
    local = next((p for p in (ctx.workspace.root / given, given.absolute()) if p.exists()), None)
    if local is None:
        raise BadInput(f"There is no folder {given}.", hint="Give path=DIR, relative to the workspace or absolute.")
    if local.is_file():
        return _Sides(local.parent, target, local.name, to)
    if to.endswith("/"):  # into that folder, under its own name
        target = f"{target}/{local.resolve().name}"
    return _Sides(local, target, "", target)


async def _pull_sides(ctx: Context, store: Store, what: str, to: str) -> _Sides:
    folder = await _version_folder(ctx, what) if "@" in what and "/" not in what else _folder(what)
    entry = await store.stat(folder)
    if entry is None:
        raise BadInput(f"There is no {folder} in the store.", hint="drive.list shows what there is.")
    name = folder.rpartition("/")[2]
    if entry.folder:
        local = _local(ctx, to) if to else ctx.workspace.models / name
        return _Sides(local, folder, "", what)
    above = folder.rpartition("/")[0]
    if not above:
        raise BadInput(f"{folder} lies in the store's root.", hint="Files are fetched out of a folder.")
    return _Sides(_local(ctx, to) if to else ctx.workspace.models, above, name, what)


def _local(ctx: Context, to: str) -> Path:
    place = ctx.workspace.root / Path(to).expanduser()
    if place.exists() and not place.is_dir():
        raise BadInput(f"{place} is not a folder.", hint="Give to=DIR.")
    return place


async def _version_folder(ctx: Context, reference: str) -> str:
    from services.registry.registry import find_version, open_registry, split_reference

    model, version = split_reference(reference)
    registry = open_registry(ctx.workspace)
    state, _ = await registry.read()
    number = find_version(state, model, version or "latest")
    [place] = await registry.places([state.models[model][number - 1].added])
    return place


def _folder(path: str) -> str:
    """A folder's path in the store without slashes around it. Raises BadInput."""
    trimmed = path.strip("/")
    parts(trimmed)
    return trimmed


def _under(sides: _Sides) -> str:
    return f"{sides.store}/{sides.only}" if sides.only else sides.store
