"""What can go, what would go, and what went: the types that the kinds, the plans and the panel share.

Sizes are bytes on disk (allocated blocks). Paths are text as ``services.storage.paths.shown`` writes them.
``notes`` are sentences that a person should read with the result.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Risk = Literal["none", "low", "high"]
"""none: it comes back by itself, at no more cost than time. low: a download or a rebuild brings it back.
high: it may hold what exists nowhere else."""


class Item(msgspec.Struct, frozen=True):
    """One thing that a person can mark: ``paths`` go whole, or not at all.

    ``id`` is "kind:name", stable from scan to scan, what ``storage.clean items=`` takes. ``bytes`` counts a hard link
    once within the item; ``freed_bytes`` counts a file only if every one of its names lies in the item.
    ``last_used`` is the newest access or change of a regular file in it, Unix seconds. ``used_by`` names what holds it
    now ("python (4711)", "banking@deployed"). ``suggested``: "mark all that is safe" marks it: its risk is none or
    low, nobody holds it. ``note`` is one more sentence, "" if none.
    """

    id: str
    kind: str
    name: str
    paths: tuple[str, ...]
    bytes: int
    freed_bytes: int
    files: int
    last_used: float | None
    restore: str
    risk: Risk
    used_by: tuple[str, ...] = ()
    suggested: bool = True
    note: str = ""


class KindItems(msgspec.Struct, frozen=True):
    """One cache kind on this box, with all that can go of it.

    ``paths`` are its places, whether or not they exist (``exists``: at least one does); nothing outside them is ever
    removed for this kind. ``bytes`` is None until measured. ``budgeted``: it counts against the caches' budget.
    ``command`` is the owning tool's own way to clean, "" if there is none ("uv cache prune"); ``problem`` says why it
    could not be measured, or was only in part.
    """

    kind: str
    title: str
    paths: tuple[str, ...]
    exists: bool
    bytes: int | None
    freed_bytes: int | None
    files: int | None
    last_used: float | None
    restore: str
    risk: Risk
    items: tuple[Item, ...] = ()
    budgeted: bool = True
    command: str = ""
    problem: str = ""


class Reclaimable(msgspec.Struct, frozen=True):
    """All kinds, largest first; ``cache_bytes`` is what counts against ``budget_bytes``. A file counts once."""

    kinds: tuple[KindItems, ...]
    cache_bytes: int
    budget_bytes: int
    complete: bool
    problems: tuple[str, ...] = ()


class PlanLine(msgspec.Struct, frozen=True):
    """One item of a plan. ``item`` is its id, or "path:…" for a path marked in the explorer."""

    item: str
    title: str
    paths: tuple[str, ...]
    bytes: int
    freed_bytes: int
    files: int
    risk: Risk
    restore: str


class Held(msgspec.Struct, frozen=True):
    """Something that was chosen and will not be touched, and why, in a sentence."""

    path: str
    reason: str


class CleanPlan(msgspec.Struct, frozen=True):
    """What a clean-up would do, computed and kept before anything is done; ``storage.clean plan=ID`` does just this.

    ``scope`` says it in words. ``freed_bytes`` counts a file only if all its names are in the plan; until the trash is
    emptied nothing is free. ``moves_bytes`` is what would be moved. ``id`` is "" when it could not be kept (read-only).
    """

    id: str
    created_at: float
    scope: str
    lines: tuple[PlanLine, ...]
    held: tuple[Held, ...]
    freed_bytes: int
    moves_bytes: int
    files: int
    notes: tuple[str, ...] = ()


class Cleaned(msgspec.Struct, frozen=True):
    """What a clean-up did. ``batch`` is its place in the trash ("" when freed at once or nothing was moved).

    ``freed_bytes`` is the plan's estimate for what went; ``disk_freed_bytes`` the true difference of the disk's free
    bytes (about 0 while it lies in the trash). ``held`` is what was left, with the reason: changed since the plan, in
    use, …
    """

    plan: str
    batch: str
    scope: str
    files: int
    freed_bytes: int
    disk_freed_bytes: int
    seconds: float
    held: tuple[Held, ...] = ()
    notes: tuple[str, ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """One clean-up that lies in the trash. ``state``: whole, partly (some restored), or interrupted."""

    id: str
    at: float
    scope: str
    titles: tuple[str, ...]
    bytes: int
    files: int
    expires_at: float
    state: Literal["whole", "partly", "interrupted"]
    place: str


class TrashList(msgspec.Struct, frozen=True):
    """What lies in the trash, newest first."""

    batches: tuple[Batch, ...]
    total_bytes: int
    notes: tuple[str, ...] = ()


class Restored(msgspec.Struct, frozen=True):
    """What an undo brought back. ``kept`` is what stays in the trash since its old place is taken, with the reason."""

    batch: str
    files: int
    bytes: int
    kept: tuple[Held, ...] = ()
    notes: tuple[str, ...] = ()


class Purged(msgspec.Struct, frozen=True):
    """What was deleted for good. ``disk_freed_bytes`` is the true difference of the disk's free bytes."""

    batches: tuple[str, ...]
    files: int
    bytes: int
    disk_freed_bytes: int
    notes: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """One line of the clean-up history."""

    at: float
    what: Literal["trashed", "freed", "restored", "purged", "recovered"]
    scope: str
    bytes: int
    disk_freed_bytes: int
    files: int
    batch: str = ""
    extra: dict[str, Any] = {}


class CleanHistory(msgspec.Struct, frozen=True):
    """What was cleaned, newest first; ``total_bytes`` is what the disk really got back."""

    events: tuple[Event, ...]
    total_bytes: int
    problems: tuple[str, ...] = ()
