"""A titled box of text: cheaper than a Section, for boxes that hold nothing but text."""

from __future__ import annotations

from typing import ClassVar

from textual.content import Content
from textual.widget import Widget


class Card(Widget):
    """Shows its ``content()``, or in its place one message: loading, empty, or what went wrong. Text is literal."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"card--message", "card--error"}
    DEFAULT_CSS = """
    Card { border: round $foreground 25%; border-title-color: $text; padding: 0 1; height: auto; }
    Card .card--message { color: $text-muted; }
    Card .card--error { color: $text-error; }
    """

    def __init__(self, title: str, *, id: str | None = None, loading: str = "Loading…") -> None:
        super().__init__(id=id)
        self.border_title = Content(title)
        self.state = "loading"
        self.message = loading
        self._content = Content("")

    def content(self) -> Content:
        """What is drawn in the state "ready"."""
        return self._content

    def render(self) -> Content:
        if self.state == "ready":
            return self.content()
        style = self.get_visual_style("card--error" if self.state == "error" else "card--message")
        return Content.styled(self.message, style)

    def _turn(self, state: str, message: str) -> None:
        if (self.state, self.message) != (state, message):
            self.state, self.message = state, message
            self.refresh(layout=True)

    def show(self, content: Content) -> None:
        """Show ``content``."""
        if self.state != "ready" or content != self._content:
            self._content = content
            self.state, self.message = "ready", ""
            self.refresh(layout=True)

    def loading_state(self, message: str = "Loading…") -> None:
        """Say that the content is on its way."""
        self._turn("loading", message)

    def empty(self, title: str, next_step: str = "") -> None:
        """Say that there is nothing yet, and what would change that."""
        self._turn("empty", f"{title}\n{next_step}".strip())

    def error(self, message: str, hint: str = "") -> None:
        """Say what went wrong and what to do next."""
        self._turn("error", f"✗ {message}\n{hint}".strip())
