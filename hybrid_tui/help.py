"""The help dialog: the keys of the screen in front and those that hold everywhere, from the key table."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from textual.content import Content

from hybrid_tui import keymap
from widgets.dialogs import Message


def help_dialog(section: str, title: str, overrides: Mapping[str, str]) -> Message:
    """Help for the screen ``section``; ``overrides`` are the person's own keys by binding id."""
    parts = [(title, section), ("Everywhere", "app"), ("In dialogs", "dialog")]
    blocks = [_block(heading, name, overrides) for heading, name in parts if keymap.KEYS.get(name)]
    hint = "Remap any of them in hybrid.toml: [panel] keys. All ids: docs/keys.md"
    return Message("Keys", Content("\n\n").join(blocks), hint, keys=keymap.bindings("dialog"))


def _block(heading: str, section: str, overrides: Mapping[str, str]) -> Content:
    rows: list[Content] = [Content.styled(heading, "bold")]
    for is_place, keys in groupby(keymap.KEYS[section], key=lambda k: k.action.startswith("app.go(")):
        if is_place:
            places = list(keys)
            shown = [keymap.shown_key(f"{section}.{k.name}", overrides) for k in places]
            names = ", ".join(k.label for k in places)
            rows.append(_row(f"{shown[0]} … {shown[-1]}", names) if _in_order(shown) else _row(" ".join(shown), names))
        else:
            rows += [_row(keymap.shown_key(f"{section}.{k.name}", overrides), k.help) for k in keys]
    return Content("\n").join(rows)


def _in_order(keys: list[str]) -> bool:
    return keys == [str(i) for i in range(1, len(keys) + 1)]


def _row(key: str, text: str) -> Content:
    return Content.assemble((f"  {key:<14}", "bold $primary"), text)
