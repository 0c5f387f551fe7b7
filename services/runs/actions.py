"""Actions on runs: start, list, show, watch, cancel, checkpoint, resume, delete."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.errors import HybridError, Refused
from services.runs import costs, estimate, local, spec, train, view
from services.runs.remote import read_remote
from services.runs.train import StartParams
from services.runs.types import FINISHED, Deleted, Runs, RunView

_POLL_S = 0.3

_Run = Annotated[str, Meta(description="The run's id or its last four letters; empty: the newest.")]


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs to list."""

    phase: Annotated[str, Meta(description="Only runs in this phase, e.g. running or failed; empty: all.")] = ""
    limit: Annotated[int, Meta(ge=0, description="At most so many, the newest; 0 = all.")] = 0


class RunParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run."""

    run: _Run = ""


class ReattachParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run."""

    run: Annotated[str, Meta(description="The run's id or its last four letters; empty: all that nothing follows.")] = (
        ""
    )


class WaitParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run, and whether to follow it to its end."""

    run: _Run = ""
    wait: Annotated[bool, Meta(description="Return when the run has ended, with its progress until then.")] = False


class NamedParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run; it must be named, because it is deleted."""

    run: Annotated[str, Meta(min_length=1, description="The run's id or its last four letters.")]


async def start(ctx: Context, params: StartParams) -> RunView | Plan:
    """Start a training run in the background, on ``params.data`` from ``params.model``; it outlives this process.

    Everything that can be wrong is checked before anything is made. With ``wait``, follow it to its end.
    Raises BadInput (data or model can't be used), HybridError (model stack missing, disk full, the run failed).
    """
    ctx.will_write("train.start")
    run = await train.make_spec(ctx, params)
    if isinstance(run, Plan):
        return run
    planned = await estimate.before_start(ctx, run, params.accelerator)
    for warning in planned.warnings if planned else ():
        ctx.report(Progress("check", note=warning))
    run_dir = await asyncio.to_thread(local.submit, ctx.workspace, run)
    if planned is not None:
        await asyncio.to_thread(estimate.keep, run_dir, planned)
    if run.target == "notebook" and not params.wait:
        return await _until_openable(ctx, run_dir)
    return await _follow(ctx, run.id) if params.wait else await asyncio.to_thread(view.read, run_dir)


async def list_runs(ctx: Context, params: ListParams) -> Runs:
    """The runs of the workspace, newest first. A damaged one is listed with what is wrong."""
    runs = await asyncio.to_thread(view.read_all, ctx.workspace)
    chosen = tuple(run for run in runs if params.phase in ("", run.phase))
    return Runs(chosen[: params.limit or None])


async def show(ctx: Context, params: RunParams) -> RunView:
    """One run as it is now."""
    return await asyncio.to_thread(lambda: view.read(spec.find_run(ctx.workspace, params.run)))


async def watch(ctx: Context, params: RunParams) -> RunView:
    """Follow a run, reporting its progress, until it ends; leaving off (Ctrl+C) does not touch it.

    Raises HybridError with the run's own reason unless it succeeded or was cancelled.
    """
    return await _follow(ctx, params.run)


async def cancel(ctx: Context, params: WaitParams) -> RunView | Plan:
    """Ask a run to checkpoint and stop (killed when it takes over a minute). Raises Refused if it has ended."""
    ctx.will_write("train.cancel")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    if ctx.dry_run:
        return Plan("train.cancel", f"ask run {run_dir.name} to write a checkpoint and stop")
    await asyncio.to_thread(local.cancel, run_dir)
    return await _follow(ctx, run_dir.name) if params.wait else await asyncio.to_thread(view.read, run_dir)


async def checkpoint(ctx: Context, params: RunParams) -> RunView | Plan:
    """Ask a run to write a checkpoint now and go on. Raises Refused if it has ended."""
    ctx.will_write("train.checkpoint")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    if ctx.dry_run:
        return Plan("train.checkpoint", f"ask run {run_dir.name} to write a checkpoint")
    await asyncio.to_thread(local.request_checkpoint, run_dir)
    return await asyncio.to_thread(view.read, run_dir)


async def consent(ctx: Context, params: RunParams) -> RunView | Plan:
    """Say that you agreed to what a run waits for, at the link it shows. Raises Refused if it waits for nothing."""
    ctx.will_write("train.consent")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    if ctx.dry_run:
        return Plan("train.consent", f"tell run {run_dir.name} that you agreed")
    await asyncio.to_thread(local.consent, run_dir)
    return await asyncio.to_thread(view.read, run_dir)


async def reattach(ctx: Context, params: ReattachParams) -> Runs | Plan:
    """Follow again every run that may go on elsewhere while nothing here follows it, or the one named. Gets no new
    machines. Of several who do so at once one follows the run, and that is well for all of them.

    Of all, a run that can't be reattached is told as progress, and the others are. Of one, raises HybridError.
    """
    ctx.will_write("train.reattach")
    found = await asyncio.to_thread(local.unattached, ctx.workspace)
    if params.run:
        named = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
        found = [run_dir for run_dir in found if run_dir == named]
    if ctx.dry_run:
        return Plan("train.reattach", f"follow {len(found)} runs again", tuple(path.name for path in found))
    for run_dir in found:
        try:
            await asyncio.to_thread(local.follow, run_dir)
        except HybridError as error:
            if params.run:
                raise
            ctx.report(Progress("reattach", note=f"{run_dir.name}: {error}"))
    return Runs(tuple([await asyncio.to_thread(view.read, run_dir) for run_dir in found]))


async def resume(ctx: Context, params: WaitParams) -> RunView | Plan:
    """Go on from the last checkpoint of a run that failed, was cancelled or was lost; anew if there is none.
    One that goes on elsewhere is followed again.

    Raises Refused when it still runs or has succeeded.
    """
    ctx.will_write("train.resume")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    seen = await asyncio.to_thread(view.read, run_dir)
    source = (
        "from " + seen.last_checkpoint.rpartition("/")[2] if seen.last_checkpoint else "anew: there is no checkpoint"
    )
    if seen.unattached:
        source = f"by looking for {seen.machine or 'its machine'}"
    if ctx.dry_run:
        return Plan("train.resume", f"start attempt {seen.attempt + 1} of run {seen.id}, {source}")
    given = await asyncio.to_thread(spec.read, run_dir)
    there = await asyncio.to_thread(view.folder_bytes, run_dir)
    train.check_space(ctx.workspace.root, train.needed_bytes(given.config, given.model) - there)
    attempt = await asyncio.to_thread(local.resume, run_dir)
    ctx.report(Progress("resume", note=f"attempt {attempt} starts {source}"))
    return await _follow(ctx, run_dir.name) if params.wait else await asyncio.to_thread(view.read, run_dir)


async def delete(ctx: Context, params: NamedParams) -> Deleted | Plan:
    """Delete a run's folder with its checkpoints and result. Raises Refused while it runs, NeedsYes without a yes."""
    ctx.will_write("train.delete")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    if view.is_alive(run_dir, view.newest_attempt(run_dir)) and view.read(run_dir).phase not in FINISHED:
        raise Refused(f"Run {run_dir.name} is running and can't be deleted.", hint="train.cancel first.")
    size = await asyncio.to_thread(view.folder_bytes, run_dir)
    parts = tuple(
        f"{path.name}  {formats.size(view.folder_bytes(path))}" for path in sorted(run_dir.iterdir()) if path.is_dir()
    )
    summary = f"delete run {run_dir.name} with its checkpoints and result, {formats.size(size)} ({size} bytes)"
    plan = Plan("train.delete", summary, (str(run_dir), *parts), freed_bytes=size)
    if ctx.dry_run:
        return plan
    ctx.approve(plan)
    try:
        await asyncio.to_thread(costs.remember, ctx.workspace, run_dir)
        await asyncio.to_thread(local.delete, run_dir)
    except OSError as error:
        raise HybridError(f"{error.filename or run_dir} can't be deleted: {error.strerror}.") from error
    return Deleted(run_dir.name, size)


async def _until_openable(ctx: Context, run_dir: Path) -> RunView:
    """Until the run's note says where to open its notebook, which the agent first puts into the store."""
    while True:
        seen = await asyncio.to_thread(view.read, run_dir)
        ctx.report(_progress(seen))
        remote = read_remote(run_dir)
        link = str(remote.data.get("link", "")) if remote is not None else ""
        if (link and link in seen.note) or seen.phase in FINISHED or seen.unattached:
            return seen
        await asyncio.sleep(_POLL_S)


async def _follow(ctx: Context, run: str) -> RunView:
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, run)
    said: Progress | None = None
    while True:
        seen = await asyncio.to_thread(view.read, run_dir)
        step = _progress(seen)
        if step != said:
            said = step
            ctx.report(step)
        if seen.phase in FINISHED:
            break
        if seen.unattached:
            raise HybridError(f"Run {seen.id}: {seen.reason}", hint=seen.hint)
        await asyncio.sleep(_POLL_S)
    if seen.phase in ("succeeded", "cancelled"):
        return seen
    reason = seen.reason or "It gave no reason."
    raise HybridError(f"Run {seen.id} {_PAST.get(seen.phase, seen.phase)}: {reason}", hint=seen.hint or _RESUME)


_PAST = {"failed": "failed", "lost": "was lost", "over-budget": "went over its budget"}
_RESUME = "train.resume goes on from its last checkpoint; log.txt in its folder has all it printed."


def _progress(seen: RunView) -> Progress:
    words = [seen.note] if seen.note else []
    if seen.wants:
        words.append(f"agree at {seen.wants}, then train.consent")
    if seen.phase != "running":  # what is known of the attempt before says nothing about this one
        return Progress(seen.phase, seen.step, seen.total_steps, "steps", ", ".join(words))
    if seen.metrics.get("loss") is not None:
        words.append(f"loss {formats.number(seen.metrics['loss'])}")
    if seen.metrics.get("tokens_s") is not None:
        words.append(formats.rate(seen.metrics["tokens_s"], "tokens"))
    if seen.eta_s:
        words.append(f"{formats.duration(seen.eta_s)} left")
    return Progress(seen.phase, seen.step, seen.total_steps, "steps", ", ".join(words))
