"""What a person should look at next, derived from what the services report. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services import formats
from services.registry.types import Listing, Version
from services.runs.types import RunView
from services.storage.types import Caches, DiskUsage

RECENT_SECONDS = 3 * 86400.0


class Due(msgspec.Struct, frozen=True):
    """One thing to do: what is the matter, and where to go."""

    what: str
    where: str


def due(
    usage: DiskUsage | None,
    caches: Caches | None,
    listing: Listing | None,
    runs: Sequence[RunView],
    *,
    now: float,
) -> list[Due]:
    """Everything that is due, most pressing first."""
    return [*_disk(usage, caches), *_runs(runs, now), *_registry(listing)]


def _disk(usage: DiskUsage | None, caches: Caches | None) -> Iterable[Due]:
    for problem in usage.problems if usage else ():
        yield Due(problem, "2 Storage")
    if caches and caches.complete and caches.total_bytes > caches.budget_bytes:
        over = formats.size(caches.total_bytes - caches.budget_bytes)
        yield Due(f"The caches are {over} over their budget of {formats.size(caches.budget_bytes)}.", "2 Storage")


def _runs(runs: Sequence[RunView], now: float) -> Iterable[Due]:
    for run in runs:
        recent = now - (run.ended_at or run.created_at) < RECENT_SECONDS
        if run.phase in ("failed", "lost", "over-budget") and recent:
            resume = " It can be resumed from its last checkpoint." if run.last_checkpoint else ""
            reason = f": {run.reason.rstrip('.')}" if run.reason else ""
            yield Due(f"Run {run.id} {_ended(run.phase)}{reason}.{resume}", "4 Training")
        for problem in run.problems[:1]:
            yield Due(f"Run {run.id}: {problem}", "4 Training")


def _ended(phase: str) -> str:
    return {"failed": "failed", "lost": "was lost", "over-budget": "went over its budget"}[phase]


def _registry(listing: Listing | None) -> Iterable[Due]:
    if listing is None:
        return
    for problem in listing.problems:
        yield Due(problem, "3 Registry")
    for newest in newest_versions(listing.versions):
        deployed = next((v for v in listing.versions if v.model == newest.model and "deployed" in v.aliases), None)
        if deployed is None:
            yield Due(f"{newest.id} is registered; nothing of {newest.model} is deployed yet.", "3 Registry")
        elif newest.version > deployed.version:
            yield Due(f"{newest.id} is newer than the deployed {deployed.id}.", "3 Registry")


def newest_versions(versions: Iterable[Version]) -> list[Version]:
    """The highest version of each model."""
    newest: dict[str, Version] = {}
    for version in versions:
        if version.model not in newest or version.version > newest[version.model].version:
            newest[version.model] = version
    return list(newest.values())
