"""The list of registered versions: status in words and symbols, aliases, and the figures that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual.message import Message
from textual.widgets import DataTable

from services import formats
from services.registry.figures import figure
from services.registry.types import Version

STATUS = {"deployed": "● deployed", "candidate": "◆ candidate", "registered": "○ registered", "retired": "◌ retired"}
_COLUMNS = ("Version", "Status", "Accuracy", "Macro-F1", "Size", "Aliases", "Added", "Note", "Base")
_MOST = 500
_NOTE = 40  # characters of a note that stand in the table; the details have it whole


class VersionTable(DataTable[Text]):
    """Versions in the order given, at most 500. Posts ``Chosen`` when another one comes under the cursor."""

    class Chosen(Message):
        """The version under the cursor is now ``version``."""

        def __init__(self, version: Version) -> None:
            super().__init__()
            self.version = version

    DEFAULT_CSS = """
    VersionTable { height: 1fr; background: $background; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
    """

    def __init__(self, **names: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1, **names)
        self.versions: tuple[Version, ...] = ()

    def on_mount(self) -> None:
        for name in _COLUMNS:
            self.add_column(name, key=name)

    @property
    def chosen(self) -> Version | None:
        """The version under the cursor."""
        return self.versions[self.cursor_row] if 0 <= self.cursor_row < len(self.versions) else None

    def show(self, versions: Sequence[Version]) -> None:
        """Draw these versions; the cursor stays on its version, or starts on the first."""
        before = self.chosen
        self.versions = tuple(versions[:_MOST])
        with self.prevent(DataTable.RowHighlighted):
            self.clear()
            for version in self.versions:
                self.add_row(*map(Text, _cells(version)), key=version.id)
            keep = next((i for i, v in enumerate(self.versions) if before and v.id == before.id), 0)
            self.move_cursor(row=keep)
        if self.versions:
            self.post_message(self.Chosen(self.versions[keep]))

    def select(self, id: str) -> None:
        """Put the cursor on the version called ``id`` ("banking@2")."""
        for row, version in enumerate(self.versions):
            if version.id == id:
                self.move_cursor(row=row)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Pass on which version is meant."""
        event.stop()
        if self.chosen is not None:
            self.post_message(self.Chosen(self.chosen))


def _cells(version: Version) -> tuple[str, ...]:
    return (
        version.id,
        STATUS.get(version.status, version.status),
        figure("accuracy", version.metrics.get("accuracy")),
        figure("macro_f1", version.metrics.get("macro_f1")),
        formats.size(version.size_bytes),
        ", ".join(version.aliases) or formats.MISSING,
        formats.moment(version.added_at)[:10],
        version.note if len(version.note) <= _NOTE else version.note[: _NOTE - 1] + "…",
        version.base_model.rstrip("/").rpartition("/")[2] or formats.MISSING,
    )
