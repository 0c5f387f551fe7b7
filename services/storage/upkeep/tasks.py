"""The recurrent tasks of the team: which there are, when each was last done, which are due.

The dates are a log, one JSON object a line, only ever appended to (``[upkeep] log``): two people who mark at once both
stand, and where the file lies in git a union merge joins what two branches wrote. A task that was never done is due
one interval after the workspace was made, so that a new one does not begin with a list of reproaches.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import msgspec

from services import formats
from services.errors import BadInput, Refused, nearest
from services.storage.upkeep import samples
from services.storage.upkeep.samples import DAY
from services.storage.upkeep.types import Task, TaskList, Where
from services.workspace import Workspace

INTERVALS = {"daily": 1.0, "weekly": 7.0, "monthly": 30.0, "quarterly": 91.0, "yearly": 365.0}
OVERDUE = 0.25  # of its interval
_EVERY = re.compile(r"every (\d{1,4}) days?")
_PLACE = re.compile(rf"\s@({'|'.join(get_args(Where))})$")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Rule:
    """A task as it is set. ``looks_at`` names the figure of ``Facts`` that says whether there is anything to do."""

    id: str
    title: str
    every: str
    where: Where
    action: str = ""
    looks_at: str = ""


BUILT_IN = (
    Rule("caches", "Clean the caches if they are over their budget", "weekly", "storage", "storage.caches", "caches"),
    Rule("failed-runs", "Delete failed runs that nobody will resume", "weekly", "training", "train.delete", "runs"),
    Rule("drive-space", "Review the space that the store takes on Drive", "monthly", "registry", "store.status"),
    Rule("versions", "Consolidate versions: keep what is deployed or compared", "monthly", "registry", "registry.list"),
    Rule("repository", "Check git for model files and size", "monthly", "storage", "repo.check"),
    Rule("notebooks", "Archive notebooks that are no longer worked on", "quarterly", "storage"),
)


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the log. ``what`` "undo" takes the newest "done" of its task back that is not taken back yet."""

    task: str
    at: float
    what: str = "done"
    by: str = ""
    note: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What conditions look at: a sentence where there is something to do, "" where there is not, None if not known."""

    caches: str | None = None
    runs: str | None = None


def rules(own: Mapping[str, str]) -> tuple[list[Rule], list[str]]:
    """The built-in tasks as ``[upkeep] tasks`` changes and extends them, and what of that could not be used.

    A value is "never", an interval ("weekly", "every 10 days"), or "interval: title", with " @screen" at its end.
    """
    known = {rule.id: rule for rule in BUILT_IN}
    problems: list[str] = []
    for name, value in own.items():
        every, colon, title = (part.strip() for part in value.partition(":"))
        place = _PLACE.search(value)
        title = _PLACE.sub("", title)
        if not _ID.fullmatch(name):
            problems.append(f"[upkeep] tasks: '{name}' is no task name; use small letters, digits and '-'.")
        elif every == "never":
            known.pop(name, None)
        elif days(every) is None:
            words = ", ".join(INTERVALS)
            problems.append(f"[upkeep] tasks: '{name}' has no interval; write one of {words}, every N days, never.")
        elif name in known:
            known[name] = replace(known[name], every=every, title=title or known[name].title)
        elif colon and title:
            known[name] = Rule(name, title, every, place[1] if place else "overview")  # type: ignore[arg-type]
        else:
            problems.append(f"[upkeep] tasks: '{name}' has no title; write \"{every}: what to do\".")
    return list(known.values()), problems


def days(every: str) -> float | None:
    """An interval's length, None when it is none."""
    match = _EVERY.fullmatch(every)
    return INTERVALS.get(every) or (float(match[1]) or None if match else None)


def listed(workspace: Workspace, facts: Facts, now: float) -> TaskList:
    """Every task as it stands, the most pressing first."""
    known, problems = rules(workspace.settings.upkeep.tasks)
    log, damage = read(log_path(workspace))
    last = standing(log)
    born = _born(workspace, now)
    tasks = [_task(rule, last.get(rule.id), facts, born, now) for rule in known]
    order = {"overdue": 0, "due": 1, "later": 2, "idle": 3}
    tasks.sort(key=lambda task: (order[task.state], task.due_at or 0.0))
    due = sum(task.state in ("overdue", "due") for task in tasks)
    return TaskList(tuple(tasks), due, (*problems, *damage))


def check_mark(workspace: Workspace, task: str, what: str) -> None:
    """Raises BadInput for a task there is none of, Refused for an undo with nothing to take back."""
    known = [rule.id for rule in rules(workspace.settings.upkeep.tasks)[0]]
    if task not in known:
        raise BadInput(f"There is no upkeep task '{task}'{nearest(task, known) or '.'}", hint="upkeep.list shows them.")
    if what == "undo" and task not in standing(read(log_path(workspace))[0]):
        raise Refused(f"'{task}' is not marked as done: there is nothing to take back.")


def mark(workspace: Workspace, task: str, what: str, note: str, now: float) -> None:
    """Append a "done" or an "undo" to the log. Raises as ``check_mark``, and OSError."""
    check_mark(workspace, task, what)
    file = log_path(workspace)
    if file.is_relative_to(workspace.state):
        workspace.ensure_state()
    file.parent.mkdir(parents=True, exist_ok=True)
    samples.append(file, Done(task, now, what, _who(), note.strip()))


def log_path(workspace: Workspace) -> Path:
    """Where the dates are kept."""
    return workspace.root / Path(workspace.settings.upkeep.log).expanduser()


def read(file: Path) -> tuple[list[Done], tuple[str, ...]]:
    """All usable lines in the order they were written, and a sentence on those that are not."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return [], ()
    except OSError as error:
        return [], (f"The record of done tasks {file} can't be read: {error.strerror}.",)
    found: list[Done] = []
    bad = 0
    for line in filter(bytes.strip, lines):
        try:
            found.append(msgspec.json.decode(line, type=Done))
        except (msgspec.DecodeError, UnicodeDecodeError):
            bad += 1
    problem = f"{bad} line{'s' * (bad != 1)} of {file} can't be read and {'are' if bad > 1 else 'is'} left out."
    return found, (problem,) if bad else ()


def standing(log: Iterable[Done]) -> dict[str, Done]:
    """The last "done" of each task that no "undo" took back."""
    stacks: dict[str, list[Done]] = {}
    for line in sorted(log, key=lambda done: done.at):  # a merge may have put another branch's lines first
        stack = stacks.setdefault(line.task, [])
        if line.what == "done":
            stack.append(line)
        elif line.what == "undo" and stack:
            stack.pop()
    return {task: stack[-1] for task, stack in stacks.items() if stack}


def _task(rule: Rule, last: Done | None, facts: Facts, born: float, now: float) -> Task:
    interval = (days(rule.every) or 0.0) * DAY
    found = getattr(facts, rule.looks_at) if rule.looks_at else None
    due_at = (last.at if last else born) + interval
    late = now - due_at
    if found == "":
        state, words = "idle", "nothing to do"
    elif late < 0:
        state, words = "later", f"due in {_span(-late)}"
    elif late < OVERDUE * interval:
        state, words = "due", "due today" if late < DAY else f"due since {_span(late)}"
    else:
        state, words = "overdue", f"{_span(late)} overdue"
    return Task(
        id=rule.id,
        title=rule.title,
        every=rule.every,
        state=state,  # type: ignore[arg-type]
        words=words,
        where=rule.where,
        action=rule.action,
        condition=found or "",
        last_done_at=last.at if last else None,
        due_at=None if state == "idle" else due_at,
        every_days=interval / DAY,
        by=last.by if last else "",
        note=last.note if last else "",
    )


def _span(seconds: float) -> str:
    whole = round(seconds / DAY)
    return f"{whole} day{'s' * (whole != 1)}" if whole else formats.duration(max(seconds, 60)).split(" min")[0] + " min"


def _born(workspace: Workspace, now: float) -> float:
    """When the workspace was made: its ignore file is written once, then never again."""
    try:
        return (workspace.state / ".gitignore").stat().st_mtime
    except OSError:
        return now


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such account in a container
        return ""
