"""What a sweep looks through, from what a person types: ``lr=log:1e-4..3e-3 r=4|8|16 dropout=0..0.2``."""

from __future__ import annotations

import math
import typing

import msgspec

from services.errors import BadInput, nearest
from services.runs.types import TrainConfig
from services.sweeps.types import Axis, Value

# Settings that decide how a trial is judged, kept or seen: were they looked for, trials would not be comparable.
_NOT_SOUGHT = frozenset(
    {"eval_steps", "val_rows", "eval_rows", "checkpoint_seconds", "keep_checkpoints", "device", "processes", "task"}
)
_MOST_AXES = 12
HINT = "For example: space='lr=log:1e-4..3e-3 r=4|8|16 dropout=0..0.2'"


def parse(text: str) -> tuple[Axis, ...]:
    """The axes that ``text`` names, each once. Raises BadInput naming the word that can't be used."""
    axes: list[Axis] = []
    for word in text.split():
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise BadInput(f"space: '{word}' is not name=values.", hint=HINT)
        if name in (axis.name for axis in axes):
            raise BadInput(f"space: {name} is given twice.", hint=HINT)
        axes.append(_axis(name, values))
    if not axes:
        raise BadInput("space names no setting to look for.", hint=HINT)
    if len(axes) > _MOST_AXES:
        raise BadInput(f"space names {len(axes)} settings; more than {_MOST_AXES} at once find nothing.", hint=HINT)
    return tuple(axes)


def _axis(name: str, values: str) -> Axis:
    known = [f.name for f in msgspec.structs.fields(TrainConfig) if f.name not in _NOT_SOUGHT]
    if name in _NOT_SOUGHT:
        raise BadInput(f"space: {name} can't be looked for: trials would not be comparable.", hint="Give it plainly.")
    if name not in known:
        raise BadInput(f"space: there is no setting '{name}'{nearest(name, known) or '.'}", hint=HINT)
    logarithmic = values.startswith("log:")
    values = values.removeprefix("log:")
    if ".." not in values:
        if logarithmic:
            raise BadInput(f"space: {name}: log: needs a range such as log:1e-4..3e-3.", hint=HINT)
        return _choices(name, values)
    low, high = (_number(name, word) for word in values.split("..", 1))
    if not low < high:
        raise BadInput(f"space: {name}: {low:g}..{high:g} is no range: the lower end comes first.", hint=HINT)
    if logarithmic and low <= 0:
        raise BadInput(f"space: {name}: a log: range must begin above 0.", hint=HINT)
    whole = _kind(name) is int
    for end in (low, high):
        _checked(name, end)
    kind = ("int-log" if logarithmic else "int") if whole else ("log" if logarithmic else "linear")
    return Axis(name, msgspec.convert(kind, typing.get_type_hints(Axis)["kind"]), low, high)


def _choices(name: str, values: str) -> Axis:
    found = tuple(_checked(name, word) for word in values.split("|"))
    if len(set(found)) < len(found):
        raise BadInput(f"space: {name}: a choice is given twice.", hint=HINT)
    if len(found) < 2:
        raise BadInput(f"space: {name} has one value only.", hint=f"Give it plainly: {name}={values}.")
    return Axis(name, "choice", choices=found)


def _number(name: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"space: {name}: '{word}' is not a number.", hint=HINT)
    return value


def _kind(name: str) -> type:
    """float, int or str: what the setting holds."""
    hint = typing.get_type_hints(TrainConfig)[name]
    return hint if hint in (int, float) else str


def _checked(name: str, value: float | str) -> Value:
    """``value`` as the setting holds it. Raises BadInput when the setting can't."""
    kind = _kind(name)
    if kind is int and isinstance(value, float):
        if not value.is_integer():
            raise BadInput(f"space: {name} takes whole numbers, not {value:g}.", hint=HINT)
        value = int(value)
    try:
        config = msgspec.convert({name: value}, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        raise BadInput(f"space: {name}={value}: {str(error).partition(' - at')[0]}.", hint=HINT) from None
    held: Value = getattr(config, name)
    return held


def position(axis: Axis, value: Value) -> float:
    """Where ``value`` lies on the axis, 0 at its lower end and 1 at its upper: for drawing."""
    if axis.kind == "choice":
        at = axis.choices.index(value) if value in axis.choices else 0
        return at / (len(axis.choices) - 1)
    low, high, here = axis.low, axis.high, float(value)
    if axis.kind in ("log", "int-log"):
        low, high, here = math.log(low), math.log(high), math.log(max(here, axis.low))
    return min(max((here - low) / (high - low), 0.0), 1.0)


def applied(config: TrainConfig, params: dict[str, Value]) -> TrainConfig:
    """``config`` with the trial's own settings."""
    return msgspec.structs.replace(config, **params)
