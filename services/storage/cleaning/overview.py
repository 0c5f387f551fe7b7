"""Plans and batches as a person reads them, and which batches are meant."""

from __future__ import annotations

import time

from services import formats
from services.context import Plan
from services.errors import BadInput, HybridError, nearest
from services.storage import paths
from services.storage.cleaning.params import PurgeParams
from services.storage.cleaning.plan import exact
from services.storage.cleaning.store import Note, Store
from services.storage.reclaim import Batch, CleanPlan


def shown(plan: CleanPlan, now: bool, expired: list[tuple[str, Note]]) -> Plan:
    """The plan as a person is asked about it."""
    what = f"{count(len(plan.lines), 'item', 'items')}, {count(plan.files, 'file', 'files')}"
    if now:
        summary = f"Delete {what} for good, which frees {exact(plan.freed_bytes)}; nothing brings them back."
    else:
        summary = (
            f"Move {what}, {exact(plan.moves_bytes)}, to the trash; once that is emptied, "
            f"{exact(plan.freed_bytes)} are free."
        )
    steps = [f"scope: {plan.scope}"]
    lines = [f"{line.item}: {formats.size(line.bytes)}, {', '.join(line.paths[:3])}" for line in plan.lines]
    steps += _some(lines, "items")
    steps += _some([f"stays: {held.path}: {held.reason}" for held in plan.held], "that stay")
    if expired:
        size = sum(note.size or 0 for _, note in expired)
        steps.append(
            f"the trash's time is over for {count(len(expired), 'batch', 'batches')}: {exact(size)} deleted for good"
        )
    steps += plan.notes
    if plan.id:
        steps.append(f"plan={plan.id} does exactly this")
    return Plan("storage.clean", summary, tuple(steps), freed_bytes=plan.freed_bytes)


def listed(store: Store) -> tuple[list[tuple[str, Note]], tuple[str, ...]]:
    """What lies in the trash, newest first, and what could not be read of it."""
    found = []
    problems = []
    for batch in store.ids():
        try:
            note = store.journal(batch).read()
        except FileNotFoundError:
            continue
        except HybridError as error:
            problems.append(f"{error} {error.hint}".strip())
            continue
        if note is not None and note.phase != "done":
            found.append((batch, note))
    return found, tuple(problems)


def one(store: Store, name: str) -> tuple[str, Note]:
    """The batch ``name``, or the latest. Raises BadInput."""
    batches = listed(store)[0]
    if not batches:
        raise BadInput("The trash is empty.", hint="storage.history tells what was cleaned.")
    if not name:
        return batches[0]
    for batch, note in batches:
        if batch == name:
            return batch, note
    raise BadInput(
        f"There is no batch '{name}' in the trash{nearest(name, [b for b, _ in batches]) or '.'}",
        hint="storage.trash lists them.",
    )


def chosen(store: Store, params: PurgeParams) -> list[tuple[str, Note]]:
    """The batches that ``storage.purge`` means. Raises BadInput."""
    batches = [one(store, params.batch)] if params.batch else listed(store)[0]
    return older(batches, params.older_than_days) if params.older_than_days is not None else batches


def older(batches: list[tuple[str, Note]], days: float) -> list[tuple[str, Note]]:
    """Those of ``batches`` that have lain there for more than so many days."""
    return [(batch, note) for batch, note in batches if time.time() - (note.at or 0) > days * 86400]


def expired(store: Store, days: float) -> list[tuple[str, Note]]:
    """The batches whose ``days`` in the trash are over."""
    return older([(batch, note) for batch, note in listed(store)[0] if note.phase == "trashed"], days)


def row(batch: str, note: Note, days: float) -> Batch:
    """A batch as it is listed."""
    at = note.at or 0.0
    return Batch(
        id=batch,
        at=at,
        scope=note.scope or "",
        titles=note.titles or (),
        bytes=note.size or 0,
        files=note.files or 0,
        expires_at=at + days * 86400,
        state="interrupted" if note.phase != "trashed" else "partly" if note.partly else "whole",
        place=", ".join(paths.shown(place.decode("utf-8", "surrogateescape")) for place in note.places or []),
    )


def figures(note: Note) -> str:
    """Its files and bytes in words."""
    return f"{count(note.files or 0, 'file', 'files')}, {exact(note.size or 0)}"


def _some(lines: list[str], what: str) -> list[str]:
    """The first hundred; storage.plan shows all."""
    return lines if len(lines) <= 100 else [*lines[:100], f"… and {len(lines) - 100:,} more {what}"]


def count(n: int, one: str, many: str) -> str:
    """ "1 file", "2 files"."""
    return f"{n:,} {one if n == 1 else many}"
