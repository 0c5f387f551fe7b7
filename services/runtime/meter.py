"""Counting steps, tokens and time while a run trains."""

from __future__ import annotations

import collections
import math
import time
from dataclasses import dataclass, field

from services.runtime.batches import Batch
from services.runtime.watch import Watch

REPORT_S = 0.2  # metrics are told at most this often


@dataclass
class Progress:
    """How far the run has come: ``seconds`` of training and ``tokens`` in all attempts; ``micro`` tokens at once.

    The last step was one of pass ``epoch`` over the data, which began after ``epoch_step`` steps.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    micro: int = 0
    epoch: int = 0
    epoch_step: int = 0
    watch: Watch = field(default_factory=Watch)


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
