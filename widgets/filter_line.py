"""One line to type a part of a name into; enter keeps the filter, escape forgets it."""

from __future__ import annotations

from typing import Any

from textual import events
from textual.message import Message
from textual.widgets import Input


class FilterLine(Input):
    """Hidden until ``open`` is called. Posts ``Filtered`` while typing and ``Left`` when done."""

    class Filtered(Message):
        """Show only what has ``text`` in its name."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """The list takes the focus again."""

    DEFAULT_CSS = """
    FilterLine { display: none; height: 1; border: none; padding: 0 1; background: $boost; }
    FilterLine:focus { border: none; }
    FilterLine.-open { display: block; }
    """

    def __init__(self, **names: Any) -> None:
        super().__init__(
            placeholder="Filter: a part of the name · enter keeps it · esc shows all", compact=True, **names
        )
        self.cursor_blink = False

    def open(self) -> None:
        """Appear and take the focus."""
        self.add_class("-open")
        self.focus()

    def clear_filter(self) -> bool:
        """Show all again. Whether there was a filter."""
        had = self.has_class("-open")
        self.remove_class("-open")
        if self.value:
            self.value = ""
        return had

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass on what is to be shown."""
        event.stop()
        self.post_message(self.Filtered(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the list; an empty filter disappears."""
        event.stop()
        if not self.value:
            self.clear_filter()
        self._leave()

    def on_key(self, event: events.Key) -> None:
        """Escape shows all again; down goes to the list."""
        if event.key == "escape":
            event.stop()
            event.prevent_default()
            self.clear_filter()
            self._leave()
        elif event.key == "down":
            event.stop()
            self._leave()

    def _leave(self) -> None:
        self.screen.set_focus(None)  # at once: the next key is a key again
        self.post_message(self.Left())
