"""Dialogs: a message, and a question that defaults to No. All text is literal.

They bring no keys of their own but those given as ``keys``, so that the panel's one key table rules here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingsMap, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.visual import VisualType
from textual.widget import Widget
from textual.widgets import Button, Static

T = TypeVar("T")


class Dialog(ModalScreen[T | None]):
    """A box in the middle of the screen with a title, a scrolling body and a row of buttons."""

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical {
        width: 76; max-width: 92%; height: auto; max-height: 90%;
        border: round $primary; background: $surface; padding: 1 2;
    }
    Dialog #dialog-body { height: auto; scrollbar-size-vertical: 1; }
    Dialog #dialog-body Static { height: auto; }
    Dialog .hint { color: $text-muted; margin-top: 1; }
    Dialog #dialog-buttons { height: auto; align-horizontal: right; margin-top: 1; }
    Dialog Button { margin-left: 2; }
    """

    SCROLLS: ClassVar[bool] = False  # the body takes the focus, so that the arrow keys scroll it

    def __init__(self, title: str, *, keys: Sequence[BindingType] = ()) -> None:
        super().__init__()
        self.heading = title
        self._bindings = BindingsMap.merge([self._bindings, BindingsMap(keys)])

    def body(self) -> ComposeResult:
        """The dialog's content."""
        yield from ()

    def buttons(self) -> ComposeResult:
        """The dialog's buttons, left to right."""
        yield Button("Close", id="close", compact=True)

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = Content(self.heading)
            with VerticalScroll(id="dialog-body", can_focus=self.SCROLLS):
                yield from self.body()
            with Horizontal(id="dialog-buttons"):
                yield from self.buttons()

    def on_resize(self, event: events.Resize) -> None:
        # The buttons always stay in sight: border, padding and the row of buttons take six lines of the box.
        self.query_one("#dialog-body").styles.max_height = max(event.size.height * 9 // 10 - 6, 3)

    @on(Button.Pressed, "#close")
    def action_close(self) -> None:
        self.dismiss(None)


class Message(Dialog[None]):
    """Something to read: ``text`` (plain, or any visual) and what to do next."""

    SCROLLS = True

    def __init__(self, title: str, text: VisualType, hint: str = "", *, keys: Sequence[BindingType] = ()) -> None:
        super().__init__(title, keys=keys)
        self.text = Content(text) if isinstance(text, str) else text
        self.hint = hint

    def body(self) -> ComposeResult:
        yield Static(self.text)
        if self.hint:
            yield Static(Content(self.hint), classes="hint")


class Confirm(Dialog[bool]):
    """A question whose safe answer, No, has the focus. ``lines`` say exactly what would happen."""

    def __init__(
        self, title: str, summary: str, lines: Sequence[str] = (), *, yes: str = "Yes", keys: Sequence[BindingType] = ()
    ) -> None:
        super().__init__(title, keys=keys)
        self.summary = summary
        self.lines = tuple(lines)
        self.yes = yes

    def body(self) -> ComposeResult:
        yield Static(Content(self.summary))
        if self.lines:
            yield Static(Content("\n".join(f"• {line}" for line in self.lines)), classes="hint")

    def buttons(self) -> ComposeResult:
        yield Button("No", id="close", compact=True)
        yield Button(Content(self.yes), id="yes", variant="warning", compact=True)

    def on_mount(self) -> None:
        self.query_one("#close", Widget).focus()

    @on(Button.Pressed, "#yes")
    def action_yes(self) -> None:
        self.dismiss(True)
