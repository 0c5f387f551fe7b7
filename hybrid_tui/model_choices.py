"""Everything in a workspace that can be talked to, as choices of a picker."""

from __future__ import annotations

from typing import Any

import msgspec

from hybrid_tui import actions
from services import formats
from services.context import Context
from services.errors import HybridError
from services.runs.types import RunView
from widgets.picker import Choice


async def model_choices(ctx: Context) -> tuple[list[Choice], list[str]]:
    """Registered versions (by alias and number), runs with a result, base models; and what could not be read."""
    problems: list[str] = []

    async def listing(name: str) -> Any:
        action = actions.find(name)
        try:
            return await action.function()(ctx, msgspec.convert({}, action.parameters()))
        except HybridError as error:
            problems.append(f"{name}: {error}")
            return None

    registry, runs, models = [await listing(name) for name in ("registry.list", "train.list", "model.list")]
    choices = [Choice("base", "the base model of the settings")]
    for version in registry.versions if registry else ():
        detail = f"{version.type}, {_metric(version.metrics.get('accuracy'))}{version.training_date[:10]}"
        choices += [Choice(f"{version.model}@{alias}", f"is version {version.version}") for alias in version.aliases]
        choices.append(Choice(version.id, detail))
    choices += [_run(run) for run in runs.runs if run.phase == "succeeded"] if runs else []
    choices += [Choice(entry.label, f"base model, {entry.state}") for entry in models.models] if models else []
    return choices, problems


def _run(run: RunView) -> Choice:
    return Choice(f"run:{run.id}", f"{_metric(run.results.get('accuracy'))}trained on {run.data}")


def _metric(accuracy: Any) -> str:
    return f"accuracy {formats.percent(accuracy)}, " if isinstance(accuracy, float) else ""
