"""A sweep's spec, its log and its state.

A sweep's directory::

    spec.json  log.jsonl  driver.log  lock  control/cancel

``log.jsonl`` is append-only and has one writer, the driver, who holds the lock. Everything that Optuna knows is rebuilt
from it. The trials are ordinary runs in ``.hybrid/runs/``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from services.runs.types import Cost, TrainConfig

Metric = Literal["val_loss", "accuracy", "macro_f1"]
Pruner = Literal["median", "asha", "none"]
AxisKind = Literal["log", "linear", "int", "int-log", "choice"]
Value = float | int | str
TrialState = Literal["running", "pruning", "complete", "pruned", "failed", "cancelled"]
SweepPhase = Literal["running", "stopped", "finished", "cancelled", "failed", "over-budget"]
OVER: frozenset[str] = frozenset({"complete", "pruned", "failed", "cancelled"})
ENDED: frozenset[str] = frozenset({"finished", "cancelled", "failed", "over-budget"})


class Axis(msgspec.Struct, frozen=True):
    """One setting that is looked for: between ``low`` and ``high``, or one of ``choices``."""

    name: str
    kind: AxisKind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()


class SweepSpec(msgspec.Struct, frozen=True):
    """``spec.json``, frozen when the sweep is made. ``config`` holds for every trial where no axis says otherwise.

    ``trial_seconds`` and ``trial_cost`` are the budget of one trial, ``max_seconds`` and ``max_cost`` that of all of
    them together (units or money as the target counts), 0 is no limit.
    """

    v: int
    id: str
    data: str
    data_sha256: str
    model: str
    target: str
    config: TrainConfig
    axes: tuple[Axis, ...]
    trials: int
    parallel: int
    metric: Metric
    pruner: Pruner
    seed: int
    created_at: float
    accelerator: str = ""
    trial_seconds: float = 0.0
    trial_cost: float = 0.0
    max_seconds: float = 0.0
    max_cost: float = 0.0

    @property
    def lower_is_better(self) -> bool:
        """Which way the metric goes."""
        return self.metric == "val_loss"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log. ``seq`` counts from 1 without gaps; ``t`` is Unix time, shown and never ordered by.

    - asked: ``trial`` gets ``params`` and becomes the run ``run`` (made after this line is on the disk)
    - report: ``trial`` was validated at ``step`` with ``value`` (null: not a finite number)
    - prune: ``trial`` is to be stopped, by what it reported at ``step``
    - told: ``trial`` is over, as ``state``, with ``value`` where it has one, and ``reason``
    - begun: a driver took the sweep up
    - end: the sweep is over, as ``state``, for ``reason``
    """

    seq: int
    t: float
    what: Literal["begun", "asked", "report", "prune", "told", "end"]
    trial: int = -1
    run: str = ""
    params: dict[str, Value] = {}
    step: int = 0
    value: float | None = None
    state: str = ""
    reason: str = ""


class Report(msgspec.Struct, frozen=True):
    """A validation during a trial."""

    step: int
    value: float | None


class Trial(msgspec.Struct, frozen=True):
    """A trial as the log tells it. ``value`` is the metric's: the last reported one while it runs."""

    number: int
    state: TrialState
    params: dict[str, Value]
    run: str
    value: float | None
    step: int = 0
    reason: str = ""
    reports: tuple[Report, ...] = ()


class SweepView(msgspec.Struct, frozen=True):
    """A sweep as a list or a screen shows it.

    ``phase`` "stopped" means that nobody drives it though it is not over: ``sweep.resume`` goes on. ``best`` is the
    number of the best complete trial, None before there is one. ``cost`` is that of all its runs together.
    """

    id: str
    phase: SweepPhase
    model: str
    data: str
    target: str
    metric: Metric
    pruner: Pruner
    wanted: int
    parallel: int
    created_at: float
    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    best: int | None
    reason: str
    hint: str
    path: str
    cost: Cost = Cost()
    problems: tuple[str, ...] = ()

    @property
    def best_trial(self) -> Trial | None:
        """The best complete trial."""
        return None if self.best is None else next(t for t in self.trials if t.number == self.best)


class SweepLine(msgspec.Struct, frozen=True):
    """A sweep in a list: how many trials are over of those wanted, and the best value so far."""

    id: str
    phase: SweepPhase
    data: str
    metric: Metric
    done: int
    wanted: int
    pruned: int
    value: float | None
    best: dict[str, Any]
    created_at: float
    reason: str


class Sweeps(msgspec.Struct, frozen=True):
    """The sweeps of a workspace, newest first."""

    sweeps: tuple[SweepLine, ...]
