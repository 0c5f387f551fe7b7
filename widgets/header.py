"""The panel's top: what is open and how the disk stands, then the screens with their number keys."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from textual.content import Content
from textual.reactive import reactive
from textual.style import Style
from textual.widget import Widget


class HeaderFacts(msgspec.Struct, frozen=True):
    """What the header says. ``places`` are (key, name, title); ``disk`` "9.1 GB free", ``trouble`` when over budget."""

    workspace: str
    store: str
    places: tuple[tuple[str, str, str], ...]
    disk: str = ""
    trouble: bool = False
    read_only: bool = False

    def with_disk(self, disk: str, trouble: bool) -> HeaderFacts:
        """The same with the disk's state."""
        return msgspec.structs.replace(self, disk=disk, trouble=trouble)


class PanelHeader(Widget):
    """Two lines, drawn as text: one widget for the whole header keeps the start fast.

    Its facts come down from the app's reactive ``header_facts``.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"header--name", "header--quiet", "header--current", "header--trouble"}
    DEFAULT_CSS = """
    PanelHeader { dock: top; height: 2; background: $panel; padding: 0 1; }
    PanelHeader .header--name { color: $primary; text-style: bold; }
    PanelHeader .header--quiet { color: $text-muted; }
    PanelHeader .header--current { text-style: bold; color: $background; background: $primary; }
    PanelHeader .header--trouble { color: $text-warning; text-style: bold; }
    """

    facts: reactive[HeaderFacts | None] = reactive(None)

    def __init__(self, current: str, facts: HeaderFacts | None = None) -> None:
        super().__init__()
        self.current = current
        self.set_reactive(PanelHeader.facts, facts)  # so that the first frame has them

    def on_mount(self) -> None:
        self.watch(self.app, "header_facts", self._take, init=False)

    def _take(self, facts: HeaderFacts | None) -> None:
        self.facts = facts

    def render(self) -> Content:
        facts = self.facts
        if facts is None:
            return Content("")
        return Content("\n").join([self._first(facts, self.size.width), self._second(facts, self.size.width)])

    def _first(self, facts: HeaderFacts, width: int) -> Content:
        def style(name: str) -> Style:
            return self.get_visual_style(f"header--{name}")

        left = Content.assemble(
            ("hybrid-tui", style("name")), "  ", facts.workspace, ("  ·  " + facts.store, style("quiet"))
        )
        if facts.read_only:
            left = Content.assemble(left, ("  ·  read-only", style("quiet")))
        mark = "▲ " if facts.trouble else ""
        right = Content.assemble((mark + facts.disk, style("trouble" if facts.trouble else "quiet")))
        gap = width - left.cell_length - right.cell_length
        if gap < 2:
            left = left.truncate(max(width - right.cell_length - 2, 0), ellipsis=True)
            gap = width - left.cell_length - right.cell_length
        return Content.assemble(left, " " * max(gap, 0), right)

    def _second(self, facts: HeaderFacts, width: int) -> Content:
        roomy = sum(len(key) + len(title) + 3 for key, _, title in facts.places) <= width
        after = " " if roomy else ""
        parts: list[Content] = []
        for key, name, title in facts.places:
            if name == self.current:
                parts.append(Content.assemble((f" {key} {title} ", self.get_visual_style("header--current"))))
            else:
                parts.append(Content.assemble(f" {key} ", (f"{title}{after}", self.get_visual_style("header--quiet"))))
        return Content("").join(parts)
