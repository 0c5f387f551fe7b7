"""What the parts of the training screen share: the run under the cursor, the marked ones, and what is read of them."""

from __future__ import annotations

from hybrid_tui.run_feed import RunFeed
from hybrid_tui.screens.base import PanelScreen
from services.runs.types import RunView
from widgets.run_table import RunTable


class RunsScreen(PanelScreen):
    """A screen over the workspace's runs. Its parts (keys, chart, comparison) know each other through this alone."""

    def __init__(self) -> None:
        super().__init__()
        self.feed: RunFeed | None = None
        self.metric = "loss"
        self.marked: dict[str, int] = {}  # run → its colour and mark, kept for as long as it is marked
        self.others: dict[str, RunFeed] = {}  # of the marked runs that are not under the cursor

    @property
    def feeds(self) -> list[RunFeed]:
        """Of the run under the cursor, and of the marked ones."""
        return [*([self.feed] if self.feed else []), *self.others.values()]

    @property
    def comparing(self) -> bool:
        """Whether several runs are marked."""
        return len(self.marked) > 1

    @property
    def chosen(self) -> RunView | None:
        """The run under the cursor, as fresh as it is known."""
        view = self.query_one(RunTable).chosen
        feed = self.feed
        return feed.view if feed and feed.view and view and feed.view.id == view.id else view

    def listed(self, run: str) -> RunView | None:
        """The run as the list has it."""
        return next((v for v in self.query_one(RunTable).views if v.id == run), None)

    def with_run(self, what: str) -> RunView | None:
        """The run under the cursor; says so when there is none to ``what``."""
        if self.chosen is None:
            self.notify(f"There is no run to {what}; press n to start one.", markup=False)
        return self.chosen

    def select(self, run: str) -> None:
        """Put the cursor on ``run`` as soon as it is listed."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Say what is going on, at the list's edge."""
        raise NotImplementedError

    def action_refresh(self) -> None:
        """Read the list again, now."""
        raise NotImplementedError

    def look_now(self) -> None:
        """Look at the runs' files at once, not when the next look is due."""
        raise NotImplementedError

    def draw_chart(self) -> None:
        """Draw the chosen figure's curves as they are known."""
        raise NotImplementedError
