"""Several runs side by side: how far each came, how good it is, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from services import formats
from services.errors import HybridError
from services.runs import spec
from services.runs.types import RunSpec, RunView
from widgets.run_table import PHASES, cost, last_name, progress

MOST = 6  # as many as there are colours and marks


class Comparison(msgspec.Struct, frozen=True):
    """A row for each run. ``settings`` are the columns of what differs, after those of the results; ``problems`` name
    the runs whose settings can't be read."""

    results: tuple[str, ...]
    settings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    problems: tuple[str, ...] = ()


def compare(views: Sequence[RunView]) -> Comparison:
    """Read the runs' specs and put them side by side; columns in which no run has anything are left out."""
    problems: list[str] = []
    settings: dict[str, dict[str, str]] = {}
    for view in views:
        try:
            settings[view.id] = settings_of(spec.read(Path(view.path)))
        except HybridError as error:
            problems.append(str(error))
            settings[view.id] = {}
    differing = _differing(list(settings.values()))
    results = {view.id: _results(view) for view in views}
    told = [name for name in results[views[0].id] if any(results[v.id][name] != formats.MISSING for v in views)]
    rows = tuple(
        (
            view.id,
            (
                *(results[view.id][name] for name in told),
                *(settings[view.id].get(name, formats.MISSING) for name in differing),
            ),
        )
        for view in views
    )
    return Comparison(tuple(told), tuple(differing), rows, tuple(problems))


def settings_of(run: RunSpec) -> dict[str, str]:
    """All that a person chose or that shaped the run, as text."""
    chosen: dict[str, Any] = {"model": last_name(run.model_label), "data": last_name(run.data)}
    chosen |= {"content": run.data_sha256[:8], "target": run.target, **run.options}
    chosen |= msgspec.structs.asdict(run.config)
    chosen |= {"budget_seconds": run.max_seconds, "budget_cost": run.max_cost}
    if run.git_commit:
        chosen["commit"] = run.git_commit[:8] + ("+" if run.git_dirty else "")
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in chosen.items()}


def _differing(settings: Sequence[dict[str, str]]) -> list[str]:
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name) for one in settings if one}) > 1]


def _results(view: RunView) -> dict[str, str]:
    metrics, results = view.metrics, view.results
    took = view.ended_at - view.started_at if view.ended_at and view.started_at else None
    return {
        "state": PHASES.get(view.phase, view.phase),
        "step": progress(view),
        "loss": formats.number(metrics.get("loss")),
        "val loss": formats.number(metrics.get("val_loss")),
        "accuracy": formats.percent(results.get("accuracy", metrics.get("val_accuracy"))),
        "macro-F1": formats.percent(results.get("macro_f1", metrics.get("val_macro_f1"))),
        "tokens/s": formats.number(metrics.get("tokens_s"), 3),
        "took": formats.duration(view.cost.seconds or took),
        "cost": cost(view) or formats.MISSING,
    }
