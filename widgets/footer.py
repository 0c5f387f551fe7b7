"""The panel's last line: the keys that hold now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.screen import Screen

GAP = 3


class KeyFooter(Widget):
    """One line of "key label" pairs from the active bindings, each clickable.

    Left to right by importance: what does not fit is left out whole, and ``?`` lists everything.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"footer--key", "footer--label"}
    DEFAULT_CSS = """
    KeyFooter { dock: bottom; height: 1; background: $panel; padding: 0 1; }
    KeyFooter .footer--key { color: $primary; text-style: bold; }
    KeyFooter .footer--label { color: $text-muted; }
    """

    def on_mount(self) -> None:
        self._pairs: tuple[tuple[str, str, str], ...] = ()
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        if self.screen.is_current:  # a first screen may be mounted before it is on the stack (Python 3.12)
            self._changed(self.screen)
        else:
            self.call_after_refresh(self._changed, self.screen)

    def _changed(self, screen: Screen[object]) -> None:
        shown: dict[str, tuple[str, str, str]] = {}
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and binding.action not in shown:
                shown[binding.action] = (self.app.get_key_display(binding), binding.description, binding.key)
        pairs = tuple(shown.values())
        if pairs != self._pairs:
            self._pairs = pairs
            self.refresh()

    def render(self) -> Content:
        key_style = self.get_visual_style("footer--key")
        label_style = self.get_visual_style("footer--label")
        parts: list[Content | str] = []
        for _, key, label, _ in self._places():
            parts += [Content.styled(key, key_style), Content.styled(f" {label}", label_style), " " * GAP]
        return Content.assemble(*parts)

    def _places(self) -> Iterator[tuple[int, str, str, str]]:
        """(column, key as shown, label, key to press) of each pair that fits."""
        column = 0
        for key, label, press in self._pairs:
            width = cell_len(key) + 1 + cell_len(label)
            if column + width > self.size.width:
                return
            yield column, key, label, press
            column += width + GAP

    def on_click(self, event: events.Click) -> None:
        """A click on a pair presses its key."""
        for column, key, label, press in self._places():
            if 0 <= event.get_content_offset_capture(self).x - column <= cell_len(key) + cell_len(label):
                self.app.simulate_key(press)
