"""A budget meter: name, bar, figures, and in words whether the budget holds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from services import formats
from widgets.card import Card

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


LABEL, FIGURES, VERDICT = 8, 20, 18


def line(label: str, reading: Reading | None, width: int) -> Content:
    """One meter in ``width`` cells. Over budget is said by "▲" and in words, not by colour alone."""
    name = f"{label:<{LABEL}}"
    if reading is None:
        return Content.assemble(name, ("measuring…", "$foreground-muted"))
    room = max(width - LABEL - FIGURES - VERDICT - 4, 4)
    full, empty = bar(reading.share, room) if reading.share is not None else ("", " " * room)
    return Content.assemble(
        name,
        (full, "bold $text-warning" if reading.over else "$primary"),
        (empty, "$foreground-muted"),
        f"  {reading.figures:>{FIGURES}}  ",
        (f"▲ {reading.verdict}", "bold $text-warning") if reading.over else (f"✓ {reading.verdict}", "$text-success"),
    )


class Gauge(Widget):
    """One meter, one line."""

    DEFAULT_CSS = "Gauge { height: 1; }"

    reading: reactive[Reading | None] = reactive(None)

    def __init__(self, label: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.label = label

    def render(self) -> Content:
        return line(self.label, self.reading, self.size.width)


class GaugeCard(Card):
    """A titled box of meters, ``labels`` top to bottom."""

    def __init__(self, title: str, labels: Sequence[str], *, id: str | None = None, loading: str = "Loading…") -> None:
        super().__init__(title, id=id, loading=loading)
        self.readings: dict[str, Reading | None] = dict.fromkeys(labels)

    def content(self) -> Content:
        return Content("\n").join([line(label, reading, self.size.width) for label, reading in self.readings.items()])

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        # A meter is drawn to the width it gets: never more than a line.
        ready = self.state == "ready"
        return len(self.readings) if ready else super().get_content_height(container, viewport, width)

    def read(self, **readings: Reading) -> None:
        """Take some meters' readings and show them."""
        if self.state != "ready" or any(self.readings[label] != reading for label, reading in readings.items()):
            self.readings |= readings
            self._turn("ready", "")
            self.refresh()
