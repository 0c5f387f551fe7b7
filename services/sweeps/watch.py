"""What a trial's run reports: its validations, each once and in order, however often the run was killed and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.runs import events
from services.runs.types import Event
from services.sweeps.types import Metric, Report

_FIELDS: dict[Metric, str] = {"val_loss": "loss", "accuracy": "accuracy", "macro_f1": "macro_f1"}


class Heard(msgspec.Struct, frozen=True):
    """A validation, and whether it was that of the run's last step."""

    report: Report
    last: bool


class Watcher:
    """Follows one run's events. A step that was validated again after a resume gives the same figures: told once."""

    def __init__(self, run_dir: Path, metric: Metric) -> None:
        self._follower = events.Follower(run_dir)
        self._field = _FIELDS[metric]
        self._steps: set[int] = set()
        self._total: int | None = None
        self._lowest: tuple[float, int] | None = None

    @property
    def lowest_step(self) -> int | None:
        """The step with the lowest validation loss."""
        return self._lowest[1] if self._lowest else None

    def news(self) -> Iterator[Heard]:
        """Validations not told yet."""
        for event in self._follower.all():
            heard = self._hear(event) if event.ev == "metric" else None
            if heard is not None:
                yield heard

    def _hear(self, event: Event) -> Heard | None:
        data, step = event.data, event.data.get("step")
        total = data.get("total_steps")
        if isinstance(total, int):
            self._total = total
        if data.get("split") != "val" or not isinstance(step, int) or step in self._steps:
            return None
        self._steps.add(step)
        loss, value = _figure(data.get("loss")), _figure(data.get(self._field))
        if loss is not None and (self._lowest is None or loss < self._lowest[0]):
            self._lowest = (loss, step)
        return Heard(Report(step, value), self._total is not None and step >= self._total)


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
