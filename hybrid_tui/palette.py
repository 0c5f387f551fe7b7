"""What the command palette offers: the screen's keys, the actions, the screens, the themes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from hybrid_tui import keymap
from hybrid_tui.actions import ACTIONS
from hybrid_tui.screens import PLACES

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp


@dataclass(frozen=True)
class Command:
    """One line of the palette."""

    text: str
    help: str
    run: Callable[[], Any]


class PanelCommands(Provider):
    """Every command of the panel, in a fixed order; a search looks at names and help."""

    def commands(self) -> Iterator[Command]:
        """Keys of the screen in front, then screens, actions, themes."""
        app = cast("HybridApp", self.app)
        section = getattr(self.screen, "NAME", "")
        for key in keymap.KEYS.get(section, ()):
            shown = keymap.shown_key(f"{section}.{key.name}", app.keys)
            yield Command(f"{section.title()}: {key.label}", f"{key.help}  ({shown})", partial(self._press, key.action))
        for place in PLACES:
            shown = keymap.shown_key(f"app.{place.name}", app.keys)
            yield Command(f"Go to {place.title}", f"Show this screen.  ({shown})", partial(app.action_go, place.name))
        yield Command("Show sweeps", "Trials of a search for good settings, and the best.", app.action_sweeps)
        for action in ACTIONS.values():
            note = " Asks first." if action.asks else ""
            yield Command(action.name, action.help + note, partial(app.ask_action, action.name))
        for name in ("help", "quit"):
            key = keymap.ids()[f"app.{name}"]
            yield Command(key.label, key.help, partial(app.run_action, key.action.removeprefix("app.")))
        for name in sorted(app.available_themes, key=lambda n: (not n.startswith("hybrid"), n)):
            yield Command(f"Theme: {name}", "Use these colours until the panel closes.", partial(app.use_theme, name))

    async def _press(self, action: str) -> None:
        await self.screen.run_action(action)

    async def discover(self) -> Hits:
        """Everything, before anything is typed."""
        for command in self.commands():
            yield DiscoveryHit(command.text, command.run, help=command.help)

    async def search(self, query: str) -> Hits:
        """What matches ``query`` in its name, or with half the weight in its help."""
        matcher = self.matcher(query)
        for command in self.commands():
            score = max(matcher.match(command.text), matcher.match(command.help) / 2)
            if score > 0:
                yield Hit(score, matcher.highlight(command.text), command.run, text=command.text, help=command.help)
