"""What a run remembers of its figures: whether it diverges, and which validation was the best."""

from __future__ import annotations

import msgspec

SMOOTH = 0.9
PATIENCE = 20  # steps in a row that must be bad before a run is called diverging
FACTOR, MARGIN = 2.0, 0.5  # bad: the smoothed loss is above its lowest · FACTOR + MARGIN


class Watch(msgspec.Struct):
    """Part of every checkpoint, so that a resumed run decides as an uninterrupted one."""

    lowest: float | None = None
    smooth: float = 0.0
    bad: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    scale: float = 1.0  # of the loss in half precision, so that small gradients do not vanish
    good: int = 0  # steps since the scale was changed

    def diverging(self, loss: float) -> bool:
        """Take in a step's loss; whether it has been far above its best for long."""
        if self.lowest is None:
            self.lowest = self.smooth = loss
        self.smooth = SMOOTH * self.smooth + (1 - SMOOTH) * loss
        self.lowest = min(self.lowest, self.smooth)
        self.bad = self.bad + 1 if self.smooth > self.lowest * FACTOR + MARGIN else 0
        return self.bad >= PATIENCE

    def validated(self, loss: float, step: int) -> bool:
        """Take in a validation's loss; whether it is the best so far."""
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.worse = loss, step, 0
            return True
        self.worse += 1
        return False
