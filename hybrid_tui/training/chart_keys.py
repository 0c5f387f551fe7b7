"""The training screen's chart: which figure it draws, and the keys that change how."""

from __future__ import annotations

from hybrid_tui.run_feed import METRICS, RunFeed
from hybrid_tui.training.runs_screen import RunsScreen
from services import formats
from services.runs.types import FINISHED
from widgets.line_chart import LineChart
from widgets.picker import Choice, Picker
from widgets.status import Section

_SMOOTHING = 0.9
_VIEWS = ("", "-chart", "-log")  # all; the chart large; the log large


class ChartKeys(RunsScreen):
    """Figure, axis, smoothing, zoom, and how much of the screen the chart has."""

    def draw_chart(self) -> None:
        """Draw the curves of the run under the cursor, or one of each marked run."""
        chart, feed = self.query_one(LineChart), self.feed
        live = feed is not None and feed.view is not None and feed.view.phase not in FINISHED
        chart.empty = "Waiting for the first figures." if live else "No such figures here: m shows others."
        if self.comparing:
            feeds = {feed.run_dir.name: feed for feed in self.feeds}
            known = {run.rpartition("-")[2]: (feeds[run], slot) for run, slot in self.marked.items() if run in feeds}
            curve = METRICS[self.metric][0]
            chart.show([f.curves[curve] for f, _ in known.values()], {name: slot for name, (_, slot) in known.items()})
        elif feed is not None:
            chart.show(feed.shown_curves(self.metric))
        self.query_one("#chart-box", Section).retitle(self.metric[:1].upper() + self.metric[1:])

    def action_view(self) -> None:
        """All of the run; its chart alone; its log alone."""
        now = next((name for name in _VIEWS[1:] if self.has_class(name)), "")
        after = _VIEWS[(_VIEWS.index(now) + 1) % len(_VIEWS)]
        for name in _VIEWS[1:]:
            self.set_class(name == after, name)

    def filled_metrics(self) -> list[str]:
        """What can be drawn of the run, or of any of the marked ones."""
        filled = {metric for feed in self.feeds for metric in feed.filled_metrics()}
        return [metric for metric in METRICS if metric in filled]

    def action_metric(self) -> None:
        """Draw the next figure that there is."""
        known = self.filled_metrics()
        if known:
            self.draw_metric(known[(known.index(self.metric) + 1) % len(known)] if self.metric in known else "loss")

    def action_metrics(self) -> None:
        """Choose the figure to draw from a list."""
        choices = [Choice(metric, _newest(self.feed, metric)) for metric in self.filled_metrics()]

        def chosen(metric: str | None) -> None:
            if metric:
                self.draw_metric(metric)

        if choices:
            self.app.push_screen(Picker("Draw which figure?", choices, keys=self.dialog_keys), chosen)

    def draw_metric(self, metric: str) -> None:
        """Draw the figure called ``metric`` in METRICS."""
        self.metric = metric
        self.draw_chart()

    def action_log_y(self) -> None:
        """Logarithmic y axis, on or off."""
        chart = self.query_one(LineChart)
        chart.log_y = not chart.log_y

    def action_smooth(self) -> None:
        """Moving average, on or off."""
        chart = self.query_one(LineChart)
        chart.smoothing = 0.0 if chart.smoothing else _SMOOTHING

    def action_zoom(self, factor: float) -> None:
        """Show more or fewer steps."""
        self.query_one(LineChart).zoom(factor)

    def action_pan(self, share: float) -> None:
        """Move along the steps."""
        self.query_one(LineChart).pan(share)

    def action_all(self) -> None:
        """Show all steps."""
        self.query_one(LineChart).reset()


def _newest(feed: RunFeed | None, metric: str) -> str:
    """The last values of a figure's curves, in words."""
    curves = feed.shown_curves(metric) if feed else []
    return ", ".join(f"{curve.name} {formats.number(curve.last)}" for curve in curves if len(curve))
