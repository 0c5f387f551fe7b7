"""All budgets at once, each with its figures and what to do when it is broken."""

from __future__ import annotations

from services import formats
from services.storage import disk
from services.storage.types import Caches, DiskUsage
from services.storage.upkeep.samples import DAY
from services.storage.upkeep.types import Finding, Forecast, RepoCheck, TaskList

CHECKS = ("used", "free", "caches", "repo-size", "repo-files", "forecast", "upkeep")
DEFAULT = ("used", "free", "caches", "repo-size", "repo-files")
_SCAN = "hybrid-tui --run storage.scan shows what fills it, storage.caches what can go."


def used(usage: DiskUsage) -> Finding:
    """How much of the disk is used."""
    if broken := disk.used_problem(usage):
        return Finding("used", "broken", broken, usage.used_bytes, usage.budget_bytes, _SCAN)
    budget = formats.size(usage.budget_bytes)
    words = f"{formats.size(usage.used_bytes)} of the disk are used, within the budget of {budget}."
    return Finding("used", "ok", words, usage.used_bytes, usage.budget_bytes)


def free(usage: DiskUsage) -> Finding:
    """How much of the disk is free."""
    if broken := disk.free_problem(usage):
        return Finding("free", "broken", broken, usage.free_bytes, usage.min_free_bytes, _SCAN)
    words = f"{formats.size(usage.free_bytes)} are free; {formats.size(usage.min_free_bytes)} must stay free."
    return Finding("free", "ok", words, usage.free_bytes, usage.min_free_bytes)


def caches(found: Caches) -> Finding:
    """What the caches take together; one that could not be measured leaves the budget unknown, unless it is broken."""
    total, budget = found.total_bytes, found.budget_bytes
    if broken := disk.caches_problem(total, budget):
        hint = "hybrid-tui --run storage.caches lists them, storage.clean cleans them."
        return Finding("caches", "broken", broken, total, budget, hint)
    lacking = [cache.kind for cache in found.caches if cache.exists and (cache.bytes is None or cache.problem)]
    if lacking or not found.complete:
        words = f"The caches take {formats.size(total)} or more: not all of {', '.join(lacking) or 'them'} may be read."
        return Finding("caches", "unknown", words, total, budget, "hybrid-tui --run storage.caches says why.")
    words = f"The caches take {formats.size(total)}, within their budget of {formats.size(budget)}."
    return Finding("caches", "ok", words, total, budget)


def repo_size(repo: RepoCheck) -> Finding:
    """What the git folder takes on the disk."""
    if repo.git_bytes is None:
        words = repo.sentence if not repo.git_dir else "The size of the git folder could not be read."
        return Finding("repo-size", "unknown", words, None, repo.budget_bytes)
    size, budget = formats.size(repo.git_bytes), formats.size(repo.budget_bytes)
    if repo.git_bytes > repo.budget_bytes:
        over = formats.size(repo.git_bytes - repo.budget_bytes)
        words = f"The git repository takes {size}, {over} more than its budget of {budget}."
        return Finding("repo-size", "broken", words, repo.git_bytes, repo.budget_bytes, _REPO)
    words = f"The git repository takes {size}, within its budget of {budget}."
    return Finding("repo-size", "ok", words, repo.git_bytes, repo.budget_bytes)


_REPO = "hybrid-tui --run repo.check shows the files and the commands that take them out."


def repo_files(repo: RepoCheck) -> Finding:
    """Whether model files or large ones lie in git."""
    if repo.count:
        names = ", ".join(file.path for file in repo.files[:3]) + (", …" if repo.count > 3 else "")
        words = (
            f"{repo.count} model or large file{'s' * (repo.count != 1)} of {formats.size(repo.bytes)} in git: {names}."
        )
        return Finding("repo-files", "broken", words, repo.bytes, 0, _REPO)
    if repo.level == "unknown" or repo.history == "broken":
        words = repo.problems[0] if repo.git_dir and repo.problems else repo.sentence
        return Finding("repo-files", "unknown", words, None, 0)
    words = {
        "skipped": "No model files in git's index; history was not looked at.",
        "shallow": "No model files in git, as far as this shallow or partial clone goes.",
    }.get(repo.history, "No model files in git, neither in the index nor in history.")
    return Finding("repo-files", "ok", words, 0, 0)


def forecast(found: Forecast, warn_days: float, now: float) -> Finding:
    """Whether the disk is full, or a budget of it broken, within ``warn_days`` at its present rate."""
    dates = [date for date in (found.full_at, found.budget_at) if date is not None]
    rate = None if found.slope_bytes_per_day is None else round(found.slope_bytes_per_day)
    if dates and min(dates) < now + warn_days * DAY:
        words = found.sentence if found.state == "growing" else "A budget of the disk is broken already."
        return Finding("forecast", "broken", words, rate, None, _SCAN)
    return Finding("forecast", "unknown" if found.state == "few" else "ok", found.sentence, rate)


def upkeep(found: TaskList) -> Finding:
    """Whether a task of the team is overdue."""
    late = [task for task in found.tasks if task.state == "overdue"]
    if late:
        names = ", ".join(f"{task.id} ({task.words})" for task in late[:3]) + (", …" if len(late) > 3 else "")
        words = f"{len(late)} upkeep task{'s are' if len(late) > 1 else ' is'} overdue: {names}."
        hint = "hybrid-tui --run upkeep.list shows them, upkeep.done task=… marks one as done."
        return Finding("upkeep", "broken", words, next=hint)
    return Finding("upkeep", "ok", f"No upkeep task is overdue; {found.due or 'none'} due.")
