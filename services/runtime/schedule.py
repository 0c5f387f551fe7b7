"""The learning rate of every step, and how many steps fit into the time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

import msgspec

from services.runs.types import TrainConfig
from services.runtime import loading
from services.runtime.batches import Batch

PROBE_BATCHES = 4
ONE_THREAD_GAIN = 1.3  # so much faster must one thread be for all others to be left idle


class StepPlan(msgspec.Struct, frozen=True):
    """``plan.json`` of a run: made once at its start, so that every attempt follows the same schedule.

    ``by`` says what set the number of steps: "epochs", "max_steps" or "max_seconds". ``tokens_s`` is the probe's
    figure (0 without one), ``threads`` what torch computes with (0: not a CPU run), ``compiled`` whether the fused
    kernels are, ``micro_tokens`` how many tokens are computed at once (0: a whole step).
    """

    steps: int
    by: str
    threads: int
    tokens_s: float = 0.0
    compiled: bool = False
    micro_tokens: int = 0


def rate(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``total``.

    All schedules rise to ``config.lr`` over the first ``config.warmup`` of the steps. Then "one-cycle" falls along a
    half cosine to 1/250,000 of it (Smith and Topin 2018; it also rises along one, from 1/25), "cosine" and "linear"
    fall to zero, "constant" stays.
    """
    rising = config.warmup * total
    if step < rising:
        share = (step + 1) / (rising + 1)
        if config.schedule == "one-cycle":
            return config.lr / 25 + (config.lr - config.lr / 25) * (1 - math.cos(math.pi * share)) / 2
        return config.lr * share
    share = min(1.0, (step - rising) / max(total - rising, 1.0))
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "linear":
        return config.lr * (1 - share)
    lowest = config.lr / 250_000 if config.schedule == "one-cycle" else 0.0
    return lowest + (config.lr - lowest) * (1 + math.cos(math.pi * share)) / 2


def choose_threads(work: Callable[[], object]) -> int:
    """All cores, or one when others occupy them so much that waiting for each other costs more than it gains.

    ``work`` is run a few times and timed. Returns the number torch now uses.
    """
    cores = len(os.sched_getaffinity(0))
    loading.use_threads(cores)
    work()
    if cores == 1:
        return 1
    together = _seconds(work)
    loading.use_threads(1)
    alone = _seconds(work)
    return loading.use_threads(1 if alone * ONE_THREAD_GAIN < together else cores)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fit(
    seconds: float, batches: Sequence[Batch], mean_tokens: float, work: Callable[[Batch], object]
) -> tuple[int, float]:
    """How many steps of ``mean_tokens`` tokens fit into ``seconds``, judged by ``batches``; and the tokens/s found.

    The time of this probe counts as used.
    """
    started = time.perf_counter()
    for batch in batches:
        work(batch)
    used = max(time.perf_counter() - started, 1e-9)
    tokens_s = sum(batch.tokens for batch in batches) / used
    return max(1, int((seconds - used) * tokens_s / mean_tokens)), tokens_s
