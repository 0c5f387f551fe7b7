"""LoRA training from spec to finished adapter, to be read from top to bottom.

A run that was killed at any step and resumed gives the same losses, bit by bit on the same device, as one that was
not: the order of the batches and the random numbers of a step depend on the seed and the step's number alone.
"""

from __future__ import annotations

import collections
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from services import atomic
from services.data import store
from services.data.types import DatasetInfo, Row
from services.errors import BadInput, HybridError
from services.runs.emit import Emitter
from services.runs.types import RunSpec
from services.runtime import batches, checkpoint, evaluation, loading, output, schedule
from services.runtime.batches import Batch, Order
from services.runtime.learner import Learner, open_learner
from services.runtime.lora import LoraConfig
from services.runtime.schedule import StepPlan
from services.runtime.tokenizer import Tokenizer

REPORT_S = 0.2  # metrics are told at most this often


class Cancelled(Exception):
    """The run was asked to stop; a checkpoint has been written."""


@dataclass
class Job:
    """Everything that a run works with."""

    spec: RunSpec
    folder: Path
    emitter: Emitter
    info: DatasetInfo
    learner: Learner
    tokenizer: Tokenizer
    order: Order
    held_out: list[Row]

    @property
    def classify(self) -> bool:
        """Whether the answers are labels."""
        return self.info.task == "classify"


def run(spec: RunSpec, folder: Path, emitter: Emitter) -> None:
    """Train as ``spec`` says, in the run's ``folder``; resumes from its last whole checkpoint.

    Raises Cancelled after a checkpoint, HybridError with the cause of a failure.
    """
    emitter.phase("preparing", "opening the model and the data")
    job = prepare(spec, folder, emitter)
    plan = planned(job)
    emitter.phase("running", f"{plan.steps} steps")
    progress = train(job, plan)
    emitter.phase("running", "evaluating on the test split")
    results = evaluate(job, plan.steps)
    output.write(job.folder, spec, job.info, job.learner, plan, progress, results)


def prepare(spec: RunSpec, folder: Path, emitter: Emitter) -> Job:
    """Open the data first, then the model with a fresh adapter."""
    config = spec.config
    info = store.load_info(Path(spec.data))
    rows = store.read_rows(Path(spec.data), "train")
    held_out = evaluation.sample(store.read_rows(Path(spec.data), "test"), config.eval_rows)
    if not held_out:
        raise BadInput(f"{spec.data} has no test rows to evaluate on.", hint="Prepare the dataset again.")
    model = loading.local_folder(spec.model)
    loading.read_config(model)
    tokenizer = Tokenizer(model)
    examples, cut, left_out = batches.encode(
        tokenizer, info.prompt, rows, classify=info.task == "classify", max_length=config.max_length
    )
    if cut or left_out:
        emitter.log(
            "warning", f"Of {len(rows)} rows {cut} were shortened and {left_out} left out: max_length too small."
        )
    if not examples:
        raise BadInput(f"No row of {spec.data} can be trained on.", hint="Raise max_length, or look at the data.")
    learner = open_learner(spec.model, config.dtype)
    learner.attach(LoraConfig(config.r, config.alpha, config.dropout), spec.seed)
    trained = sum(parameter.numel() for parameter in learner.parameters())
    where = f"{learner.device.type} in {str(learner.dtype).removeprefix('torch.')}"
    emitter.log("info", f"{len(examples)} rows, {trained:,} trained parameters, on {where}.")
    order = Order(tuple(examples), spec.seed, config.batch_rows, config.batch_tokens)
    return Job(spec, folder, emitter, info, learner, tokenizer, order, held_out)


def planned(job: Job) -> StepPlan:
    """The run's number of steps: as recorded at its start, else fitted now (a short probe measures the speed)."""
    path = job.folder / "plan.json"
    if path.is_file():
        try:
            plan = msgspec.json.decode(path.read_bytes(), type=StepPlan)
        except msgspec.MsgspecError as error:
            raise HybridError(f"{path} is damaged: {error}.", hint="Start the run anew.") from error
        if plan.threads:
            loading.use_threads(plan.threads)
        return plan
    plan = _new_plan(job)
    atomic.write_bytes(path, msgspec.json.encode(plan))
    return plan


def _new_plan(job: Job) -> StepPlan:
    config, started = job.spec.config, time.monotonic()
    first = job.order.epoch(0)
    some = first[: schedule.PROBE_BATCHES]

    def probe(batch: Batch) -> None:
        _gradient(job, batch, 0)

    on_cpu = job.learner.device.type == "cpu"
    threads = schedule.choose_threads(lambda: probe(some[0])) if on_cpu else 0
    if on_cpu and threads == 1 and torch.get_num_threads() == 1:
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
    return StepPlan(steps, by, threads, tokens_s)


@dataclass
class Progress:
    """How far the run has come: ``seconds`` of training and ``tokens`` in all attempts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def train(job: Job, plan: StepPlan) -> Progress:
    """All steps of the plan that are not done yet, with a checkpoint now and then and one at the end."""
    config, emitter = job.spec.config, job.emitter
    optimizer = _optimizer(job.learner, config.lr)
    progress = resume(job, optimizer)
    meter = Meter(progress)
    for epoch, batch in job.order.batches(progress.step):
        if progress.step >= plan.steps:
            break
        lr = schedule.rate(config, progress.step, plan.steps)
        loss, grad_norm = take_step(job, optimizer, batch, progress.step, lr)
        meter.count(batch)
        if meter.due() or progress.step == plan.steps:
            emitter.metric(
                progress.step,
                total_steps=plan.steps,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                tokens_s=meter.tokens_s,
                tokens=progress.tokens,
                epoch=epoch,
                eta_s=meter.seconds_left(plan.steps),
            )
        stopping = emitter.cancelled()
        if stopping or emitter.checkpoint_wanted() or meter.since_checkpoint() >= config.checkpoint_seconds:
            save(job, optimizer, progress)
            meter.saved()
        if stopping:
            raise Cancelled
    if not checkpoint.steps(_checkpoints(job)) or checkpoint.steps(_checkpoints(job))[-1] != _at(job, progress.step):
        save(job, optimizer, progress)
    return progress


def take_step(job: Job, optimizer: torch.optim.Optimizer, batch: Batch, step: int, lr: float) -> tuple[float, float]:
    """One update from ``batch``: its mean loss per labelled token and the gradient's norm before clipping.

    Raises HybridError when either is not finite; nothing has been updated then.
    """
    loss = _gradient(job, batch, step)
    norm = float(torch.nn.utils.clip_grad_norm_(job.learner.parameters(), job.spec.config.clip))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = "loss" if not math.isfinite(loss) else "gradient"
        raise HybridError(
            f"The {what} is not a finite number at step {step + 1} (learning rate {lr:.2g}): the training diverged.",
            hint="Start again with a lower lr, or with dtype=fp32.",
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    job.learner.updated()
    return loss, norm


def _gradient(job: Job, batch: Batch, step: int) -> float:
    """Set the gradients to those of the mean loss per labelled token of ``batch``; that loss."""
    for parameter in job.learner.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    torch.manual_seed(job.spec.seed * 1_000_003 + step)  # a step's dropout, however the run came to it
    loss = job.learner.loss(batch.examples, training=True) / batch.labels
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _optimizer(learner: Learner, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(learner.parameters(), lr=lr, weight_decay=0.0, fused=True)


def resume(job: Job, optimizer: torch.optim.Optimizer) -> Progress:
    """Take over the last whole checkpoint, if there is one; damaged ones are named and passed over."""
    found, complaints = checkpoint.last_good(_checkpoints(job))
    for complaint in complaints:
        job.emitter.log("warning", complaint)
    if found is None:
        return Progress()
    job.learner.restore(found.adapter)
    checkpoint.restore_optimizer(optimizer, found.optimizer)
    job.emitter.log("info", f"Going on after step {found.state.step}.")
    return Progress(found.state.step, found.state.tokens, found.state.seconds)


def save(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint and tell of it."""
    state = checkpoint.State(progress.step, progress.tokens, progress.seconds)
    tensors = checkpoint.optimizer_tensors(optimizer)
    keep = job.spec.config.keep_checkpoints
    written = checkpoint.write(_checkpoints(job), state, job.learner.state(), tensors, keep=keep)
    job.emitter.ckpt(written.path, written.step, written.bytes, written.sha256)


def _checkpoints(job: Job) -> Path:
    return job.folder / "checkpoints"


def _at(job: Job, step: int) -> Path:
    return _checkpoints(job) / f"step-{step:06d}"


class Meter:
    """Counts steps, tokens and time into a ``Progress``; knows the present speed and when to report."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._at = self._saved = time.monotonic()
        self._told = -math.inf
        self._recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=20)

    def count(self, batch: Batch) -> None:
        """A step was done."""
        now = time.monotonic()
        self._recent.append((batch.tokens, now - self._at))
        self._progress.step += 1
        self._progress.tokens += batch.tokens
        self._progress.seconds += now - self._at
        self._at = now

    def due(self) -> bool:
        """Whether it is time to report; the answer True is given at most every ``REPORT_S``."""
        if self._at - self._told < REPORT_S:
            return False
        self._told = self._at
        return True

    def saved(self) -> None:
        """A checkpoint was written; its time is no training time."""
        self._at = self._saved = time.monotonic()

    def since_checkpoint(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved

    @property
    def tokens_s(self) -> float:
        """Real tokens per second over the last steps."""
        return sum(tokens for tokens, _ in self._recent) / max(sum(seconds for _, seconds in self._recent), 1e-9)

    def seconds_left(self, total: int) -> float:
        """Until step ``total``, at the present speed."""
        mean = sum(seconds for _, seconds in self._recent) / max(len(self._recent), 1)
        return mean * (total - self._progress.step)


def evaluate(job: Job, step: int) -> evaluation.Evaluation:
    """The adapter on the test split; the figures are told."""
    told = time.monotonic()

    def progress(done: int, total: int, accuracy: float) -> None:
        nonlocal told
        if time.monotonic() - told >= 5:
            told = time.monotonic()
            job.emitter.log("info", f"Evaluated {done} of {total} rows, accuracy so far {accuracy:.1%}.")

    result = evaluation.evaluate(
        job.learner,
        job.tokenizer,
        job.held_out,
        job.info.labels if job.classify else (),
        job.info.prompt,
        max_length=job.spec.config.max_length,
        progress=progress,
        stopped=job.emitter.cancelled,
    )
    if result.stopped:
        raise Cancelled
    job.emitter.result(step, **result.figures())
    return result
