"""Actions on sweeps: start, list, show, cancel, resume, register the best."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.data import store
from services.errors import BadInput, HybridError, Refused
from services.registry.adding import AddParams, add
from services.registry.types import Version
from services.runs import train
from services.runs.spec import make_run_id
from services.runs.train import StartParams
from services.runs.types import RunSpec, TrainConfig
from services.sweeps import driver, log, space, study, view
from services.sweeps.types import ENDED, OVER, Axis, Metric, Pruner, Sweeps, SweepSpec, SweepView

_POLL_S = 0.3
_VALIDATIONS = 8  # of a trial, where nothing else is said
_ROWS = 16  # of a step, where nothing else is said, as the trainer takes on a CPU

_Sweep = Annotated[str, Meta(description="The sweep's id or its last four letters; empty: the newest.")]


class SweepStartParams(StartParams, frozen=True, forbid_unknown_fields=True):
    """What to look for, and everything that ``train.start`` takes, for all trials alike."""

    space: Annotated[str, Meta(description="What to look for, e.g. 'lr=log:1e-4..3e-3 r=4|8|16 dropout=0..0.2'.")] = (
        "lr=log:1e-4..5e-3 r=4|8|16"
    )
    trials: Annotated[int, Meta(ge=1, le=1000, description="How many settings to try.")] = 8
    parallel: Annotated[int, Meta(ge=1, le=64, description="How many runs at a time.")] = 1
    metric: Annotated[
        Metric, Meta(description="What decides: val_loss, accuracy or macro_f1 on the validation rows.")
    ] = "val_loss"
    pruner: Annotated[
        Pruner,
        Meta(
            description="How weak trials are stopped early: median (worse than half of the others at that step), "
            "asha (only the better half goes on, at each doubling of the steps), none."
        ),
    ] = "median"
    eval_steps: Annotated[int, Meta(ge=0, description="Validate every so many steps; 0 = about 8 times a trial.")] = 0
    keep_checkpoints: Annotated[int, Meta(ge=1, description="How many of a trial's last checkpoints stay.")] = 1
    budget_seconds: Annotated[float, Meta(ge=0, description="Stop a trial after so long; 0 = never.")] = 0.0
    budget_cost: Annotated[
        float, Meta(ge=0, description="Stop a trial after so many units or so much money; 0 = never.")
    ] = 0.0
    total_seconds: Annotated[
        float, Meta(ge=0, description="Stop the sweep after so long, all trials together; 0 = never.")
    ] = 0.0
    total_cost: Annotated[
        float, Meta(ge=0, description="Stop the sweep after so many units or so much money; 0 = never.")
    ] = 0.0
    wait: Annotated[bool, Meta(description="Return when the sweep is over, with its progress until then.")] = False


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to say."""


class SweepParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sweep."""

    sweep: _Sweep = ""


class WaitParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sweep, and whether to follow it to its end."""

    sweep: _Sweep = ""
    wait: Annotated[bool, Meta(description="Return when the sweep is over, with its progress until then.")] = False


class RegisterParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trial becomes a version of which model."""

    model: Annotated[str, Meta(min_length=1, description="Name of the model, e.g. banking; made when it is new.")]
    sweep: _Sweep = ""
    trial: Annotated[int, Meta(ge=-1, description="Number of the trial; -1: the best one.")] = -1
    note: Annotated[str, Meta(max_length=300, description="Why this version is worth keeping.")] = ""


async def start(ctx: Context, params: SweepStartParams) -> SweepView | Plan:
    """Start a sweep in the background; it outlives this process. Everything that can be wrong is checked first.

    Raises BadInput (space, data or model can't be used), HybridError (Optuna or the model stack missing, disk full).
    """
    ctx.will_write("sweep.start")
    study.check()
    axes = space.parse(params.space)
    shared = {f.name: getattr(params, f.name) for f in msgspec.structs.fields(StartParams)}
    made = await train.make_spec(ctx, msgspec.convert(shared | {"wait": False}, StartParams))
    if isinstance(made, Plan):
        named = ", ".join(axis.name for axis in axes)
        summary = f"try {params.trials} settings of {named}, {params.parallel} at a time, by {params.metric}"
        return Plan("sweep.start", summary, (made.summary, *made.steps))
    spec = await asyncio.to_thread(_spec, params, made, axes)
    folder = await asyncio.to_thread(log.create, ctx.workspace, spec)
    await asyncio.to_thread(driver.start, folder)
    return await _follow(ctx, folder) if params.wait else await asyncio.to_thread(view.read, folder)


def _spec(params: SweepStartParams, made: RunSpec, axes: tuple[Axis, ...]) -> SweepSpec:
    info = store.load_info(Path(made.data))
    if not info.counts.get("val"):
        raise BadInput(
            f"The dataset {info.name} has no validation rows to judge trials by.",
            hint="Prepare it again with a share for validation.",
        )
    steps = _expected_steps(made.config, info.counts["train"])
    config = made.config
    if not config.eval_steps:
        config = msgspec.structs.replace(config, eval_steps=max(1, steps // _VALIDATIONS))
    return SweepSpec(
        v=1,
        id=make_run_id(),
        data=made.data,
        data_sha256=made.data_sha256,
        model=made.model_label,
        target=params.target,
        config=config,
        axes=axes,
        trials=params.trials,
        parallel=params.parallel,
        metric=params.metric,
        pruner=params.pruner,
        seed=params.seed,
        created_at=time.time(),
        accelerator=params.accelerator,
        trial_seconds=params.budget_seconds,
        trial_cost=params.budget_cost,
        max_seconds=params.total_seconds,
        max_cost=params.total_cost,
    )


def _expected_steps(config: TrainConfig, rows: int) -> int:
    by_epochs = math.ceil(rows * config.epochs / (config.batch_rows or _ROWS))
    return min(by_epochs, config.max_steps) if config.max_steps else by_epochs


async def list_sweeps(ctx: Context, _params: ListParams) -> Sweeps:
    """The sweeps of the workspace, newest first."""
    return Sweeps(await asyncio.to_thread(view.read_all, ctx.workspace))


async def show(ctx: Context, params: SweepParams) -> SweepView:
    """One sweep as it is now, with all its trials."""
    return await asyncio.to_thread(lambda: view.read(log.find(ctx.workspace, params.sweep)))


async def cancel(ctx: Context, params: WaitParams) -> SweepView | Plan:
    """Ask the sweep to stop: its runs write a checkpoint first. Raises Refused when it is over."""
    ctx.will_write("sweep.cancel")
    folder = await asyncio.to_thread(log.find, ctx.workspace, params.sweep)
    seen = await asyncio.to_thread(view.read, folder)
    if seen.phase in ENDED:
        raise Refused(f"Sweep {seen.id} is {seen.phase}; there is nothing to cancel.", hint=seen.hint)
    if ctx.dry_run:
        return Plan("sweep.cancel", f"ask sweep {seen.id} and its runs to stop")
    (folder / log.CANCEL).touch()
    if seen.phase == "stopped":
        await asyncio.to_thread(driver.start, folder)
    return await _follow(ctx, folder) if params.wait else await asyncio.to_thread(view.read, folder)


async def resume(ctx: Context, params: WaitParams) -> SweepView | Plan:
    """Go on with a sweep that nobody drives any more, or that was cancelled, failed or over its budget.

    Raises Refused when it is driven or has finished, HybridError when Optuna is missing.
    """
    ctx.will_write("sweep.resume")
    study.check()
    folder = await asyncio.to_thread(log.find, ctx.workspace, params.sweep)
    seen = await asyncio.to_thread(view.read, folder)
    if log.is_driven(folder):
        raise Refused(f"Sweep {seen.id} is {seen.phase} already.", hint="sweep.cancel first.")
    if seen.phase == "finished":
        raise Refused(f"Sweep {seen.id} has finished.", hint="sweep.start starts another one.")
    if ctx.dry_run:
        left = seen.wanted - sum(t.state in OVER for t in seen.trials)
        return Plan("sweep.resume", f"go on with sweep {seen.id}: {left} of {seen.wanted} trials are left")
    (folder / log.CANCEL).unlink(missing_ok=True)
    await asyncio.to_thread(driver.start, folder)
    return await _follow(ctx, folder) if params.wait else await asyncio.to_thread(view.read, folder)


async def register(ctx: Context, params: RegisterParams) -> Version | Plan:
    """Add a trial's result, by default that of the best one, as the next version of a model.

    Asking twice for the same trial gives the same version. Raises Refused when there is no complete trial.
    """
    ctx.will_write("sweep.register")
    folder = await asyncio.to_thread(log.find, ctx.workspace, params.sweep)
    seen = await asyncio.to_thread(view.read, folder)
    number = seen.best if params.trial < 0 else params.trial
    trial = next((t for t in seen.trials if t.number == number), None)
    if trial is None and params.trial >= 0:
        raise BadInput(f"Sweep {seen.id} has no trial {params.trial}.", hint="sweep.show lists them.")
    if trial is None or trial.state != "complete":
        what = f"Trial {trial.number} is {trial.state}" if trial else "No trial is complete yet"
        raise Refused(f"{what}: there is no result to register.", hint="sweep.show lists the trials.")
    found = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                      for name, value in trial.params.items())  # fmt: skip
    which = "Best" if trial.number == seen.best else f"Trial {trial.number}"
    note = f"{which} of sweep {seen.id}: {seen.metric} {formats.number(trial.value)} with {found}"
    note = f"{params.note} ({note})" if params.note else note
    key = f"sweep:{seen.id}:{trial.number}"
    return await add(ctx, AddParams(model=params.model, run=trial.run, note=note[:500], key=key))


async def _follow(ctx: Context, folder: Path) -> SweepView:
    said: Progress | None = None
    while True:
        seen = await asyncio.to_thread(view.read, folder)
        step = progress(seen)
        if step != said:
            said = step
            ctx.report(step)
        if seen.phase in ENDED:
            break
        if seen.phase == "stopped" and not log.is_driven(folder):
            raise HybridError(f"Sweep {seen.id}: {seen.reason}", hint=seen.hint)
        await asyncio.sleep(_POLL_S)
    if seen.phase in ("finished", "cancelled"):
        return seen
    raise HybridError(f"Sweep {seen.id} ended as {seen.phase}: {seen.reason}", hint=seen.hint)


def progress(seen: SweepView) -> Progress:
    """How far a sweep is, in one line."""
    done = sum(t.state in OVER for t in seen.trials)
    words = []
    if pruned := sum(t.state == "pruned" for t in seen.trials):
        words.append(f"{pruned} pruned")
    if failed := sum(t.state == "failed" for t in seen.trials):
        words.append(f"{failed} failed")
    if best := seen.best_trial:
        words.append(f"best {seen.metric} {formats.number(best.value)} (trial {best.number})")
    return Progress(seen.phase, done, seen.wanted, "trials", ", ".join(words))
