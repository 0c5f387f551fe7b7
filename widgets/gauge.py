"""A budget meter: name, bar, figures, and in words whether the budget holds."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from services import formats

FULL, EMPTY = "━", "─"


class Reading(msgspec.Struct, frozen=True):
    """``share`` of the budget (may be over 1; None = no bar), ``figures`` "9.1 GB of 15.0 GB", ``verdict`` in words."""

    share: float | None
    figures: str
    verdict: str
    over: bool = False

    @classmethod
    def of_budget(cls, used: int, budget: int) -> Reading:
        """How much of a budget in bytes is used."""
        over = used > budget
        verdict = f"{formats.size(used - budget)} over" if over else "within budget"
        share = used / budget if budget else float(used > 0)
        return cls(share, f"{formats.size(used)} of {formats.size(budget)}", verdict, over)

    @classmethod
    def of_reserve(cls, free: int, least: int) -> Reading:
        """Whether enough bytes are free."""
        short = free < least
        verdict = f"{formats.size(least - free)} short" if short else "enough"
        return cls(None, f"{formats.size(free)}, min {formats.size(least)}", verdict, short)


def bar(share: float, width: int) -> tuple[str, str]:
    """The filled and the empty part of a bar; any non-zero share fills at least one cell, none but 1 fills all."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    if share > 0:
        filled = max(filled, 1)
    if share < 1:
        filled = min(filled, width - 1)
    return FULL * filled, EMPTY * (width - filled)


class Gauge(Widget):
    """One line. Over budget is said by "▲" and in words, not by colour alone."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"gauge--quiet", "gauge--full", "gauge--over", "gauge--verdict"}
    DEFAULT_CSS = """
    Gauge { height: 1; }
    Gauge .gauge--quiet { color: $text-muted; }
    Gauge .gauge--full { color: $primary; }
    Gauge .gauge--over { color: $text-warning; text-style: bold; }
    Gauge .gauge--verdict { color: $text-success; }
    """
    LABEL, FIGURES, VERDICT = 8, 20, 18

    reading: reactive[Reading | None] = reactive(None)

    def __init__(self, label: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.label = label

    def render(self) -> Content:
        quiet = self.get_visual_style("gauge--quiet")
        reading = self.reading
        label = f"{self.label:<{self.LABEL}}"
        if reading is None:
            return Content.assemble(label, ("measuring…", quiet))
        over = self.get_visual_style("gauge--over")
        full_style = over if reading.over else self.get_visual_style("gauge--full")
        verdict_style = over if reading.over else self.get_visual_style("gauge--verdict")
        width = max(self.size.width - self.LABEL - self.FIGURES - self.VERDICT - 4, 4)
        full, empty = bar(reading.share, width) if reading.share is not None else ("", " " * width)
        mark = "▲" if reading.over else "✓"
        return Content.assemble(
            label, (full, full_style), (empty, quiet), f"  {reading.figures:>{self.FIGURES}}  ",
            (f"{mark} {reading.verdict}", verdict_style),
        )  # fmt: skip
