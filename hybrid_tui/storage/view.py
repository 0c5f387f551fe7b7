"""What every view of the storage screen is made of.

A view is a box between the gauges and the last line. The keys are the screen's: ``do('mark')`` in the key table calls
``do_mark`` of the view that is open, and a key whose method the view lacks is not offered there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from hybrid_tui.actions import ACTIONS
from services.errors import HybridError
from widgets.filter_line import FilterLine
from widgets.status import Section

if TYPE_CHECKING:
    from hybrid_tui.screens.storage import StorageScreen


class StorageView(Vertical):
    """One view; ``NAME`` is its key's name in the key table and its id, ``ACTION`` what it can't do without."""

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    ACTION: ClassVar[str]
    LIST: ClassVar[str]  # the id of what takes the focus
    DEFAULT_CSS = """
    StorageView { height: 1fr; display: none; }
    StorageView.-front { display: block; }
    StorageView > Section { height: 1fr; }
    StorageView .view--facts { height: 3; margin-top: 1; color: $text-muted; }
    StorageView .view--state { height: 1; padding: 0 2; color: $text-muted; }
    StorageView .view--state { text-wrap: nowrap; text-overflow: ellipsis; }
    StorageView .view--state.-partial { color: $text-warning; }
    """

    def __init__(self) -> None:
        super().__init__(id=self.NAME)
        self._was_open = False
        self._stale = False  # something was cleaned since it was read

    @property
    def host(self) -> StorageScreen:
        """The screen."""
        return cast("StorageScreen", self.screen)

    @property
    def section(self) -> Section:
        """The view's box, which says what is the matter when there is nothing to show."""
        return self.query_one(Section)

    @property
    def is_front(self) -> bool:
        """Whether this view is the one that is open."""
        return self.has_class("-front")

    def open_view(self) -> None:
        """Come to the front; the first time, begin to load."""
        if not self._was_open:
            self._was_open = True
            if self.ACTION not in ACTIONS:
                self.missing(self.ACTION)
            else:
                self.begin()
        elif self.ACTION in ACTIONS:
            (self.reload if self._stale else self.again)()
        self._stale = False
        self.take_focus()

    def take_focus(self) -> None:
        """Give the list the focus, if it is there to be seen."""
        if self.is_front and self.host.is_current:
            self.call_after_refresh(self._focus_list)

    def _focus_list(self) -> None:
        wanted: Widget = self.query_one(f"#{self.LIST}")
        if self.is_front and self.host.is_current and not isinstance(self.host.focused, FilterLine):
            wanted.focus()

    def missing(self, action: str) -> None:
        """Say in one line that a part of the installation is not there."""
        self.section.empty(f"This installation has no action {action}, which this view draws.")

    def tell(self, parts: list[str], *, partial: bool = False) -> None:
        """The line below the box."""
        state = self.query_one(".view--state", Static)
        state.set_class(partial, "-partial")
        state.update(Content(" · ".join(part for part in parts if part)))

    def failed(self, error: HybridError) -> None:
        """Show what went wrong in the box."""
        self.section.error(str(error), error.hint)

    # For a view to fill in

    def begin(self) -> None:
        """Open for the first time: load."""

    def again(self) -> None:
        """Open again."""

    def reload(self) -> None:
        """Read everything again."""

    def changed(self) -> None:
        """Something was cleaned, restored or freed: what is shown may be out of date."""
        if self.is_front and self._was_open and self.ACTION in ACTIONS:
            self.reload()
        else:
            self._stale = True

    def halt(self) -> bool:
        """Stop what runs, keep what it has found; whether anything ran."""
        return False

    def screen_shown(self) -> None:
        """The screen came to the front again."""

    def screen_hidden(self) -> None:
        """The screen went to the back: stop what costs."""

    def opened(self, row: Any) -> None:
        """A person chose ``row`` of the list with the mouse."""
