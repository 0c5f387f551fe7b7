"""A conversation: what was asked, answers that grow as they stream in, each one's figures. All text is literal."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

_FLUSH_SECONDS = 0.1
_BLOCK_CHARS = 2_000
_MOST_TURNS = 60


class Answer(Vertical):
    """One question and its answer. ``append`` is cheap: pieces are drawn together, 10 times a second at most.

    A long answer is a column of blocks of which only the last is laid out again.
    """

    DEFAULT_CSS = """
    Answer { height: auto; margin-bottom: 1; }
    Answer > Static { height: auto; }
    Answer > .answer--question { text-style: bold; }
    Answer > .answer--state { color: $text-muted; }
    Answer > .answer--error { color: $text-error; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question
        self.text = ""
        self.state = ""
        self._shown = 0
        self._block = Static(markup=False)
        self._block_start = 0
        self._state = Static(markup=False, classes="answer--state")
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Static(Content(f"› {self.question}"), classes="answer--question")
        yield self._block
        yield self._state

    def append(self, piece: str) -> None:
        """Add a streamed piece of the answer."""
        self.text += piece
        if self._timer is None:
            self._timer = self.set_timer(_FLUSH_SECONDS, self._flush)

    def note(self, text: str) -> None:
        """Say under the answer what is going on: "waiting", "loading", its figures."""
        self.state = text
        self._state.set_class(False, "answer--error")
        self._state.update(Content(text))

    def finish(self, figures: str) -> None:
        """The answer is complete."""
        self._flush()
        self.note(figures)

    def fail(self, message: str) -> None:
        """The answer did not come, or broke off."""
        self._flush()
        self.note(message)
        self._state.set_class(True, "answer--error")

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._shown == len(self.text) or not self.is_attached:
            return
        self._shown = len(self.text)
        while (cut := _cut(self.text, self._block_start)) is not None:
            self._block.update(Content(self.text[self._block_start : cut].rstrip("\n")))
            self._block_start = cut
            self._block = Static(markup=False)
            self.mount(self._block, before=self._state)
        self._block.update(Content(self.text[self._block_start :].strip("\n") or " "))


def _cut(text: str, start: int) -> int | None:
    """Where the block that begins at ``start`` ends: after a line break where there is one. None while it is short."""
    if len(text) - start <= _BLOCK_CHARS:
        return None
    cut = text.rfind("\n", start, start + _BLOCK_CHARS)
    if cut < 0:
        cut = text.rfind(" ", start, start + _BLOCK_CHARS)
    return cut + 1 if cut > start else start + _BLOCK_CHARS


class Conversation(VerticalScroll):
    """The turns with one model, newest at the bottom; it keeps the end in view while the reader is there.

    The oldest turns are dropped beyond 60.
    """

    DEFAULT_CSS = """
    Conversation {
        width: 1fr; height: 1fr; border: round $panel-lighten-2; padding: 0 1;
        border-title-color: $text; border-subtitle-color: $text-muted; scrollbar-size-vertical: 1;
    }
    Conversation:focus { border: round $primary; }
    Conversation > .conversation--empty { color: $text-muted; }
    """

    def __init__(self, empty: str = "", **names: Any) -> None:
        super().__init__(**names)
        self._empty = Static(Content(empty), classes="conversation--empty")

    def compose(self) -> ComposeResult:
        yield self._empty

    @property
    def answers(self) -> list[Answer]:
        """The turns so far, oldest first."""
        return list(self.query_children(Answer))

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Name the model in the border."""
        self.border_title = Content(title)
        self.border_subtitle = Content(subtitle)

    def say(self, text: str) -> None:
        """What stands there before the first turn."""
        self._empty.update(Content(text))

    def ask(self, question: str) -> Answer:
        """Begin a turn."""
        self._empty.display = False
        turns = self.answers
        for old in turns[: max(len(turns) - _MOST_TURNS + 1, 0)]:
            old.remove()
        answer = Answer(question)
        self.mount(answer)
        self.anchor()
        return answer

    def clear(self) -> None:
        """Forget all turns."""
        self.query_children(Answer).remove()
        self._empty.display = True
