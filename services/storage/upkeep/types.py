"""What the actions on budgets and upkeep return. Sizes are bytes, times Unix seconds, sentences end with a full stop."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "broken", "unknown"]
Where = Literal["overview", "storage", "registry", "training", "inference", "advisor"]
"""The name of the screen where a thing is done."""


class Sample(msgspec.Struct, frozen=True):
    """The disk at one moment; ``caches_bytes`` is the last sum measured by then, None when there was none."""

    at: float
    total_bytes: int
    used_bytes: int
    free_bytes: int
    caches_bytes: int | None = None


class Forecast(msgspec.Struct, frozen=True):
    """Where the disk is heading, from recorded samples.

    ``state``: "few" (not enough samples to say anything), "steady" (no trend that stands out from the noise),
    "shrinking", "growing". ``slope_bytes_per_day`` is the growth of the used bytes (None when "few"), between
    ``slope_low`` and ``slope_high`` with 90 % confidence. ``full_at`` is the day nothing is free any more, at the
    earliest ``full_earliest_at`` and at the latest ``full_latest_at``; ``budget_at`` the day a budget of the disk
    breaks (now, if one is broken). They are None where the state gives no date, or where it lies over ten years away.
    ``samples`` are those it was drawn from, thinned, oldest first, for a chart. ``problems`` says what of the record
    could not be read.
    """

    state: Literal["few", "steady", "shrinking", "growing"]
    sentence: str
    slope_bytes_per_day: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    full_at: float | None = None
    full_earliest_at: float | None = None
    full_latest_at: float | None = None
    budget_at: float | None = None
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True):
    """One recurrent task of the team. ``words`` says when it is due ("3 d overdue", "due in 5 d", "nothing to do").

    ``state``: "overdue" (a quarter of its interval late or more), "due", "later" (done, or not due yet), "idle"
    (its condition was looked at and there is nothing to do). ``every`` is its interval as set, ``every_days`` in days.
    ``where`` is the screen on which it is done, ``action`` the action that helps, "" if none. ``condition`` says what
    was found where that can be computed, else "". ``last_done_at`` is None when it was never done; ``by`` and
    ``note`` are of the last time. ``due_at`` is None when idle.
    """

    id: str
    title: str
    every: str
    state: Literal["overdue", "due", "later", "idle"]
    words: str
    where: Where
    action: str
    condition: str
    last_done_at: float | None
    due_at: float | None
    every_days: float
    by: str = ""
    note: str = ""


class TaskList(msgspec.Struct, frozen=True):
    """All upkeep tasks, the most pressing first; ``problems`` names lines and settings that could not be used."""

    tasks: tuple[Task, ...]
    due: int
    problems: tuple[str, ...] = ()


class Marked(msgspec.Struct, frozen=True):
    """A task as it stands after it was marked as done, or after that was taken back; ``sentence`` says what changed."""

    task: Task
    sentence: str


class ModelFile(msgspec.Struct, frozen=True):
    """A file that does not belong in git. ``bytes`` is the content's size, None when git does not have it here.

    ``why``: "model" (its name says so) or "large". ``commit`` is the oldest commit that brought this content under
    this name, "" when it is only in the index or none was found.
    """

    path: str
    bytes: int | None
    why: Literal["model", "large"]
    in_index: bool
    in_history: bool
    commit: str = ""
    committed_at: float | None = None


class RepoCheck(msgspec.Struct, frozen=True):
    """The git repository of the workspace against its budgets.

    ``git_bytes`` is what its ``.git`` folder takes on disk (the one that all its work trees share). ``files`` are the
    largest of ``count`` findings of ``bytes`` in all. ``history``: "whole", "shallow" (only what a shallow clone has),
    "skipped", "broken" (git could not read all of it). ``unreachable_bytes`` are large blobs that no branch or tag
    reaches any more. ``level`` is "unknown" where there is nothing to check, or it can't be: ``sentence`` says why.
    ``remedies`` are shell commands and what they mean, in order. ``checked_at`` is when; ``current`` is False for a
    recorded result that the repository has moved on from.
    """

    level: Level
    sentence: str
    path: str = ""
    git_dir: str = ""
    git_bytes: int | None = None
    budget_bytes: int = 0
    files: tuple[ModelFile, ...] = ()
    count: int = 0
    bytes: int = 0
    lfs_pointers: int = 0
    unreachable_bytes: int = 0
    history: Literal["whole", "shallow", "skipped", "broken"] = "skipped"
    remedies: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    checked_at: float = 0.0
    seconds: float = 0.0
    current: bool = True


class Finding(msgspec.Struct, frozen=True):
    """One budget: ``bytes`` against ``limit_bytes`` where it has such figures; ``next`` is what to do, "" when ok."""

    check: str
    level: Level
    sentence: str
    bytes: int | None = None
    limit_bytes: int | None = None
    next: str = ""


class CheckResult(msgspec.Struct, frozen=True):
    """All budgets that were asked for, in that order. ``ok``: none is broken."""

    ok: bool
    findings: tuple[Finding, ...]
    broken: int
    unknown: int
    seconds: float


class Glance(msgspec.Struct, frozen=True):
    """What the overview shows of the upkeep: read from records. ``repo`` is None when no check is recorded."""

    forecast: Forecast
    tasks: TaskList
    repo: RepoCheck | None = None


class PromptLine(msgspec.Struct, frozen=True):
    """The line for a shell's prompt, and the quick command that prints it without this program's start-up."""

    line: str
    command: str


class Watched(msgspec.Struct, frozen=True):
    """What a watch saw: ``changes`` are the last hundred lines it printed, ``cleaned_bytes`` what it moved or freed."""

    seconds: float
    looks: int
    changes: tuple[str, ...] = ()
    clean_ups: int = 0
    cleaned_bytes: int = 0
