"""What both halves of the Drive screen are made of: the store's folders, and the queue of transfers.

The keys are the screen's: ``do('push')`` in the key table calls ``do_push`` of the half that has the focus, and a key
whose method it lacks is not offered there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from widgets.filter_line import FilterLine
from widgets.status import Section

if TYPE_CHECKING:
    from hybrid_tui.screens.drive import DriveScreen


class DriveView(Vertical):
    """One half; ``NAME`` is its key's name in the key table and its id, ``LIST`` the id of what takes the focus."""

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    LIST: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(id=self.NAME)

    @property
    def host(self) -> DriveScreen:
        """The screen."""
        return cast("DriveScreen", self.screen)

    @property
    def section(self) -> Section:
        """The half's box, which says what is the matter when there is nothing to show."""
        return self.query_one(Section)

    @property
    def is_front(self) -> bool:
        """Whether its keys are the ones that hold."""
        return self.has_class("-front")

    def take_focus(self) -> None:
        """Give the list the focus, if it is there to be seen."""
        if self.is_front and self.host.is_current:
            self.call_after_refresh(self._focus_list)

    def _focus_list(self) -> None:
        wanted: Widget = self.query_one(f"#{self.LIST}")
        if self.is_front and self.host.is_current and not isinstance(self.host.focused, FilterLine):
            wanted.focus()

    def tell(self, parts: list[str]) -> None:
        """The line below the box; an equal one draws nothing."""
        text = " · ".join(part for part in parts if part)
        line = self.query_one(".drive--state", Static)
        if str(line.content) != text:
            line.update(Content(text))

    def opened(self, row: Any) -> None:
        """A person chose ``row`` of the list with the mouse."""
