"""The panel's last line: the keys that hold now."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.style import Style
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.screen import Screen


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
        self._changed(self.screen)

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
        width, room = 0, self.size.width
        parts: list[Content] = []
        for key, label, press in self._pairs:
            click = Style.from_meta({"@click": f"app.simulate_key({press!r})"})
            part = Content.assemble((key, key_style + click), (f" {label}", label_style + click), "   ")
            if width + part.cell_length - 3 > room:
                break
            width += part.cell_length
            parts.append(part)
        return Content("").join(parts)
