"""From a sweep to what the parallel chart draws: axes with their ends, a line for each trial."""

from __future__ import annotations

import math

from services import formats
from services.sweeps import space
from services.sweeps.types import Axis, SweepView, Trial
from widgets.parallel_chart import AxisLabels, Line
from widgets.trial_list import SIGNS, shown

_LOG_FROM = 20.0  # values that differ by this factor are drawn by their logarithm


def parallel(seen: SweepView) -> tuple[list[AxisLabels], list[Line]]:
    """What the chart shows of ``seen``."""
    measure = Measure(seen)
    axes = [_labels(axis) for axis in seen.axes] + [measure.labels()]
    return axes, [_line(seen, trial, measure) for trial in seen.trials]


class Measure:
    """The metric's axis, of all values that trials have: its better end at the top."""

    def __init__(self, seen: SweepView) -> None:
        self.name = seen.metric
        self.lower_is_better = seen.metric == "val_loss"
        values = [t.value for t in seen.trials if t.value is not None]
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)
        self.log = self.low > 0 and self.high / self.low > _LOG_FROM

    def labels(self) -> AxisLabels:
        """Its name and ends."""
        ends = [formats.number(self.high, 3), formats.number(self.low, 3)]
        top, bottom = reversed(ends) if self.lower_is_better else ends
        return AxisLabels(self.name, top, bottom)

    def place(self, value: float | None) -> float | None:
        """Where ``value`` lies."""
        if value is None:
            return None
        low, high, here = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        share = (here - low) / (high - low) if high > low else 0.5
        return 1 - share if self.lower_is_better else share


def _labels(axis: Axis) -> AxisLabels:
    low, high = (axis.choices[0], axis.choices[-1]) if axis.choices else (axis.low, axis.high)
    if axis.kind.startswith("int"):
        low, high = int(low), int(high)
    return AxisLabels(axis.name, shown(high), shown(low))


def _line(seen: SweepView, trial: Trial, measure: Measure) -> Line:
    best = trial.number == seen.best
    places = tuple(space.position(axis, trial.params[axis.name]) for axis in seen.axes)
    return Line(
        key=str(trial.number),
        places=(*places, measure.place(trial.value)),
        sign="★" if best else SIGNS[trial.state][0],
        faint=trial.state in ("pruned", "failed", "cancelled"),
        live=trial.state in ("running", "pruning"),
        best=best,
    )
