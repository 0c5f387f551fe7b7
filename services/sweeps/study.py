"""Optuna over a sweep's log: what to try next, and which trial to stop. Nothing is kept but the log.

Each question's random numbers follow from the sweep's seed and the trial's number alone, and the log is replayed by
the same calls that wrote it. So a driver that was killed at any point asks for what it would have asked for anyway.
Optuna's ask and tell: https://optuna.readthedocs.io/en/stable/tutorial/20_recipes/009_ask_and_tell.html
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from services.errors import HybridError
from services.sweeps.types import Axis, Entry, SweepSpec, Value

if TYPE_CHECKING:
    import optuna

_HINT = "Install it with pip install 'hybrid-tui[sweep]'."


def check() -> None:
    """Raises HybridError when Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise HybridError("Sweeps need Optuna, which is not installed.", hint=_HINT)


def random_trials(trials: int) -> int:
    """How many of the first trials are drawn at random before what they showed guides the others."""
    return max(2, min(10, trials // 3))


def unpruned_trials(trials: int) -> int:
    """How many trials must be complete before the median of them stops others."""
    return max(1, min(5, trials // 4))


class Study:
    """What Optuna knows of a sweep. ``take`` each entry of its log once, in order; ``ask`` adds a trial that the log
    does not have yet, and whose entry is not to be taken again."""

    def __init__(self, spec: SweepSpec, entries: Iterable[Entry] = ()) -> None:
        check()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._spec = spec
        self._space = {axis.name: _distribution(axis) for axis in spec.axes}
        directions = optuna.study.StudyDirection
        self._study = optuna.create_study(
            direction=directions.MINIMIZE if spec.lower_is_better else directions.MAXIMIZE, pruner=self._pruner()
        )
        self._trials: dict[int, optuna.trial.Trial] = {}
        for entry in entries:
            self.take(entry)

    @property
    def asked(self) -> int:
        """How many trials there are."""
        return len(self._trials)

    def ask(self) -> tuple[int, dict[str, Value]]:
        """The next trial's number and settings."""
        self._study.sampler = self._sampler(self.asked)
        trial = self._study.ask(self._space)
        self._trials[trial.number] = trial
        return trial.number, dict(trial.params)

    def take(self, entry: Entry) -> bool:
        """Take up an entry; for a report, whether Optuna would stop the trial there."""
        if entry.what == "asked":
            self._study.enqueue_trial(entry.params)
            self.ask()
        elif entry.what == "report" and entry.value is not None:
            trial = self._trials[entry.trial]
            trial.report(entry.value, entry.step)
            return bool(trial.should_prune())
        elif entry.what == "told":
            self._tell(entry)
        return False

    def _tell(self, entry: Entry) -> None:
        states = self._optuna.trial.TrialState
        trial = self._trials[entry.trial]
        if entry.state == "complete":
            self._study.tell(trial, entry.value)
        else:
            self._study.tell(trial, state=states.PRUNED if entry.state == "pruned" else states.FAIL)

    def _sampler(self, number: int) -> Any:
        mark = hashlib.sha256(f"{self._spec.seed}:{number}".encode()).digest()
        return self._optuna.samplers.TPESampler(
            seed=int.from_bytes(mark[:4], "big"), n_startup_trials=random_trials(self._spec.trials)
        )

    def _pruner(self) -> Any:
        """The first validation stops nobody: all settings look alike while the learning rate still warms up."""
        pruners, every = self._optuna.pruners, max(self._spec.config.eval_steps, 1)
        if self._spec.pruner == "median":
            return pruners.MedianPruner(unpruned_trials(self._spec.trials), n_warmup_steps=every + 1)
        if self._spec.pruner == "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=2 * every, reduction_factor=2)
        return pruners.NopPruner()


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if axis.kind == "choice":
        return distributions.CategoricalDistribution(axis.choices)
    if axis.kind in ("int", "int-log"):
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.kind == "int-log")
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.kind == "log")
