"""The panel's last line: the keys that hold now."""

from __future__ import annotations

from textual.widgets import Footer


class KeyFooter(Footer):
    """Textual's footer, without its own palette entry: the key table has one."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
