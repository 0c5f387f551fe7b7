"""How many tokens may be computed at once: measured on the device, and halved when memory runs out after all."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable, Sequence

import torch

from services.runtime.batches import Example

FILL = 0.85  # share of the free memory that is used
FIRST = 256  # tokens of the first probe


def is_full(error: BaseException) -> bool:
    """Whether ``error`` says that the device's or the machine's memory did not suffice."""
    words = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words.lower())
    )


def portions(examples: Sequence[Example], most: int) -> list[tuple[Example, ...]]:
    """``examples`` in order, cut into parts of at most ``most`` tokens (0: no limit); a longer row is a part alone."""
    parts: list[list[Example]] = []
    used = 0
    for example in examples:
        if parts and (not most or used + example.tokens <= most):
            parts[-1].append(example)
            used += example.tokens
        else:
            parts.append([example])
            used = example.tokens
    return [tuple(part) for part in parts]


def release(device: torch.device) -> None:
    """Give back what an interrupted computation left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _used_and_free(device: torch.device) -> tuple[int, int]:
    """Bytes at the peak of this process so far, and bytes still to be had beyond that peak."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
        return torch.cuda.max_memory_allocated(device), free + kept
    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    now = psutil.Process().memory_info().rss
    return peak, int(psutil.virtual_memory().available) - (peak - now)


def measure(
    examples: Sequence[Example],
    device: torch.device,
    learn: Callable[[Sequence[Example]], object],
    agree: Callable[[bool], bool] = bool,
) -> tuple[int, bool]:
    """Tokens of ``examples`` that fit at once (0: all of them do), found by learning from more and more of them.

    Doubles as long as what the last doubling took says that the next fits. ``agree`` asks other processes whether to
    stop there, where all must do the same. The flag says whether memory ran out in the attempt. Raises what ``learn``
    raises when a single row is too much.
    """
    total = sum(example.tokens for example in examples)
    tokens, fitting = min(FIRST, total), 0
    before, _ = _used_and_free(device)
    while True:
        part = portions(examples, tokens)[0]
        try:
            learn(part)
        except (RuntimeError, MemoryError) as error:
            if not is_full(error) or len(part) == 1:
                raise
            release(device)
            return fitting or tokens // 2, True
        if len(part) == len(examples):
            return 0, False
        fitting = tokens
        after, free = _used_and_free(device)
        grown, before = after - before, after
        if agree(2 * grown > FILL * free):  # the next doubling takes about twice what this one took
            return fitting, False
        tokens *= 2
