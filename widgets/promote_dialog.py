"""Asks which alias goes to a version, and shows what that means before it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, Static

from widgets.dialogs import Dialog


class Wish(msgspec.Struct, frozen=True):
    """What was asked for."""

    alias: str
    note: str


class Outlook(msgspec.Struct, frozen=True):
    """What moving an alias would do: a sentence, further lines, or in ``problem`` why it can't be."""

    summary: str
    lines: tuple[str, ...] = ()
    problem: str = ""


class PromoteDialog(Dialog[Wish]):
    """``outlook(alias)`` says what moving that alias would do; it is asked again at every letter."""

    DEFAULT_CSS = """
    PromoteDialog .promote-row { height: 1; }
    PromoteDialog .promote-row > Static { width: 8; }
    PromoteDialog .promote-row > Input { width: 1fr; }
    PromoteDialog #promote-plan { margin-top: 1; }
    """

    def __init__(
        self,
        title: str,
        outlook: Callable[[str], Outlook],
        aliases: Sequence[str],
        *,
        alias: str = "deployed",
        keys: Sequence[BindingType] = (),
    ) -> None:
        super().__init__(title, keys=keys)
        self.outlook = outlook
        self.aliases = tuple(aliases)
        self.alias = alias

    def body(self) -> ComposeResult:
        with Horizontal(classes="promote-row"):
            yield Static("Alias")
            yield Input(self.alias, id="alias", compact=True, suggester=SuggestFromList(self.aliases))
        with Horizontal(classes="promote-row"):
            yield Static("Note")
            yield Input(placeholder="why (optional)", id="note", max_length=500, compact=True)
        yield Static(id="promote-plan")

    def buttons(self) -> ComposeResult:
        yield Button("Cancel", id="close", compact=True)
        yield Button("Promote", id="promote", variant="primary", compact=True)

    def on_mount(self) -> None:
        self._draw()
        self.query_one("#alias", Input).focus()

    @on(Input.Changed, "#alias")
    def _draw(self) -> None:
        found = self.outlook(self._word("alias"))
        parts = [Content.styled(f"✗ {found.problem}", "$text-error") if found.problem else Content(found.summary)]
        parts += [Content.styled(f"• {line}", "dim") for line in found.lines]
        self.query_one("#promote-plan", Static).update(Content("\n").join(parts))
        self.query_one("#promote", Button).disabled = bool(found.problem)

    @on(Input.Submitted)
    @on(Button.Pressed, "#promote")
    def submit(self) -> None:
        """Close with the wish, unless it can't be."""
        if not self.outlook(self._word("alias")).problem:
            self.dismiss(Wish(self._word("alias"), self._word("note")))

    def _word(self, id: str) -> str:
        return self.query_one(f"#{id}", Input).value.strip()
