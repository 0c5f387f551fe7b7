"""The question under which name a run's result becomes a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from textual.binding import BindingType

from services import formats
from services.runs.types import RunView
from widgets.form import FormDialog


class RegisterForm(msgspec.Struct, frozen=True):
    """What to call a run's adapter in the registry."""

    model: Annotated[str, Meta(min_length=1, description="Name of the model; the run becomes its next version.")]
    note: Annotated[str, Meta(max_length=500, description="Why this version is worth keeping.")] = ""


def register_form(view: RunView, keys: Sequence[BindingType]) -> FormDialog:
    """The dialog, with the dataset's name as the model's."""

    def check(words: dict[str, str]) -> str:
        return "" if words.get("model") else "The model needs a name, e.g. banking."

    accuracy = view.results.get("accuracy")
    good = f"accuracy {formats.percent(accuracy)} on held-out data" if accuracy is not None else "not evaluated"
    return FormDialog(
        "Register this run", RegisterForm, {"model": view.data}, intro=f"{view.id}, {good}", run="Register",
        check=check, keys=keys,
    )  # fmt: skip
