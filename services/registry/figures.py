"""A version's figures in words: one place for the plan of a promotion, its dialog and the registry's screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services import formats

_FIRST = ("accuracy", "macro_f1")  # what people look at first
_LABELS = {"macro_f1": "macro-F1"}


def ordered(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the figures, the telling ones first."""
    first = [name for name in _FIRST if name in metrics]
    return [*first, *(name for name in metrics if name not in first)]


def label(name: str) -> str:
    """A figure's name for a person."""
    return _LABELS.get(name, name.replace("_", " "))


def is_share(name: str) -> bool:
    """Whether the figure is a share of one, shown as percent."""
    return name in _FIRST or name.endswith(("_accuracy", "_macro_f1"))


def figure(name: str, value: object) -> str:
    """A figure's value: shares as percent, numbers short, anything else as it is, None as a dash."""
    if value is None:
        return formats.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if is_share(name):
            return formats.percent(value)
        return formats.count(value) if isinstance(value, int) else formats.number(value)
    return str(value)


_SIZES = {"rows", "seconds"}  # of the evaluation itself: more of them is neither better nor worse


def difference(name: str, new: object, old: object) -> str:
    """How ``new`` stands to ``old``: "+1.3 points" for shares, "−0.02" for numbers; "" when equal or not comparable."""
    if name in _SIZES or isinstance(new, bool) or isinstance(old, bool):
        return ""
    if not isinstance(new, int | float) or not isinstance(old, int | float) or new == old:
        return ""
    sign, change = "+" if new > old else "−", abs(new - old)
    return f"{sign}{100 * change:.1f} points" if is_share(name) else f"{sign}{formats.number(change)}"


def compare(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """One line a figure of ``new``, beside ``old``'s where there is one: "accuracy: 85.8 % → 87.1 % (+1.3 points)"."""
    lines = []
    for name in ordered(new):
        told = f"{label(name)}: {figure(name, new[name])}"
        if old is not None and name in old and old[name] != new[name]:
            change = difference(name, new[name], old[name])
            told = f"{label(name)}: {figure(name, old[name])} → {figure(name, new[name])}"
            told += f" ({change})" if change else ""
        elif old is not None and name not in old:
            told += " (not known of the other)"
        lines.append(told)
    return lines or ["no figures were recorded for this version"]
