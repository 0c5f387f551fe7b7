"""Carries out what a comparison found: push or pull, manifest last, extras to the store's trash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from services.drive.store import Copied, Source, Store, Wanted, parts
from services.errors import BadInput, HybridError
from services.transfers.manifest import MANIFEST, check_copied, local_manifest
from services.transfers.meter import Meter, Reading
from services.transfers.plan import Comparison, Pair, files, problems
from services.transfers.types import Moved

Report = Callable[[Reading], None]


async def carry_out(
    store: Store,
    found: Comparison,
    report: Report,
    *,
    delete: bool = False,
    total_bytes: int = 0,
    total_files: int = 0,
) -> Moved:
    """Do what ``found`` says. ``total_…`` are what the first attempt of a resumed transfer had to move.

    Cancelling leaves what arrived; comparing and carrying out again goes on from there. Raises what the store raises,
    and HybridError at the end when files had to be left behind by a push.
    """
    began = time.monotonic()
    todo = found.of("new", "changed")
    sizes = {p.plan.path: p.plan.bytes for p in todo}
    meter = Meter(sizes, report, store, total_bytes=total_bytes, total_files=total_files)
    async with _ticking(meter):
        copied = await (_push if found.direction == "push" else _pull)(store, found, todo, meter)
    meter.tick(last=True)
    trashed, unsettled = 0, 0
    if found.direction == "push":
        gone = [p.plan.path for p in found.of("extra") if delete]
        if gone:
            await store.trash(found.store, gone)
        trashed = len(gone)
        sent = {c.path for c in copied}
        if sent and store.kind == "folder":  # a mounted Drive writes later; the others have confirmed every byte
            unsettled = sum(not f.settled and f.path in sent for f in await store.files(found.store))
        _complain(found)
    return Moved(
        found.direction, found.local, found.store, len(copied), sum(c.size for c in copied), len(found.of("same")),
        verified=len(copied) + sum(p.plan.by in ("sha256", "md5") for p in found.of("same")),
        trashed=trashed, unsettled=unsettled, seconds=time.monotonic() - began,
        problems=(*problems(found, delete), *_not_safe_yet(unsettled)),
    )  # fmt: skip


def _not_safe_yet(n: int) -> tuple[str, ...]:
    return (f"{files(n)} not known to have reached Drive yet: the mount has not confirmed it.",) if n else ()


def _complain(found: Comparison) -> None:
    """A push that could not send everything says so, after it has sent the rest."""
    if skipped := found.of("skipped"):
        first = skipped[0].plan
        raise HybridError(
            f"{files(len(skipped))} of {found.local} did not travel, all others did. {first.path!r}: {first.why}.",
            hint="drive.plan lists them all.",
        )


async def _push(store: Store, found: Comparison, todo: Sequence[Pair], meter: Meter) -> tuple[Copied, ...]:
    entries = await asyncio.to_thread(local_manifest, Path(found.local))
    wrong = [p.plan.path for p in found.pairs if p.here and (e := entries.get(p.plan.path)) and e.size != p.here.size]
    if wrong:
        raise BadInput(
            f"{wrong[0]} in {found.local} has not the size that manifest.json says.",
            hint="Bring the file back from where it is whole; if it was changed on purpose, remove manifest.json.",
        )
    sources = [Source(p.here.local, p.plan.path, p.plan.bytes) for p in todo if p.here]
    last = [s for s in sources if s.path == MANIFEST]
    copied: tuple[Copied, ...] = ()
    for batch in ([s for s in sources if s.path != MANIFEST], last):
        if batch:
            check_copied(entries, copied, found.local)
            copied += await store.put_files(batch, found.store, meter.hear, replace=True)
            meter.arrived(s.path for s in batch)
    check_copied(entries, [c for c in copied if c.path != MANIFEST], found.local)
    return copied


async def _pull(store: Store, found: Comparison, todo: Sequence[Pair], meter: Meter) -> tuple[Copied, ...]:
    top = Path(found.local)
    wanted = [
        Wanted(p.plan.path, str(top.joinpath(*parts(p.plan.path))), p.plan.bytes, p.sha256) for p in todo if p.there
    ]
    await asyncio.to_thread(_make_folders, top, wanted)
    copied: tuple[Copied, ...] = ()
    for batch in ([w for w in wanted if w.path != MANIFEST], [w for w in wanted if w.path == MANIFEST]):
        if batch:
            copied += await store.get_files(batch, found.store, meter.hear)
            meter.arrived(w.path for w in batch)
    await asyncio.to_thread(_same_times, wanted, {p.plan.path: p.there.modified for p in todo if p.there})
    return copied


def _make_folders(top: Path, wanted: Sequence[Wanted]) -> None:
    for folder in {top, *(Path(w.local).parent for w in wanted)}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"The folder {folder} can't be made: {(error.strerror or str(error)).lower()}.") from error


def _same_times(wanted: Sequence[Wanted], modified: dict[str, float]) -> None:
    """What was fetched is as old as in the store, so that a later comparison by time finds it the same."""
    for file in wanted:
        if at := modified.get(file.path):
            with contextlib.suppress(OSError):
                os.utime(file.local, (at, at))


@contextlib.asynccontextmanager
async def _ticking(meter: Meter) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            meter.tick()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
