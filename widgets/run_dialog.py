"""A dialog that follows one action: running with its progress, then its result or what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.visual import VisualType
from textual.widgets import Button, Static

from services import formats
from services.context import Progress
from widgets.dialogs import Dialog


def progress_line(progress: Progress) -> str:
    """One line: "measuring · 12,345 of 20,000 files · note"."""
    show = formats.size if progress.unit == "bytes" else formats.count
    unit = "" if progress.unit in ("bytes", "") else f" {progress.unit}"
    parts = [progress.stage]
    if progress.total:
        parts.append(f"{show(progress.done)} of {show(progress.total)}{unit}")
    elif progress.done:
        parts.append(f"{show(progress.done)}{unit}")
    if progress.note:
        parts.append(progress.note)
    return " · ".join(part for part in parts if part)


class RunDialog(Dialog[None]):
    """Closing it leaves the action running; ``stop`` is called for the button that stops it."""

    DEFAULT_CSS = """
    RunDialog > Vertical { width: 104; }
    RunDialog #run-state { color: $text-muted; }
    RunDialog.-failed #run-state { color: $text-error; }
    RunDialog #run-result { margin-top: 1; display: none; }
    RunDialog.-done #run-result { display: block; }
    RunDialog.-over #stop { display: none; }
    """

    def __init__(self, title: str, stop: Callable[[], object], *, keys: Sequence[BindingType] = ()) -> None:
        super().__init__(title, keys=keys)
        self.stop = stop
        self.state = "running"

    def body(self) -> ComposeResult:
        yield Static("Running…", id="run-state")
        yield Static("", id="run-result")

    def buttons(self) -> ComposeResult:
        yield Button("Stop", id="stop", compact=True)
        yield Button("Close", id="close", compact=True)

    def on_mount(self) -> None:
        self.query_one("#close").focus()

    @on(Button.Pressed, "#stop")
    def _stop(self) -> None:
        self.stop()
        self.finish("stopped", "Stopped.")

    def progress(self, progress: Progress) -> None:
        """Show where the action is."""
        if self.state == "running" and self.is_mounted:
            self.query_one("#run-state", Static).update(Content(progress_line(progress)))

    def done(self, result: VisualType) -> None:
        """Show the result."""
        self.query_one("#run-result", Static).update(result)
        self.finish("done", "✓ Done.")

    def failed(self, message: str, hint: str) -> None:
        """Show what went wrong and the next step."""
        self.finish("failed", f"✗ {message}\n{hint}".strip())

    def finish(self, state: str, text: str) -> None:
        """The action is over."""
        self.state = state
        self.add_class("-over", f"-{state}")
        self.query_one("#run-state", Static).update(Content(text))
