"""What stands in for the panel in a terminal that is too small for it."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Middle
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static


class TooSmall(ModalScreen[None]):
    """Says how large the terminal is and how large it must be; the app takes it away when that is reached."""

    DEFAULT_CSS = """
    TooSmall { background: $background; align: center middle; }
    TooSmall Static { text-align: center; width: 1fr; }
    """
    BINDINGS = [Binding("q", "app.quit", "Quit", id="too_small.quit")]  # noqa: RUF012

    def __init__(self, smallest: tuple[int, int]) -> None:
        super().__init__()
        self.smallest = smallest

    def compose(self) -> ComposeResult:
        with Middle():
            yield Static()

    def on_resize(self, event: events.Resize) -> None:
        width, height = self.smallest
        now = f"{event.size.width}x{event.size.height}"
        text = f"This terminal is {now}.\nThe panel needs {width}x{height}.\nEnlarge it, or press q to quit."
        self.query_one(Static).update(Content(text))
