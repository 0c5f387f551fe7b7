"""What a run's budgets leave, over all the machines that it has had."""

from __future__ import annotations

import time
from pathlib import Path

from services.runs import events, view
from services.runs.colab.ends import OverBudget
from services.runs.colab.meter import Meter
from services.runs.types import RunSpec


def allowed(run_dir: Path, spec: RunSpec, meter: Meter, name: str) -> tuple[float, str]:
    """(seconds that the budgets leave the machine ``name`` from now on, 0 without any; the budget in words).

    Raises OverBudget.
    """
    seconds, units = spent_elsewhere(run_dir, name)
    limits: list[tuple[float, str]] = []
    if spec.max_seconds:
        left = spec.max_seconds - seconds - (time.time() - meter.since)
        limits.append((left, f"{spec.max_seconds:g} s"))
    if spec.max_cost:
        left = spec.max_cost - units - meter.now()
        rate = meter.rate or 1.0
        limits.append((left / rate * 3600, f"{spec.max_cost:g} units (at {rate:g} an hour)"))
    if not limits:
        return 0.0, ""
    left, words = min(limits)
    if left <= 0:
        raise OverBudget(words)
    return left, words


def spent_elsewhere(run_dir: Path, name: str) -> tuple[float, float]:
    """(seconds, units) that the run has used on other machines than ``name``, by its events."""
    costs = view.fold(events.Follower(run_dir).all()).costs
    others = [data for of, data in costs.items() if of != name]
    return sum(float(d.get("seconds") or 0) for d in others), sum(float(d.get("units") or 0) for d in others)
