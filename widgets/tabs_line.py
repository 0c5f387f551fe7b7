"""One line of named views with their keys, the open one set apart; a click opens one."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget


class TabsLine(Widget):
    """``tabs`` are (name, key as shown, title). Posts ``Chosen`` on a click; keys are the screen's."""

    class Chosen(Message):
        """A person wants the view ``name``."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--key", "tabs--title", "tabs--current"}
    DEFAULT_CSS = """
    TabsLine { height: 1; padding: 0 1; }
    TabsLine .tabs--key { color: $primary; text-style: bold; }
    TabsLine .tabs--title { color: $text-muted; }
    TabsLine .tabs--current { text-style: bold underline; color: $text; background: $primary 35%; }
    """

    current: reactive[str] = reactive("")

    def __init__(self, tabs: tuple[tuple[str, str, str], ...], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.tabs = tabs

    def render(self) -> Content:
        parts: list[Content] = []
        for name, key, title in self.tabs:
            if name == self.current:
                parts.append(Content.assemble((f" {key} {title} ", self.get_visual_style("tabs--current"))))
            else:
                key_style, title_style = self.get_visual_style("tabs--key"), self.get_visual_style("tabs--title")
                parts.append(Content.assemble((f" {key}", key_style), (f" {title} ", title_style)))
        return Content(" ").join(parts)

    def on_click(self, event: events.Click) -> None:
        """A click on a title opens it."""
        column = 0
        for name, key, title in self.tabs:
            width = len(key) + len(title) + 3
            if 0 <= event.get_content_offset_capture(self).x - column < width:
                self.post_message(self.Chosen(name))
            column += width + 1
