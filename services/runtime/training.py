"""Training from spec to finished result, to be read from top to bottom.

A run that was killed at any step and resumed gives the same losses, bit by bit on the same device, as one that was
not: the order of the batches and the random numbers of a step depend on the seed and the step's number alone.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from services import atomic
from services.data import store
from services.data.types import DatasetInfo, Row
from services.errors import BadInput, HybridError
from services.runs.emit import Emitter
from services.runs.types import RunSpec, TrainConfig
from services.runtime import batches, checkpoint, evaluation, loading, memory, output, pointwise, schedule
from services.runtime.batches import Batch, Example, Order
from services.runtime.learner import Learner, open_learner
from services.runtime.lora import LoraConfig
from services.runtime.meter import Meter, Progress
from services.runtime.schedule import StepPlan
from services.runtime.tokenizer import Tokenizer
from services.runtime.watch import Watch
from services.runtime.world import Silent, World

FULL_LR = 2e-4  # full fine-tuning above this rate usually destroys what the model knows
WORTH_COMPILING = 20_000_000  # parameters from which fused kernels pay for their compilation on a CPU
WORTH_SECONDS = 180.0  # of a run, likewise
SCALE, SCALE_STEPS = 65_536.0, 2_000  # of the loss in fp16: where it starts, after how many good steps it doubles


class Cancelled(Exception):
    """The run was asked to stop; a checkpoint has been written."""


@dataclass
class Job:
    """Everything that a run works with."""

    spec: RunSpec
    folder: Path
    emitter: Emitter | Silent
    info: DatasetInfo
    learner: Learner
    tokenizer: Tokenizer
    order: Order
    held_out: list[Row]
    validation: list[Row] = field(default_factory=list)
    world: World = field(default_factory=World)

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.spec.config

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, where the answers are labels."""
        return self.info.labels if self.info.task == "classify" else ()


def run(spec: RunSpec, folder: Path, emitter: Emitter | Silent) -> None:
    """Train as ``spec`` says, in the run's ``folder``; resumes from its last whole checkpoint.

    Raises Cancelled after a checkpoint, HybridError with the cause of a failure.
    """
    emitter.phase("preparing", "opening the model and the data")
    job = prepare(spec, folder, emitter)
    try:
        plan = planned(job)
        emitter.phase("running", f"{plan.steps} steps")
        progress = train(job, plan)
        if job.world.first:
            emitter.phase("running", "evaluating on the test split")
            results = evaluate(job, progress.step)
            output.write(job.folder, spec, job.info, job.learner, plan, progress, results, job.held_out)
    finally:
        job.world.leave()


def prepare(spec: RunSpec, folder: Path, emitter: Emitter | Silent) -> Job:
    """Open the data first, then the model with a fresh adapter."""
    config, data = spec.config, Path(spec.data)
    info = store.load_info(data)
    held_out = evaluation.sample(store.read_rows(data, "test"), config.eval_rows)
    if not held_out:
        raise BadInput(f"{spec.data} has no test rows to evaluate on.", hint="Prepare the dataset again.")
    if config.task == "classify" and not info.labels:
        raise BadInput(f"The dataset {info.name} has no labels to classify by.", hint="Use task=generate.")
    validation = evaluation.sample(store.read_rows(data, "val"), config.val_rows) if config.eval_steps else []
    model = loading.local_folder(spec.model)
    described = loading.read_config(model)
    tokenizer = Tokenizer(model, spec.created_at)
    examples = _examples(spec, info, tokenizer, emitter)
    learner = open_learner(
        spec.model,
        config.dtype,
        method=config.method,
        device=config.device,
        labels=info.labels if config.task == "classify" else None,
    )
    learner.attach(LoraConfig(config.r, config.alpha, config.dropout, config.method == "rslora"), spec.seed)
    if config.checkpointing == "on":
        learner.save_memory()
    _tell_start(config, learner, len(examples), emitter)
    world = World()
    world.join(learner.device)
    rows, tokens = _batch_size(config, learner, loading.is_encoder(described))
    order = Order(tuple(examples), spec.seed, rows, tokens)
    return Job(spec, folder, emitter, info, learner, tokenizer, order, held_out, validation, world)


def _examples(spec: RunSpec, info: DatasetInfo, tokenizer: Tokenizer, emitter: Emitter | Silent) -> list[Example]:
    config = spec.config
    rows = store.read_rows(Path(spec.data), "train")
    if config.task == "classify":
        length = config.max_length
        examples, cut, out = batches.encode_labelled(tokenizer, info.prompt, rows, info.labels, max_length=length)
    else:
        examples, cut, out = batches.encode(
            tokenizer, info.prompt, rows, classify=info.task == "classify", max_length=config.max_length
        )
    if cut or out:
        emitter.log("warning", f"Of {len(rows)} rows {cut} were shortened and {out} left out: max_length too small.")
    if not examples:
        raise BadInput(f"No row of {spec.data} can be trained on.", hint="Raise max_length, or look at the data.")
    return examples


def _tell_start(config: TrainConfig, learner: Learner, rows: int, emitter: Emitter | Silent) -> None:
    trained = sum(parameter.numel() for parameter in learner.parameters())
    where = f"{learner.device.type} in {str(learner.dtype).removeprefix('torch.')}"
    emitter.log("info", f"{rows} rows, {trained:,} trained parameters ({config.method}), on {where}.")
    if config.method == "full" and config.lr > FULL_LR:
        emitter.log("warning", f"lr={config.lr:g} is high for full fine-tuning; 5e-5 is usual.")


def _batch_size(config: TrainConfig, learner: Learner, encoder: bool) -> tuple[int, int]:
    """Rows and tokens of a step."""
    gpu = learner.device.type != "cpu"
    fitting = sys.maxsize if gpu else 64 if encoder else 16
    return config.batch_rows or fitting, config.batch_tokens or (16_384 if gpu else 2_048)


def planned(job: Job) -> StepPlan:
    """The run's number of steps: as recorded at its start, else fitted now (a short probe measures the speed)."""
    path = job.folder / "plan.json"
    if job.world.agree(path.is_file()):
        try:
            plan = msgspec.json.decode(path.read_bytes(), type=StepPlan)
        except msgspec.MsgspecError as error:
            raise HybridError(f"{path} is damaged: {error}.", hint="Start the run anew.") from error
        if plan.threads:
            loading.use_threads(plan.threads)
        if plan.compiled:
            pointwise.compile_all(job.learner.device)
        return job.world.agree(plan)
    plan = job.world.agree(_new_plan(job))
    if job.world.first:
        atomic.write_bytes(path, msgspec.json.encode(plan))
    return plan


def _new_plan(job: Job) -> StepPlan:
    config, started = job.config, time.monotonic()
    on_cpu = job.learner.device.type == "cpu"
    compiled = _compile(job, config)
    first = job.order.epoch(0)
    some = first[: schedule.PROBE_BATCHES]
    micro = config.micro_tokens or job.world.agree(_measured(job, first))

    def probe(batch: Batch) -> None:
        _gradient(job, batch, 0, Progress(micro=micro))

    threads = 0
    if on_cpu and job.world.size == 1:
        threads = schedule.choose_threads(lambda: probe(some[0]))
        if threads == 1 and torch.get_num_threads() == 1:
            job.emitter.log("info", "Computing with one thread.")
    most, by, tokens_s = config.max_steps or sys.maxsize, "max_steps", 0.0
    if config.max_seconds:
        mean_tokens = sum(batch.tokens for batch in first) / len(first)
        left = config.max_seconds - (time.monotonic() - started)
        fitting, tokens_s = schedule.fit(left, some, mean_tokens, probe)
        if fitting < most:
            most, by = fitting, "max_seconds"
    steps = job.order.steps(config.epochs, most)
    if steps < most:
        by = "epochs"
    return StepPlan(steps, by, threads, tokens_s, compiled, micro)


def _compile(job: Job, config: TrainConfig) -> bool:
    """Compile the fused kernels if that was asked for or is worth it; whether they are in use."""
    if config.compile == "off":
        return False
    on_cpu = job.learner.device.type == "cpu"
    long = not config.max_seconds or config.max_seconds >= WORTH_SECONDS
    large = job.learner.size >= WORTH_COMPILING
    if config.compile == "auto" and not (job.learner.own and large and (long or not on_cpu)):
        return False
    complaint = pointwise.compile_all(job.learner.device)
    if complaint:
        job.emitter.log("info", f"The kernels are not compiled: {complaint}.")
    return not complaint


def _measured(job: Job, first: Sequence[Batch]) -> int:
    """Tokens that fit into memory at once (0: the largest batch does), tried on the batch with the most tokens."""
    largest = max(first, key=lambda batch: batch.tokens)
    rows = sorted(largest.examples, key=lambda example: -example.tokens)
    share = 1 / largest.labels
    while True:
        try:
            found, _ = memory.measure(rows, job.learner.device, lambda part: job.learner.learn(part, share))
        except (RuntimeError, MemoryError) as error:
            _spare_memory(job, error)
            continue
        finally:
            _zero(job)
        if found:
            job.emitter.log("info", f"The memory takes {found:,} tokens at once; larger steps are summed up.")
        return found


def _spare_memory(job: Job, error: Exception) -> None:
    """Not even one row fits: compute again instead of keeping, if that is left to do. Raises HybridError if not."""
    if not memory.is_full(error):
        raise error
    memory.release(job.learner.device)
    if job.config.checkpointing == "off" or job.learner.saving:
        raise HybridError(
            "Not even one row fits into the memory.", hint="Start again with a smaller max_length or model, or qlora."
        ) from error
    job.emitter.log("warning", "Memory is short: layers are computed again in the backward pass from now on.")
    job.learner.save_memory()


def train(job: Job, plan: StepPlan) -> Progress:
    """All steps of the plan that are not done yet, with a checkpoint now and then and one at the end."""
    config, emitter = job.config, job.emitter
    optimizer = _optimizer(job.learner, config.lr)
    progress = resume(job, optimizer, plan)
    meter = Meter(progress)
    for reached, first, batch in job.order.batches(progress.step, progress.epoch, progress.epoch_step):
        if progress.step >= plan.steps or _enough(job, progress):
            break
        lr = schedule.rate(config, progress.step, plan.steps)
        loss, grad_norm = take_step(job, optimizer, batch, progress, lr)
        meter.count(batch)
        progress.epoch, progress.epoch_step = batch.epoch, first
        if meter.due() or progress.step == plan.steps:
            emitter.metric(
                progress.step,
                total_steps=plan.steps,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                tokens_s=meter.tokens_s,
                tokens=progress.tokens,
                epoch=reached,
                eta_s=meter.seconds_left(plan.steps),
            )
        if config.eval_steps and progress.step % config.eval_steps == 0:
            validate(job, progress)
            save(job, optimizer, progress)
            meter.saved()
        due = meter.since_checkpoint() >= config.checkpoint_seconds
        asked = job.world.any((emitter.cancelled(), emitter.checkpoint_wanted() or due), job.learner.device)
        if any(asked):
            save(job, optimizer, progress)
            meter.saved()
        if asked[0]:
            raise Cancelled
    if not checkpoint.is_last(_checkpoints(job), progress.step):
        save(job, optimizer, progress)
    if config.patience and progress.watch.best_step:
        _take_best(job, progress)
    return progress


def _enough(job: Job, progress: Progress) -> bool:
    """Whether early stopping ends the run here."""
    patience = job.config.patience
    if not patience or progress.watch.worse < patience:
        return False
    text = f"No validation was better than that of step {progress.watch.best_step}, {patience} times: stopping early."
    job.emitter.log("info", text)
    return True


def validate(job: Job, progress: Progress) -> None:
    """Figures on the validation rows, told; the loss decides about early stopping and the best checkpoint."""
    rows = job.world.share(job.validation) if job.validation else []
    loss, count = evaluation.mean_loss(job.learner, job.tokenizer, rows, job.labels, job.info.prompt, job.config)
    total = torch.tensor([loss, float(count)], dtype=torch.float64).to(job.learner.device, torch.float32)
    job.world.sum([total])
    if not float(total[1]):
        return
    mean = float(total[0] / total[1])
    progress.watch.validated(mean, progress.step)
    if not job.world.first:
        return
    result = _evaluation(job, job.validation)
    job.emitter.metric(progress.step, split="val", loss=mean, **_without(result.figures(), "seconds"))


def _without(figures: dict[str, float], *names: str) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name not in names}


def _take_best(job: Job, progress: Progress) -> None:
    if progress.watch.best_step != progress.step:
        found = checkpoint.read(checkpoint.path(_checkpoints(job), progress.watch.best_step))
        job.learner.restore(found.adapter)
        job.emitter.log("info", f"The result is that of step {progress.watch.best_step}, the best validation.")


def take_step(
    job: Job, optimizer: torch.optim.Optimizer, batch: Batch, progress: Progress, lr: float
) -> tuple[float, float]:
    """One update from ``batch``: its mean loss per label and the gradient's norm before clipping.

    Raises HybridError when either is not finite or the loss diverges; nothing has been updated then. In fp16 a
    gradient that is not finite halves the loss's scale instead, and the step changes nothing.
    """
    loss = _gradient(job, batch, progress.step, progress)
    parameters = job.learner.parameters()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, job.config.clip))
    half, watch = job.learner.dtype == torch.float16, progress.watch
    if half and math.isfinite(loss) and not math.isfinite(norm) and watch.scale > 1:
        watch.scale, watch.good = watch.scale / 2, 0
        return loss, norm
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = "loss" if not math.isfinite(loss) else "gradient"
        raise HybridError(
            f"The {what} is not a finite number at step {progress.step + 1} (learning rate {lr:.2g}): the training "
            "diverged.",
            hint="Start again with a lower lr, or with dtype=fp32.",
        )
    if watch.diverging(loss):
        raise HybridError(
            f"The loss has been far above its best ({watch.smooth:.3g} against {watch.lowest:.3g}) for a while at step "
            f"{progress.step + 1} (learning rate {lr:.2g}): the training diverges.",
            hint="Start again with a lower lr, or resume from an earlier checkpoint.",
        )
    if half:
        watch.good += 1
        if watch.good >= SCALE_STEPS:
            watch.scale, watch.good = watch.scale * 2, 0
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    job.learner.updated()
    return loss, norm


def _gradient(job: Job, batch: Batch, step: int, progress: Progress) -> float:
    """Set the gradients to those of the mean loss per label of ``batch``; that loss.

    Computed in portions that fit into memory; when one does not after all, in smaller ones from then on.
    """
    mine = job.world.share(batch.examples)
    while True:
        try:
            return _summed(job, batch, mine, step, progress)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_full(error) or job.world.size > 1:  # the others would wait for this process
                raise
            memory.release(job.learner.device)
            largest = max(sum(e.tokens for e in part) for part in memory.portions(mine, progress.micro))
            progress.micro = largest // 2
            if largest <= max(example.tokens for example in mine):
                _spare_memory(job, error)
            job.emitter.log("warning", f"Memory ran out; computing {progress.micro:,} tokens at once from now on.")


def _summed(job: Job, batch: Batch, mine: Sequence[Example], step: int, progress: Progress) -> float:
    _zero(job)
    torch.manual_seed((job.spec.seed * 1_000_003 + step) * 64 + job.world.rank)  # a step's dropout, however reached
    scale = progress.watch.scale
    total = torch.zeros((), device=job.learner.device)
    for part in memory.portions(mine, progress.micro):
        total += job.learner.learn(part, scale / batch.labels)
    gradients: list[Any] = [parameter.grad for parameter in job.learner.parameters()]
    job.world.sum([*gradients, total])
    if scale != 1:
        torch._foreach_div_(gradients, scale)
    return float(total) / batch.labels


def _zero(job: Job) -> None:
    for parameter in job.learner.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def _optimizer(learner: Learner, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(learner.parameters(), lr=lr, weight_decay=0.0, fused=True)


def resume(job: Job, optimizer: torch.optim.Optimizer, plan: StepPlan) -> Progress:
    """Take over the last whole checkpoint, if there is one; damaged ones are named and passed over."""
    scale = SCALE if job.learner.dtype == torch.float16 else 1.0
    fresh = Progress(micro=plan.micro_tokens, watch=Watch(scale=scale))
    job.world.agree(None)  # nobody reads while the first still sets damaged ones aside
    found, complaints = checkpoint.last_good(_checkpoints(job))
    for complaint in complaints:
        job.emitter.log("warning", complaint)
    if found is None:
        return fresh
    job.learner.restore(found.adapter)
    job.learner.updated()
    checkpoint.restore_optimizer(optimizer, found.optimizer)
    job.emitter.log("info", f"Going on after step {found.state.step}.")
    state = found.state
    watch = state.watch or fresh.watch
    return Progress(state.step, state.tokens, state.seconds, state.micro, state.epoch, state.epoch_step, watch)


def save(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint and tell of it; the best validation's stays beside the last ones."""
    if not job.world.first:
        return
    state = checkpoint.State(
        progress.step,
        progress.tokens,
        progress.seconds,
        micro=progress.micro,
        watch=progress.watch,
        epoch=progress.epoch,
        epoch_step=progress.epoch_step,
    )
    tensors = checkpoint.optimizer_tensors(optimizer)
    written = checkpoint.write(
        _checkpoints(job),
        state,
        job.learner.state(),
        tensors,
        keep=job.config.keep_checkpoints,
        best=progress.watch.best_step,
    )
    job.emitter.ckpt(written.path, written.step, written.bytes, written.sha256)


def _checkpoints(job: Job) -> Path:
    return job.folder / "checkpoints"


def evaluate(job: Job, step: int) -> evaluation.Evaluation:
    """The result on the test split; the figures are told."""
    result = _evaluation(job, job.held_out)
    if result.stopped:
        raise Cancelled
    job.emitter.result(step, **result.figures())
    return result


def _evaluation(job: Job, rows: Sequence[Row]) -> evaluation.Evaluation:
    told = time.monotonic()

    def progress(done: int, total: int, accuracy: float) -> None:
        nonlocal told
        if time.monotonic() - told >= 5:
            told = time.monotonic()
            job.emitter.log("info", f"Evaluated {done} of {total} rows, accuracy so far {accuracy:.1%}.")

    return evaluation.evaluate(
        job.learner,
        job.tokenizer,
        rows,
        job.labels,
        job.info.prompt,
        max_length=job.config.max_length,
        progress=progress,
        stopped=job.emitter.cancelled,
    )
