"""Training from spec to finished result, to be read from top to bottom.

A run that was killed at any step and resumed gives the same losses, bit by bit on the same device, as one that was
not: the order of the batches and the random numbers of a step depend on the seed and the step's number alone.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from services import atomic
from services.data.types import Row
from services.errors import HybridError
from services.runs.emit import Emitter
from services.runs.types import RunSpec, TrainConfig
from services.runtime import checkpoint, evaluation, head_start, loading, memory, output, pointwise, schedule, sharding
from services.runtime.batches import Batch, Example
from services.runtime.classifier import Classifier
from services.runtime.job import Job, prepare
from services.runtime.learner import Learner
from services.runtime.meter import Meter, Progress
from services.runtime.schedule import StepPlan
from services.runtime.watch import Watch
from services.runtime.world import Silent

WORTH_COMPILING = 20_000_000  # parameters from which fused kernels pay for their compilation on a CPU
WORTH_SECONDS = 180.0  # of a run, likewise
SCALE, SCALE_STEPS = 65_536.0, 2_000  # of the loss in fp16: where it starts, after how many good steps it doubles


class Cancelled(Exception):
    """The run was asked to stop; a checkpoint has been written."""


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
        if job.world.first or job.sharded:
            emitter.phase("running", "evaluating on the test split")
            results = evaluate(job, progress.step)
        if job.world.first:
            output.write(job.folder, spec, job.info, job.learner, plan, progress, results, job.held_out)
        elif job.sharded:
            job.learner.state()  # this process's part of what the first writes
    finally:
        job.world.leave()


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

    def stop(here: bool) -> bool:
        return job.world.any([here], job.learner.device)[0] if job.sharded else here

    while True:
        try:
            found, _ = memory.measure(rows, job.learner.device, lambda part: job.learner.learn(part, share), stop)
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
    if job.sharded:  # the others wait for this process inside a layer
        raise HybridError(
            "Not even one row fits into the memory beside this process's part of the model.",
            hint="Start again with a smaller max_length, or on more GPUs.",
        ) from error
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
    if not job.world.agree(checkpoint.is_last(_checkpoints(job), progress.step)):
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
    rows = job.validation if job.sharded else job.world.share(job.validation)
    loss, count = evaluation.mean_loss(job.learner, job.tokenizer, rows, job.labels, job.info.prompt, job.config)
    total = torch.tensor([loss, float(count)], dtype=torch.float64).to(job.learner.device, torch.float32)
    if not job.sharded:
        job.world.sum([total])
    if not float(total[1]):
        return
    mean = float(total[0] / total[1])
    progress.watch.validated(mean, progress.step)
    if not (job.world.first or job.sharded):
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
    norm = sharding.clip(parameters, job.config.clip)
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
    parts = memory.portions(mine, progress.micro)
    for part in parts:
        total += job.learner.learn(part, scale / batch.labels)
    for _ in range(_turns(job, batch, progress.micro) - len(parts)):
        job.learner.learn(batch.examples[:1], 0.0)  # the others need this process's part of the model once more
    gradients: list[Any] = [parameter.grad for parameter in job.learner.parameters()]
    job.world.sum([*(g for g in gradients if not sharding.is_split(g)), total])
    if scale != 1:
        torch._foreach_div_(gradients, scale)
    return float(total) / batch.labels


def _turns(job: Job, batch: Batch, micro: int) -> int:
    """How often every process must compute for ``batch`` if the model is split: as often as who has the most to do."""
    if not job.sharded:
        return 0
    shares = (batch.examples[rank :: job.world.size] for rank in range(job.world.size))
    return max(len(memory.portions(share, micro)) for share in shares)


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
        _start_head(job)
        return fresh
    job.learner.restore(found.adapter)
    job.learner.updated()
    checkpoint.restore_optimizer(optimizer, found.optimizer)
    job.emitter.log("info", f"Going on after step {found.state.step}.")
    state = found.state
    watch = state.watch or fresh.watch
    return Progress(state.step, state.tokens, state.seconds, state.micro, state.epoch, state.epoch_step, watch)


def _start_head(job: Job) -> None:
    learner = job.learner
    if not (isinstance(learner, Classifier) and head_start.wanted(learner)):
        return
    if job.world.first:
        head_start.fit(learner, job.order.examples, job.spec.seed)
    learner.restore(job.world.agree(learner.state()))


def save(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint and tell of it; the best validation's stays beside the last ones."""
    if not (job.world.first or job.sharded):
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
    tensors, trained = checkpoint.optimizer_tensors(optimizer), job.learner.state()
    if not job.world.first:
        return
    written = checkpoint.write(
        _checkpoints(job),
        state,
        trained,
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
    asked = job.emitter.cancelled

    def stopped() -> bool:
        return job.world.any([asked()], job.learner.device)[0] if job.sharded else asked()

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
        stopped=stopped,
    )
