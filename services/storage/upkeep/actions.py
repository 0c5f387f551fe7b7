"""The actions on budgets and upkeep."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from services import atomic
from services.context import Context, Plan, Progress
from services.errors import CheckFailed, HybridError
from services.storage import actions as storage
from services.storage import paths
from services.storage.types import DiskUsage
from services.storage.upkeep import check as checks
from services.storage.upkeep import facts, repository, samples, tasks
from services.storage.upkeep import forecast as forecasts
from services.storage.upkeep import prompt as prompts
from services.storage.upkeep.types import (
    CheckResult,
    Finding,
    Forecast,
    Glance,
    Marked,
    PromptLine,
    RepoCheck,
    TaskList,
)
from services.workspace import Workspace

T = TypeVar("T")
Check = Literal["used", "free", "caches", "repo-size", "repo-files", "forecast", "upkeep"]


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This action takes no parameters."""


class RepoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``repo.check``."""

    path: Annotated[str, Meta(description="A folder of the repository; the workspace when left out.")] = ""
    history: Annotated[bool, Meta(description="Look through the history too, not only at the index.")] = True


class ForecastParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.forecast``."""

    days: Annotated[
        float, Meta(ge=0, le=1100, description="How many days back to look; 0 for [upkeep] forecast_days.")
    ] = 0.0


class CheckParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.check``."""

    checks: Annotated[
        tuple[Check, ...],
        Meta(description=f"Which of {', '.join(checks.CHECKS)}; all but the last two when left out."),
    ] = ()
    history: Annotated[bool, Meta(description="Look for model files in git's history too.")] = True
    strict: Annotated[bool, Meta(description="Fail also when something could not be checked.")] = False


class DoneParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``upkeep.done``."""

    task: Annotated[str, Meta(min_length=1, description="The task's name, as upkeep.list shows it.")]
    note: Annotated[str, Meta(max_length=500, description="What was found or done, for the others.")] = ""


class UndoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``upkeep.undo``."""

    task: Annotated[str, Meta(min_length=1, description="The task that was marked as done by mistake.")]


async def check_repository(ctx: Context, params: RepoParams) -> RepoCheck:
    """How large the git repository is and which model files lie in it. Nothing in it is changed.

    A whole check of the workspace's own repository is recorded for the overview, unless nothing may be written.
    Raises BadInput when the path is no readable folder.
    """
    if params.path:
        root = paths.actual(params.path)
        os.close(await asyncio.to_thread(paths.open_folder, root))
        return await _repository(ctx, root, params.history, commits=True)
    return await _own_repository(ctx, params.history, commits=True)


async def forecast(ctx: Context, params: ForecastParams) -> Forecast:
    """The day the disk is full, from the samples recorded in this workspace."""
    found = await _usage(ctx)
    return await asyncio.to_thread(_forecast, ctx.workspace, found, params.days)


async def check(ctx: Context, params: CheckParams) -> CheckResult:
    """Every budget, or those named. Raises CheckFailed with the whole result when one is broken."""
    start = time.perf_counter()
    wanted = tuple(dict.fromkeys(params.checks)) or checks.DEFAULT
    findings = await _findings(ctx, wanted, params.history)
    broken = sum(finding.level == "broken" for finding in findings)
    unknown = sum(finding.level == "unknown" for finding in findings)
    ok = not broken and not (params.strict and unknown)
    result = CheckResult(ok, tuple(findings), broken, unknown, time.perf_counter() - start)
    if not ok:
        failed = [f for f in findings if f.level == "broken" or (params.strict and f.level == "unknown")]
        first = failed[0].sentence + (f" And {len(failed) - 1} more." if len(failed) > 1 else "")
        raise CheckFailed(first, result, hint=failed[0].next)
    return result


async def list_tasks(ctx: Context, _params: NoParams) -> TaskList:
    """The recurrent tasks of the team, the most pressing first."""
    return await asyncio.to_thread(_tasks, ctx.workspace)


async def done(ctx: Context, params: DoneParams) -> Marked | Plan:
    """Mark a task as done now. Raises BadInput for a task there is none of."""
    return await _mark(ctx, "upkeep.done", params.task, "done", params.note)


async def undo(ctx: Context, params: UndoParams) -> Marked | Plan:
    """Take the last mark of a task back. Raises Refused when it is not marked."""
    return await _mark(ctx, "upkeep.undo", params.task, "undo", "")


async def glance(ctx: Context, _params: NoParams) -> Glance:
    """Forecast, tasks and the state of the repository, for the overview: read from records, not measured.

    The repository is checked anew only where git has been at work since the last check and it is small.
    """
    usage = await _usage(ctx)
    outlook = await asyncio.to_thread(_forecast, ctx.workspace, usage, 0.0)
    root = str(ctx.workspace.root)
    repo = await asyncio.to_thread(_recorded_repository, ctx.workspace)
    if (repo is None or not repo.current) and await asyncio.to_thread(repository.is_small, root):
        repo = await _own_repository(ctx, history=True, commits=True)
    return Glance(outlook, await asyncio.to_thread(_tasks, ctx.workspace), repo)


async def prompt(ctx: Context, _params: NoParams) -> PromptLine:
    """The line for a shell's prompt, from the disk's free space and the last recorded figures."""
    line = await asyncio.to_thread(prompts.line, str(ctx.workspace.root), os.environ, time.time())
    return PromptLine(line, _PROMPT_COMMAND)


# Its own file by its path, so that neither packages nor site directories are looked for.
_PROMPT_COMMAND = shlex.join([sys.executable, "-I", "-S", str(Path(prompts.__file__).resolve())])


async def _usage(ctx: Context) -> DiskUsage:
    return await storage.usage(ctx, storage.UsageParams())


def _may_record(ctx: Context) -> bool:
    return not ctx.read_only and not ctx.dry_run


async def _findings(ctx: Context, wanted: tuple[str, ...], history: bool) -> list[Finding]:
    """The findings in the order of ``wanted``; what two of them need is read once."""
    usage = await _usage(ctx)
    caches = await storage.caches(ctx, storage.CachesParams()) if "caches" in wanted else None
    repo = None
    if "repo-size" in wanted or "repo-files" in wanted:
        repo = await _own_repository(ctx, history and "repo-files" in wanted, commits=False)
    found: dict[str, Finding] = {}
    for name in wanted:
        if name == "used":
            found[name] = checks.used(usage)
        elif name == "free":
            found[name] = checks.free(usage)
        elif name == "caches" and caches:
            found[name] = checks.caches(caches)
        elif name == "repo-size" and repo:
            found[name] = checks.repo_size(repo)
        elif name == "repo-files" and repo:
            found[name] = checks.repo_files(repo)
        elif name == "forecast":
            found[name] = checks.forecast(
                await asyncio.to_thread(_forecast, ctx.workspace, usage, 0.0),
                ctx.workspace.settings.upkeep.warn_days,
                time.time(),
            )
        elif name == "upkeep":
            found[name] = checks.upkeep(await asyncio.to_thread(_tasks, ctx.workspace))
    return list(found.values())


async def _mark(ctx: Context, action: str, task: str, what: str, note: str) -> Marked | Plan:
    ctx.will_write(action)
    now = time.time()
    if ctx.dry_run:
        await asyncio.to_thread(tasks.check_mark, ctx.workspace, task, what)
        words = {"done": "would be marked as done", "undo": "would lose its last mark"}[what]
        return Plan(action, f"{task} {words}.", (f"one line in {ctx.workspace.settings.upkeep.log}",))
    try:
        await asyncio.to_thread(tasks.mark, ctx.workspace, task, what, note, now)
    except OSError as error:
        raise HybridError(
            f"The mark could not be written to {tasks.log_path(ctx.workspace)}: {error.strerror}.",
            hint="Check [upkeep] log in hybrid.toml.",
        ) from error
    now_known = next(t for t in (await asyncio.to_thread(_tasks, ctx.workspace)).tasks if t.id == task)
    words = {"done": "is marked as done", "undo": "is no longer marked as done"}[what]
    return Marked(now_known, f"{task} {words}: {now_known.words}.")


async def _own_repository(ctx: Context, history: bool, *, commits: bool) -> RepoCheck:
    """The check of the workspace's repository; one of its whole history is recorded for the overview."""
    found = await _repository(ctx, str(ctx.workspace.root), history, commits=commits)
    if history and _may_record(ctx):
        await asyncio.to_thread(_record_repository, ctx.workspace, found)
    return found


async def _repository(ctx: Context, root: str, history: bool, *, commits: bool) -> RepoCheck:
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def said(what: str, count: int) -> None:
        if not stop.is_set():
            loop.call_soon_threadsafe(ctx.report, Progress(what, count, None, "objects", "git"))

    budget = ctx.workspace.settings.disk
    return await _in_thread(lambda: repository.check(root, budget, stop, said, history=history, commits=commits), stop)


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run ``work`` in a thread; when the caller is cancelled, ``stop`` is set, so that the thread ends soon too."""
    try:
        return await asyncio.to_thread(work)
    finally:
        stop.set()


def _forecast(workspace: Workspace, usage: DiskUsage, days: float) -> Forecast:
    now = time.time()
    recorded, problems = samples.read(workspace, now=now)
    window = days or workspace.settings.upkeep.forecast_days
    return forecasts.forecast(recorded, usage, days=window, now=now, problems=problems)


def _tasks(workspace: Workspace) -> TaskList:
    return tasks.listed(workspace, facts.read(workspace), time.time())


def _record_repository(workspace: Workspace, found: RepoCheck) -> None:
    try:
        if workspace.state.is_dir():
            atomic.write_bytes(samples.folder(workspace) / "repo.json", msgspec.json.encode(found))
    except OSError:  # the overview then shows an older one
        pass


def _recorded_repository(workspace: Workspace) -> RepoCheck | None:
    """The last check, marked when git has been at work since: its log of HEAD, its index or its packed refs changed."""
    try:
        found = msgspec.json.decode((samples.folder(workspace) / "repo.json").read_bytes(), type=RepoCheck)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not found.git_dir:  # there was nothing to check: look again
        return msgspec.structs.replace(found, current=False)
    touched = [_modified(os.path.join(found.git_dir, name)) for name in ("index", "logs/HEAD", "packed-refs")]  # noqa: PTH118
    return msgspec.structs.replace(found, current=max(touched) <= found.checked_at)


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return 0.0
