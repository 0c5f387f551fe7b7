"""How long the line chart takes to redraw after a point was added, by the number of points it holds.

python -m benchmarks.line_chart
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time

from textual.app import App, ComposeResult

from widgets.line_chart import LineChart
from widgets.series import Series

SIZE = (120, 40)
REDRAWS = 30


class ChartApp(App[None]):
    """A chart alone on the screen."""

    def compose(self) -> ComposeResult:
        yield LineChart()


def redraw_ms(chart: LineChart, series: Series) -> tuple[float, float]:
    """Median milliseconds to draw all rows anew after one more point: by the clock, and of the processor.

    On a box that does other things as well only the second says what drawing takes.
    """
    taken, busy = [], []
    for _ in range(REDRAWS):
        series.append(series.xs[-1] + 1, 1.0)
        start, worked = time.perf_counter(), time.thread_time()
        for y in range(chart.size.height):
            chart.render_line(y)
        taken.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.thread_time() - worked))
    return statistics.median(taken), statistics.median(busy)


async def main() -> None:
    """Print the table."""
    app = ChartApp()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.query_one(LineChart)
        print(
            f"{'points':>9}  {'plain':<14}{'log y':<14}{'average':<14}(ms a redraw at {SIZE[0]}x{SIZE[1]}, clock / CPU)"
        )
        for points in (1_000, 10_000, 100_000):
            series, noise = Series("loss", limit=2 * points), random.Random(0)
            for i in range(points):
                series.append(i, 3 * math.exp(-3 * i / points) + 0.2 * noise.random() + 0.1)
            chart.show([series])
            row = []
            for chart.log_y, chart.smoothing in ((False, 0.0), (True, 0.0), (False, 0.9)):
                await pilot.pause()
                row.append(redraw_ms(chart, series))
            print(f"{points:>9,}  " + "".join(f"{f'{ms:.1f} / {cpu:.1f}':<14}" for ms, cpu in row))


if __name__ == "__main__":
    asyncio.run(main())
