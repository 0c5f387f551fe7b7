"""A dialog to pick one of many by typing a part of its name, or to give a name of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from widgets.dialogs import Dialog

_MOST = 300


class Choice(msgspec.Struct, frozen=True):
    """``value`` is what is picked, ``detail`` what tells it apart, in words."""

    value: str
    detail: str = ""


class Picker(Dialog[str]):
    """Dismisses the picked value, or None. With ``own``, text that names no choice is taken as it is."""

    DEFAULT_CSS = """
    Picker #picker-list {
        height: auto; max-height: 12; margin-top: 1; border: none; background: $surface;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    Picker Input { border: none; height: 1; background: $boost; }
    """

    def __init__(
        self, title: str, choices: Sequence[Choice], *, own: str = "", note: str = "", keys: Sequence[BindingType] = ()
    ) -> None:
        # y and n answer questions in other dialogs; here they are letters to type
        super().__init__(title, keys=[b for b in keys if not isinstance(b, Binding) or len(b.key) > 1])
        self.choices = tuple(choices)
        self.own = own
        self.note = note

    def body(self) -> ComposeResult:
        yield Input(placeholder=self.own or "Type a part of the name", id="picker-filter", compact=True)
        yield OptionList(id="picker-list", markup=False)
        if self.note:
            yield Static(Content(self.note), classes="hint")

    def on_mount(self) -> None:
        self._filter("")
        field = self.query_one(Input)
        field.cursor_blink = False
        field.focus()

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._filter(event.value)

    def _filter(self, text: str) -> None:
        words = text.casefold().split()
        fitting = [c for c in self.choices if all(w in f"{c.value} {c.detail}".casefold() for w in words)]
        wide = max((len(c.value) for c in fitting), default=0) + 2
        self._list.clear_options()
        self._list.add_options(
            Option(Content.assemble(f"{c.value:<{wide}}", (c.detail, "dim")), id=None) for c in fitting[:_MOST]
        )
        self._fitting = fitting
        self._list.highlighted = 0 if fitting else None

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        highlighted = self._list.highlighted
        if highlighted is not None:
            self.dismiss(self._fitting[highlighted].value)
        elif self.own and event.value.strip():
            self.dismiss(event.value.strip())

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._fitting[event.option_index].value)

    def on_key(self, event) -> None:  # type: ignore[no-untyped-def]
        """Up and down move in the list while the text field has the focus."""
        if event.key in ("up", "down", "pageup", "pagedown") and self.focused is self.query_one(Input):
            event.stop()
            event.prevent_default()
            move = {"up": "cursor_up", "down": "cursor_down", "pageup": "page_up", "pagedown": "page_down"}[event.key]
            getattr(self._list, f"action_{move}")()
