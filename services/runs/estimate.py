"""Plan before paying: what a run would need, take and cost on each device, before anything is started."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import atomic, formats
from services.advisor import devices, machine, memory, rates, shapes
from services.advisor.devices import Device, OnDevice, Speed, Work
from services.context import Context
from services.data import store
from services.errors import HybridError, Refused
from services.runs import costs, estimate_probe, estimate_tokens, train
from services.runs.estimate_plan import Planner
from services.runs.estimate_probe import Probe
from services.runs.estimate_tokens import Tokens
from services.runs.train import StartParams
from services.runs.types import RunSpec, TrainConfig

FILE = "estimate.json"
_PROBED_WORST = 0.7  # of a probe's speed: the box gets busier, later batches are longer
_SPARE_DISK = 50_000_000  # log, events, tokenizer, reports


class EstimateParams(StartParams, frozen=True, forbid_unknown_fields=True):
    """What ``train.start`` would be given, and how long to measure."""

    probe_seconds: Annotated[
        float,
        Meta(ge=0, le=300, description="Measure the speed here, for at most so long; 0 = only know the last day's."),
    ] = 20.0


class Estimate(msgspec.Struct, frozen=True):
    """What a run would be. ``memory`` has the bytes of a step on this box by part, of one process; ``devices`` what
    fits where.

    ``tokens`` are those of one epoch's training rows, ``counted`` how they were counted; ``train_tokens`` what
    all steps see. ``disk_bytes`` is for checkpoints and result. ``sentences`` say it in words.
    """

    sentences: tuple[str, ...]
    model: str
    method: str
    data: str
    target: str
    parameters: int
    trained_parameters: int
    rows: int
    tokens: int
    counted: str
    steps: int
    train_tokens: int
    memory: dict[str, int]
    disk_bytes: int
    devices: tuple[OnDevice, ...]
    warnings: tuple[str, ...] = ()
    probe: Probe | None = None
    made_at: float = 0.0


async def estimate(ctx: Context, params: EstimateParams) -> Estimate:
    """What ``train.start`` with the same parameters would need, take and cost. Starts nothing that lasts.

    Raises BadInput or HybridError where ``train.start`` would: no such data or model.
    """
    start = StartParams(**{name: getattr(params, name) for name in StartParams.__struct_fields__})
    run = await train.make_spec(dataclasses.replace(ctx, dry_run=False), start)
    assert isinstance(run, RunSpec)
    probe: Probe | None
    if params.probe_seconds and not ctx.dry_run:
        probe = await _probe(run, params.probe_seconds)
        if probe.tokens_s and not ctx.read_only:
            with contextlib.suppress(OSError):  # it is measured again then
                await asyncio.to_thread(estimate_probe.remember, ctx.workspace, run, probe)
    else:
        probe = await asyncio.to_thread(estimate_probe.recalled, ctx.workspace, run)
    return await of_run(ctx, run, accelerator=params.accelerator, probe=probe)


async def _probe(run: RunSpec, seconds: float) -> Probe:
    stop = threading.Event()
    try:
        return await asyncio.to_thread(estimate_probe.measure, run, seconds, stop)
    finally:
        stop.set()


async def of_run(ctx: Context, run: RunSpec, *, accelerator: str = "", probe: Probe | None = None) -> Estimate:
    """The estimate for a checked spec. Raises BadInput when model or data can't be read."""
    here = await machine.look()
    shape, tokens = await asyncio.to_thread(_read, run)
    config = run.config
    gpu_here = bool(here.gpus) and config.device in ("auto", "cuda")
    labels = len(store.load_info(Path(run.data)).labels) if config.task == "classify" else 0
    planner = Planner(config, shape, tokens, labels, machine.has_bf16(), len(here.gpus))
    steps, trained = await asyncio.to_thread(planner.steps, gpu_here if run.target == "local" else True)
    work = Work(trained, _tested(config, tokens, run), config.max_seconds)
    table, complaints = costs.prices(ctx.workspace)
    measured = None
    if probe is not None and probe.tokens_s:
        words = f"measured here: {probe.steps} step{'s' * (probe.steps > 1)} in a probe of the real trainer"
        measured = Speed(probe.tokens_s, probe.tokens_s * _PROBED_WORST, words)
    places = _devices(here, table, gpu_here=gpu_here)
    plans = await asyncio.to_thread(lambda: [planner.on(place) for place in places])
    found = tuple(
        devices.on(place, shape, plan, work, table, measured if number == 0 else None)
        for number, (place, plan) in enumerate(zip(places, plans, strict=True))
    )
    plan = plans[0]
    parts = memory.estimate(shape, plan, "gpu" if gpu_here else "cpu")
    disk = _disk(config, memory.trained_parameters(shape, plan))
    made = Estimate(
        sentences=(), model=run.model_label, method=config.method, data=Path(run.data).name, target=run.target,
        parameters=shape.parameters, trained_parameters=memory.trained_parameters(shape, plan),
        rows=tokens.rows, tokens=tokens.train, counted=tokens.source, steps=steps, train_tokens=trained,
        memory=_by_part(parts), disk_bytes=disk, devices=found, probe=probe,
        made_at=time.time(), warnings=complaints,
    )  # fmt: skip
    chosen = chosen_device(made, accelerator)
    warnings = (*complaints, *_warnings(made, chosen, tokens, ctx))
    return msgspec.structs.replace(made, sentences=_sentences(made, chosen, tokens), warnings=warnings)


def _read(run: RunSpec) -> tuple[shapes.Shape, Tokens]:
    model, data = Path(run.model), Path(run.data)
    shape = shapes.read(model)
    config = run.config
    info = store.load_info(data)
    head = config.task == "classify"
    found = estimate_tokens.count(model, data, info, max_length=config.max_length, head=head, encoder=shape.encoder)
    return shape, found


def _by_part(parts: memory.Memory) -> dict[str, int]:
    return {f"{part}_bytes": size for part, size in (*msgspec.structs.asdict(parts).items(), ("total", parts.total))}


def _tested(config: TrainConfig, tokens: Tokens, run: RunSpec) -> int:
    rows = store.load_info(Path(run.data)).counts.get("test", 0)
    share = min(1.0, config.eval_rows / rows) if config.eval_rows and rows else 1.0
    return round(tokens.test * share)


def _devices(here: machine.Machine, table: rates.Table, *, gpu_here: bool) -> list[Device]:
    """This box first, in what it would train on, then what else could be had."""
    known = {gpu.name.split(" ")[0].lower(): gpu.name for gpu in table.gpus}
    cpu = Device("this box's CPU", "CPU", "local", here.available_bytes, here.cores)
    own = []
    for gpu in dict.fromkeys(here.gpus):  # of several alike each is the same
        kind = next((name for word, name in known.items() if word in gpu.name.lower()), gpu.name)
        usable = rates.GpuType(gpu.name, 0, gpu.memory_bytes // 1024**2, 1.0, 1.0).usable_bytes
        own.append(Device(f"this box's {gpu.name}", kind, "local", usable))
    first = [*own, cpu] if gpu_here else [cpu, *own]
    return first + [Device(gpu.name, gpu.name, "colab", gpu.usable_bytes) for gpu in table.gpus]


def chosen_device(made: Estimate, accelerator: str) -> OnDevice | None:
    """The device that the run is meant for, None where its target's choice isn't known."""
    own = [device for device in made.devices if device.target == made.target]
    if made.target == "local":
        return own[0]
    return next((d for d in own if accelerator and d.device.lower().startswith(accelerator.lower())), None)


def _disk(config: TrainConfig, trained: int) -> int:
    """Checkpoints (weights in fp32 and two optimizer states) that stay, one being written, and the result."""
    kept = config.keep_checkpoints + 1 + (1 if config.eval_steps else 0)
    return 12 * trained * kept + 4 * trained + _SPARE_DISK


def _warnings(made: Estimate, chosen: OnDevice | None, tokens: Tokens, ctx: Context) -> list[str]:
    found = []
    if chosen is not None and chosen.fits in ("unsure", "no"):
        found.append(_memory_words(chosen))
    if tokens.cut:
        found.append(f"{tokens.cut:,} of {tokens.rows:,} training rows are longer than max_length and will be cut.")
    for ceiling in costs.month(ctx.workspace).ceilings if made.target != "local" else ():
        if ceiling.verdict != "ok":
            spent = f"{ceiling.spent:.2f} of {ceiling.words}"
            found.append(f"This month's runs have cost {spent} already.")
    if made.probe is not None and made.probe.problem:
        found.append(f"The probe measured no speed: {made.probe.problem}")
    return found


def _memory_words(on: OnDevice) -> str:
    least, usable = formats.size(on.least_bytes), formats.size(on.usable_bytes)
    sure = "does not fit" if on.fits == "no" else "may not fit"
    return f"It {sure} into {on.device}: at the least about {least} are needed, about {usable} can be used."


def _sentences(made: Estimate, chosen: OnDevice | None, tokens: Tokens) -> tuple[str, ...]:
    """The estimate in words."""
    share = made.trained_parameters / max(made.parameters, 1)
    lines = [
        f"{formats.count(made.parameters)} parameters, of which {made.method} trains "
        f"{formats.count(made.trained_parameters)}" + (f" ({share:.2%})." if made.method != "full" else "."),
        f"{formats.count(made.tokens)} tokens an epoch in {formats.count(made.rows)} rows ({tokens.source}); "
        f"{formats.count(made.steps)} steps see {formats.count(made.train_tokens)}.",
    ]
    if chosen is not None and not _refused(chosen):
        lines.append(_needs(chosen))
    if chosen is not None and chosen.seconds is not None and chosen.at_most_s is not None:
        lines.append(
            f"On {chosen.device}: likely {formats.duration(chosen.seconds)}, at most about "
            f"{formats.duration(chosen.at_most_s)}, evaluation included; {chosen.cost}."
        )
    lines += _fitting(made)
    if chosen is not None and chosen.basis and not _refused(chosen):
        lines.append(f"How sure: the speed is {chosen.basis}. Memory estimates may be off by {memory.UNSURE - 1:.0%}.")
    return tuple(lines)


def _refused(on: OnDevice) -> bool:
    """Whether the trainer would not try for another reason than memory."""
    return on.fits == "no" and bool(on.basis)


def _needs(on: OnDevice) -> str:
    """The memory on one device in words, that of each GPU where several share the run."""
    where = ""
    if on.processes > 1:
        where = " on each GPU" if on.gpu else f" for {on.processes} processes"
    if on.split:
        where += f", the model split over {on.processes} ({formats.size(on.whole_bytes)} if it were whole)"
    elif on.processes > 1:
        where += ", the model whole on each" if on.gpu else ", each with the whole model"
    return f"Memory at the peak: about {formats.size(on.needed_bytes)}{where}; {formats.size(on.usable_bytes)} usable."


def _fitting(made: Estimate) -> list[str]:
    """Where it fits whole and where only split, and where it would be if it were split."""
    unsure = _named(made, "unsure")
    perhaps = f"; within the estimate's error: {unsure}" if unsure else ""
    lines = [f"It fits: {_named(made, 'yes', 'in parts') or 'nowhere surely'}{perhaps}."]
    unused = [device for device in made.devices if device.fits_split]
    if unused:
        names = ", ".join(device.device for device in unused)
        lines.append(f"Only split over {unused[0].processes} (shard=on) it would fit: {names}.")
    refusal = next((device.basis for device in made.devices if device.split and _refused(device)), "")
    return [*lines, f"{refusal}: shard=off or auto leaves it whole."] if refusal else lines


def _named(made: Estimate, *fits: str) -> str:
    found = [device for device in made.devices if device.fits in fits]
    return ", ".join(one.device + (f" (split over {one.processes})" if one.split else "") for one in found)


async def before_start(ctx: Context, run: RunSpec, accelerator: str = "") -> Estimate | None:
    """The estimate that a run starts with: nothing is measured for it, but a probe of the last day counts.

    None for a model that isn't on this box yet. Raises HybridError when the run surely fits neither the memory nor the
    disk, Refused when the month's ceiling is reached and the target costs something. Unsure things are its warnings.
    """
    if not (Path(run.model) / "config.json").is_file():
        return None
    probe = await asyncio.to_thread(estimate_probe.recalled, ctx.workspace, run)
    made = await of_run(ctx, run, accelerator=accelerator, probe=probe)
    chosen = chosen_device(made, accelerator)
    if chosen is not None and chosen.fits == "no":
        hint = "Lower max_length, choose a smaller model or another device; train.estimate shows what fits where."
        if chosen.split and chosen.basis:
            hint = "Use shard=off, or processes=2 or more with a method and task that can be split."
        raise HybridError(_memory_words(chosen) if not chosen.basis else f"{chosen.basis}.", hint=hint)
    train.check_space(ctx.workspace.root, made.disk_bytes)
    if run.target != "local":
        for ceiling in (await asyncio.to_thread(costs.month, ctx.workspace)).ceilings:
            if ceiling.verdict == "stop":
                raise Refused(
                    f"This month's ceiling of {ceiling.words} is reached ({ceiling.spent:.2f} spent).",
                    hint="costs.show has the runs; [costs] month in hybrid.toml is the ceiling.",
                )
    return made


def keep(run_dir: Path, made: Estimate) -> None:
    """Store the estimate in the run's folder, to be compared with what happened. Raises OSError."""
    atomic.write_bytes(run_dir / FILE, msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def kept(run_dir: Path) -> Estimate | None:
    """The estimate that a run was started with, None where there is none that can be read."""
    try:
        return msgspec.json.decode((run_dir / FILE).read_bytes(), type=Estimate)
    except (OSError, msgspec.MsgspecError):
        return None
