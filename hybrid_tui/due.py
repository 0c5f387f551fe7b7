"""What a person should look at next, derived from what the services report. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hybrid_tui.screens import PLACES
from services import formats
from services.registry.types import Listing, Version
from services.runs.types import RunView
from services.storage.types import Caches, DiskUsage
from services.storage.upkeep.types import Forecast, Glance, RepoCheck, TaskList

RECENT_SECONDS = 3 * 86400.0
WARN_DAYS = 14.0
DAY = 86400.0
TASKS = 3  # that are named; the others are counted


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
    glance: Glance | None = None,
    warn_days: float = WARN_DAYS,
) -> list[Due]:
    """Everything that is due, most pressing first. A disk that is full within ``warn_days`` is due."""
    found = [*_disk(usage, caches)]
    if glance:
        found += [*_forecast(glance.forecast, now, warn_days), *_repository(glance.repo, now)]
    found += [*_runs(runs, now), *_registry(listing)]
    return [*found, *_tasks(glance.tasks, caches)] if glance else found


def _disk(usage: DiskUsage | None, caches: Caches | None) -> Iterable[Due]:
    for problem in usage.problems if usage else ():
        yield Due(problem, "2 Storage")
    if caches and caches.complete and caches.total_bytes > caches.budget_bytes:
        over = formats.size(caches.total_bytes - caches.budget_bytes)
        yield Due(f"The caches are {over} over their budget of {formats.size(caches.budget_bytes)}.", "2 Storage")


def _forecast(forecast: Forecast, now: float, warn_days: float) -> Iterable[Due]:
    """A budget that is broken already is told by the disk itself."""
    dates = [date for date in (forecast.full_at, forecast.budget_at) if date is not None and date > now]
    if forecast.state == "growing" and dates and min(dates) < now + warn_days * DAY:
        yield Due(forecast.sentence, _place("storage"))
    for problem in forecast.problems:
        yield Due(problem, _place("storage"))


def _repository(repo: RepoCheck | None, now: float) -> Iterable[Due]:
    if repo is not None and repo.level == "broken":
        since = "" if repo.current else f" Checked {formats.age(repo.checked_at, now)}; git has changed since."
        yield Due(f"{repo.sentence}{since}", _place("storage"))


def _tasks(tasks: TaskList, caches: Caches | None) -> Iterable[Due]:
    """Tasks of the team whose day has come; the caches' one only where the caches don't speak for themselves."""
    over = caches is not None and caches.total_bytes > caches.budget_bytes
    found = [t for t in tasks.tasks if t.state in ("due", "overdue") and not (over and t.id == "caches")]
    for task in found[:TASKS]:
        condition = f" {task.condition}" if task.condition else ""
        yield Due(f"{task.title}: {task.words}.{condition}", _place(task.where))
    if len(found) > TASKS:
        yield Due(f"{len(found) - TASKS} more upkeep tasks are due: upkeep.list.", _place("storage"))
    for problem in tasks.problems:
        yield Due(problem, _place("storage"))


def _place(name: str) -> str:
    return next((f"{place.key} {place.title}" for place in PLACES if place.name == name), name)


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
