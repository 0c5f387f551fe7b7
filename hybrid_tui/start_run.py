"""Asking for a training run: which data (generated when there is none), which model, the settings that matter most."""

from __future__ import annotations

import asyncio
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hybrid_tui import actions, keymap
from hybrid_tui.screens.base import Report, perform
from services.errors import BadInput
from widgets.dialogs import Confirm
from widgets.form import FormDialog

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp

# Of train.start's parameters those that a person changes often; the palette's form has all.
_ASKED = ("model", "epochs", "max_seconds", "r", "alpha", "lr", "batch_tokens", "seed")


async def ask_for_run(panel: HybridApp, report: Report) -> msgspec.Struct | None:
    """The parameters of train.start, or None. Call from a worker. Raises what data.list and data.generate raise."""
    datasets = await _call(panel, "data.list")
    if not datasets.datasets:
        if not await _may_generate(panel):
            return None
        await perform(panel, "data.generate", progress=report)
        datasets = await _call(panel, "data.list")
    newest = sorted(datasets.datasets, key=lambda info: -info.created_at)
    return await _ask(panel, [info.name for info in newest])


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


async def _ask(panel: HybridApp, names: list[str]) -> msgspec.Struct | None:
    action = actions.find("train.start")
    kind = await asyncio.to_thread(action.parameters)
    form = _form_type(kind, names)

    def check(words: dict[str, str]) -> str:
        try:
            actions.convert(action, {"data": names[0]} | words)
        except BadInput as error:
            return str(error)
        return ""

    words = await panel.push_screen_wait(
        FormDialog(
            "New run",
            form,
            {"model": panel.workspace.settings.model.base},
            intro="Trains in the background; it goes on when the panel is closed.",
            run="Start",
            check=check,
            keys=keymap.bindings("dialog"),
        )
    )
    return None if words is None else actions.convert(action, {"data": names[0]} | words)


def _form_type(kind: type[msgspec.Struct], names: list[str]) -> type[msgspec.Struct]:
    """A params type with the asked fields of ``kind`` and the datasets as a closed set."""
    hints = typing.get_type_hints(kind, include_extras=True)
    defaults = {f.name: f.default for f in msgspec.structs.fields(kind)}
    data = Annotated[Literal[tuple(names)], Meta(description="The dataset to train on.")]  # type: ignore[valid-type]
    fields: list[Any] = [("data", data, names[0])]
    fields += [(name, hints[name], defaults[name]) for name in _ASKED if name in hints]
    return msgspec.defstruct("RunForm", fields, frozen=True)
