"""Asking for a training run: which data (generated when there is none), which model, where, which settings."""

from __future__ import annotations

import asyncio
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hybrid_tui import actions, keymap
from hybrid_tui.screens.base import Report, perform
from hybrid_tui.training.estimate import may_start
from services.errors import BadInput
from widgets.dialogs import Confirm
from widgets.form import FormDialog

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp
    from services.runs.types import RunView

# Of train.start's parameters those that a person changes often; the palette's form has all.
_ASKED = (
    "model", "task", "method", "target", "accelerator", "budget_cost", "budget_seconds", "epochs", "max_seconds",
    "lr", "r", "alpha", "batch_tokens", "eval_steps", "patience", "seed",
)  # fmt: skip
_PER_RUN = ("wait",)  # never taken over from another run


async def ask_for_run(panel: HybridApp, report: Report, like: RunView | None = None) -> msgspec.Struct | None:
    """The parameters of train.start, or None; ``like``: the run whose settings the form starts with.

    Call from a worker. Raises what data.list and data.generate raise, and HybridError when the spec
    of ``like`` can't be read.
    """
    datasets = await _call(panel, "data.list")
    if not datasets.datasets and like is None:
        if not await _may_generate(panel):
            return None
        await perform(panel, "data.generate", progress=report)
        datasets = await _call(panel, "data.list")
    newest = sorted(datasets.datasets, key=lambda info: -info.created_at)
    values = await asyncio.to_thread(_values_of, like) if like else {}
    kind = await asyncio.to_thread(actions.find("train.start").parameters)
    values = {name: value for name, value in values.items() if name in kind.__struct_fields__}
    while True:
        words = await _ask(panel, kind, [info.name for info in newest], values, like)
        if words is None:
            return None
        if await may_start(panel, words, report):
            return actions.convert(actions.find("train.start"), words)
        values = values | words  # back to the form, as it was left


async def _call(panel: HybridApp, name: str) -> Any:
    found: list[Any] = []
    await perform(panel, name, then=found.append)
    return found[0]


async def _may_generate(panel: HybridApp) -> bool:
    question = Confirm(
        "No dataset yet",
        "Generate example data to train on? It is a set of banking questions with their intents, made from "
        "our own templates, within seconds.",
        ("To use your own file: close this, press : and choose data.prepare.",),
        yes="Generate it",
        keys=keymap.bindings("dialog"),
    )
    answer: bool | None = await panel.push_screen_wait(question)
    return bool(answer)


def _values_of(view: RunView) -> dict[str, Any]:
    """A run's settings by the names of train.start's parameters."""
    from services.runs import spec

    run = spec.read(Path(view.path))
    chosen = msgspec.structs.asdict(run.config) | dict(run.options)
    chosen |= {"model": run.model_label, "target": run.target, "data": Path(run.data).name, "seed": run.seed}
    chosen |= {"budget_seconds": run.max_seconds, "budget_cost": run.max_cost}
    return {name: value for name, value in chosen.items() if name not in _PER_RUN}


async def _ask(
    panel: HybridApp, kind: type[msgspec.Struct], names: list[str], values: dict[str, Any], like: RunView | None
) -> dict[str, str] | None:
    """The words for train.start that differ from its defaults, or None."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(kind)}
    unusual = [name for name, value in values.items() if name not in _ASKED and value != defaults[name]]
    names = list(dict.fromkeys([*([values["data"]] if values.get("data") else []), *names]))
    form = _form_type(kind, names, [name for name in unusual if name != "data"])
    values = {"model": panel.workspace.settings.model.base} | values
    action = actions.find("train.start")

    def whole(words: dict[str, str]) -> dict[str, str]:
        return {"data": names[0]} | words

    def check(words: dict[str, str]) -> str:
        try:
            actions.convert(action, whole(words))
        except BadInput as error:
            return str(error)
        return ""

    words = await panel.push_screen_wait(
        FormDialog(
            f"New run, like {like.id}" if like else "New run",
            form,
            values,
            intro="Trains in the background; it goes on when the panel is closed.",
            run="Start",
            check=check,
            keys=keymap.bindings("dialog"),
        )
    )
    return None if words is None else whole(words)


def _form_type(kind: type[msgspec.Struct], names: list[str], more: list[str]) -> type[msgspec.Struct]:
    """A params type with the asked fields of ``kind``, those of ``more``, and the datasets as a closed set."""
    hints = typing.get_type_hints(kind, include_extras=True)
    defaults = {f.name: f.default for f in msgspec.structs.fields(kind)}
    data = Annotated[Literal[tuple(names)], Meta(description="The dataset to train on.")]  # type: ignore[valid-type]
    fields: list[Any] = [("data", data, names[0])]
    for name in (*_ASKED, *more):
        hint = _target_hint(hints[name]) if name == "target" else hints.get(name)
        if hint is not None:
            fields.append((name, hint, defaults[name]))
    return msgspec.defstruct("RunForm", fields, frozen=True)


def _target_hint(hint: Any) -> Any:
    """The targets that this version has, each with what it costs."""
    from services.runs import targets

    known: dict[str, str] = {}
    for name in targets.NAMES:
        try:
            known[name] = targets.target(name).title
        except BadInput:
            continue  # not part of this version
    known["local"] += " (free)"
    told = "; ".join(f"{name}: {title}" for name, title in known.items())
    return Annotated[Literal[tuple(known)], Meta(description=f"Where to run. {told}.")]
