"""A titled box that shows its content, or in its place one honest message: loading, empty, or what went wrong."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static


class Section(Vertical):
    """A bordered box with a title. It starts in the state "loading"; call ``ready()`` once its content is filled.

    ``content`` may be given, or children mounted by ``with Section("Title"):`` in compose.
    Every text is literal: no markup is read from it.
    """

    DEFAULT_CSS = """
    Section { border: round $foreground 25%; border-title-color: $text; padding: 0 1; height: auto; }
    Section:focus-within { border: round $primary; }
    Section > .section--state { display: none; height: auto; color: $text-muted; }
    Section.-message > .section--state { display: block; }
    Section.-message > .section--content { display: none; }
    Section.-error > .section--state { color: $text-error; }
    """

    def __init__(self, title: str, *content: Widget, loading: str = "Loading…", **names: Any) -> None:
        super().__init__(*content, **names)
        self.border_title = Content(title)
        self._state = Static(Content(loading), classes="section--state")
        self.message = loading
        self.state = "loading"
        self.set_class(bool(loading), "-message")
        if not loading:
            self.state = "ready"

    def compose(self) -> ComposeResult:
        yield self._state
        yield from super().compose()

    def on_mount(self) -> None:
        for child in self.children:
            if child is not self._state:
                child.add_class("section--content")

    def _show(self, state: str, message: str) -> None:
        if (self.state, self.message) == (state, message):
            return
        self.state, self.message = state, message
        self.set_class(state != "ready", "-message")
        self.set_class(state == "error", "-error")
        self._state.update(Content(message))

    def retitle(self, title: str) -> None:
        """Change the title; an equal one draws nothing, where setting ``border_title`` repaints the whole box."""
        if str(self.border_title) != title:
            self.border_title = Content(title)

    def loading_state(self, message: str = "Loading…") -> None:
        """Say that the content is on its way."""
        self._show("loading", message)

    def empty(self, title: str, next_step: str = "") -> None:
        """Say that there is nothing yet, and what would change that."""
        self._show("empty", f"{title}\n{next_step}".strip())

    def error(self, message: str, hint: str = "") -> None:
        """Say what went wrong and what to do next."""
        self._show("error", f"✗ {message}\n{hint}".strip())

    def ready(self) -> None:
        """Show the content."""
        self._show("ready", "")
