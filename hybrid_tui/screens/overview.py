"""The overview: is the disk within budget, what is deployed, what is running, what is due."""

from __future__ import annotations

from textual.app import ComposeResult

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from widgets.status import Section


class OverviewScreen(PanelScreen):
    """The first screen."""

    NAME = "overview"
    BINDINGS = keymap.bindings("overview")

    def body(self) -> ComposeResult:
        yield Section("Disk", id="disk")
