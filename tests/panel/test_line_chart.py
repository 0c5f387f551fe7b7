"""The line chart draws whatever it is given, at any size, and stays within its memory."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from widgets.line_chart import LineChart
from widgets.plotting import Dots, Scale, labels
from widgets.series import Series

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


class ChartApp(App[None]):
    """A chart alone on the screen."""

    def __init__(self, *series: Series) -> None:
        super().__init__()
        self.series = series

    def compose(self) -> ComposeResult:
        """The chart."""
        yield LineChart()

    def on_mount(self) -> None:
        """Hand over the curves."""
        self.query_one(LineChart).show(self.series)


def text_of(chart: LineChart) -> list[str]:
    return [chart.render_line(y).text for y in range(chart.size.height)]


def series(name: str, points: list[tuple[float, float | None]], limit: int = 100_000) -> Series:
    made = Series(name, limit=limit)
    for x, y in points:
        made.append(x, y)
    return made


# Series


def test_a_gap_breaks_the_line_and_the_last_value_is_missing_in_it() -> None:
    one = series("loss", [(1, 5.0), (2, 4.0), (3, math.nan), (4, None)])
    assert one.last is None
    one.append(5, 3.0)
    assert one.last == 3.0
    assert one.segments(1, 5, 50) == [[(1, 5.0), (2, 4.0)], [(5, 3.0)]]


def test_a_resumed_run_replaces_the_steps_it_repeats() -> None:
    one = series("loss", [(s, 10.0 - s) for s in range(8)])
    one.append(4, 1.5)
    assert list(one.xs) == [0, 1, 2, 3, 4]
    assert one.last == 1.5


def test_repeating_steps_from_a_gap_on_leaves_no_stale_break() -> None:
    one = series("loss", [(1, 1.0), (2, None), (3, 3.0), (2, 2.0), (3, 2.5)])
    assert [len(p) for p in one.segments(0, 9, 50)] == [1, 2]
    one.append(1, 1.0)
    one.append(2, 2.0)
    assert [len(p) for p in one.segments(0, 9, 50)] == [2]


def test_history_is_bounded_and_keeps_spikes() -> None:
    one = Series("loss", limit=1000)
    for step in range(50_000):
        one.append(step, 99.0 if step == 12_345 else 1.0 + step % 7 / 100)
    assert len(one) <= 1000
    assert max(one.ys) == 99.0
    assert one.xs[0] <= 4
    assert one.xs[-1] == 49_999


def test_many_points_are_reduced_to_the_columns_and_keep_their_extremes() -> None:
    rng = random.Random(0)
    one = series("loss", [(i, rng.random()) for i in range(20_000)])
    one.append(20_000, 7.0)
    one.append(20_001, 0.5)
    points = [y for piece in one.segments(0, 20_001, 100) for _, y in piece]
    assert len(points) <= 400
    assert max(points) == 7.0
    assert min(points) == min(one.ys)


@given(
    st.lists(st.lists(st.tuples(st.integers(-5, 60), st.one_of(st.none(), anything)), max_size=12), max_size=8),
    st.sampled_from([8, 30, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_points_that_come_together_are_as_if_one_by_one(
    batches: list[list[tuple[int, float | None]]], limit: int
) -> None:
    one, other = Series("loss", limit=limit), Series("loss", limit=limit)
    for batch in batches:
        other.extend([x for x, _ in batch], [y for _, y in batch])
        for x, y in batch:
            one.append(x, y)
    if limit == 1000:  # where nothing is thinned out
        assert (one.xs, one.ys, one.breaks, one.last) == (other.xs, other.ys, other.breaks, other.last)
    assert list(other.xs) == sorted(set(other.xs))
    assert len(other) <= limit
    copy = other.copy()
    assert (copy.xs, copy.ys, copy.breaks, copy.last) == (other.xs, other.ys, other.breaks, other.last)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.one_of(st.none(), anything)), max_size=120), st.integers(8, 40))
def test_a_series_stays_ascending_with_breaks_inside(points: list[tuple[int, float | None]], limit: int) -> None:
    one = series("x", [(float(x), y) for x, y in points], limit)
    assert list(one.xs) == sorted(set(one.xs))
    assert all(math.isfinite(y) for y in one.ys)
    assert all(0 < b < len(one) for b in one.breaks)
    assert one.breaks == sorted(set(one.breaks))
    assert len(one) <= limit
    assert len(one.smoothed(0.9)) == len(one)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(0.05, 0.99), st.integers(0, 60))
def test_smoothing_in_pieces_is_smoothing_at_once(values: list[float], weight: float, cut: int) -> None:
    whole, pieces = series("a", list(enumerate(values))), Series("b")
    for i, value in enumerate(values):
        pieces.append(i, value)
        if i >= cut:
            pieces.smoothed(weight)
    assert list(pieces.smoothed(weight)) == pytest.approx(list(whole.smoothed(weight)))


# Scales


@settings(max_examples=150, deadline=None)
@given(st.lists(anything.filter(math.isfinite), max_size=6), st.booleans(), st.integers(1, 20))
def test_ticks_lie_on_the_scale_and_labels_tell_them_apart(values: list[float], log: bool, most: int) -> None:
    scale = Scale.around(values, log=log)
    ticks = scale.ticks(most)
    assert len(ticks) <= most
    assert ticks == sorted(ticks)
    for tick in ticks:
        at = scale.at(tick)
        assert at is not None
        assert -1e-6 <= at <= 1 + 1e-6
    assert all(len(name) < 20 for name in labels(ticks))


def test_ticks_are_round() -> None:
    assert labels(Scale(0, 4.37).ticks(6)) == ["0", "1", "2", "3", "4"]
    assert labels(Scale(0.012, 0.0187).ticks(4)) == ["0.012", "0.014", "0.016", "0.018"]
    assert labels(Scale(0, 12_400).ticks(4)) == ["0", "5,000", "10,000"]
    assert labels(Scale(0.001, 10, log=True).ticks(5)) == ["0.001", "0.01", "0.1", "1", "10"]


def test_a_line_touches_every_column_between_its_ends() -> None:
    dots = Dots(10, 3)
    dots.line(0, 0, 19, 11, 0)
    assert all(any(dots.bits[row][column] for row in range(3)) for column in range(10))


# The widget


async def test_shows_last_values_marks_and_axes() -> None:
    train = series("train loss", [(i, 4.0 - i / 50) for i in range(100)])
    val = series("val loss", [(i, 4.2 - i / 60) for i in range(0, 100, 20)])
    async with ChartApp(train, val).run_test(size=(80, 24)) as pilot:
        lines = text_of(pilot.app.query_one(LineChart))
        assert "● train loss 2.02" in lines[0]
        assert "■ val loss 2.867" in lines[0]
        assert "■" in "".join(lines[1:])
        assert "┤" in "".join(lines)
        assert lines[-1].split() == ["step", "0", "20", "40", "60", "80"]


async def test_no_point_one_point_and_a_constant_series() -> None:
    one = Series("loss")
    async with ChartApp(one).run_test(size=(40, 10)) as pilot:
        chart = pilot.app.query_one(LineChart)
        assert "No points yet." in "".join(text_of(chart))
        one.append(1, 2.5)
        assert "● loss 2.5" in text_of(chart)[0]
        assert "●" in "".join(text_of(chart)[1:])
        for step in range(2, 50):
            one.append(step, 2.5)
        assert sum("⠀" < c <= "⣿" for c in "".join(text_of(chart))) > 20


async def test_a_view_of_the_tail_follows_until_it_is_moved() -> None:
    one = series("loss", [(i, 1.0) for i in range(101)])
    async with ChartApp(one).run_test(size=(80, 24)) as pilot:
        chart = pilot.app.query_one(LineChart)
        assert chart.view() == (0, 100)
        chart.zoom(0.5)
        assert chart.view() == (50, 100)
        one.append(110, 1.0)
        assert chart.view() == (60, 110)
        chart.pan(-0.5)
        assert not chart.following
        assert chart.view() == (35, 85)
        one.append(200, 1.0)
        assert chart.view() == (35, 85)
        assert "held" in text_of(chart)[0]
        chart.pan(10)
        assert chart.following
        chart.reset()
        assert chart.view() == (0, 200)


async def test_a_logarithmic_axis_leaves_out_what_it_cannot_show() -> None:
    one = series("loss", [(0, -1.0), (1, 0.0), (2, 0.001), (3, 1.0), (4, 1000.0)])
    async with ChartApp(one).run_test(size=(80, 24)) as pilot:
        chart = pilot.app.query_one(LineChart)
        chart.log_y = True
        await pilot.pause()
        lines = text_of(chart)
        assert "log y" in lines[0]
        assert {"0.001", "1", "1,000"} <= {line.split()[0] for line in lines if "┤" in line}


async def test_a_curve_keeps_its_mark_while_others_come_and_go() -> None:
    first, second, third = (series(name, [(0, 1.0), (5, 2.0)]) for name in ("a", "b", "c"))
    async with ChartApp(first, second).run_test(size=(60, 12)) as pilot:
        chart = pilot.app.query_one(LineChart)
        assert text_of(chart)[0].startswith("● a 2  ■ b 2")
        chart.show([second, third])
        assert text_of(chart)[0].startswith("■ b 2  ● c 2")
        chart.show([first, third], {"one": 3, "two": 1})
        assert text_of(chart)[0].startswith("◆ one 2  ■ two 2")


async def test_names_from_outside_are_literal() -> None:
    async with ChartApp(series("[b]v1[/b]\n\x1b[31m", [(0, 1.0)])).run_test(size=(80, 10)) as pilot:
        assert "[b]v1[/b]··[31m 1" in text_of(pilot.app.query_one(LineChart))[0]


async def test_never_fails_for_any_points_and_sizes() -> None:
    app = ChartApp(Series("a"))
    async with app.run_test(size=(80, 24)) as pilot:
        chart = pilot.app.query_one(LineChart)
        rows = st.lists(st.tuples(finite | st.integers(0, 50).map(float), st.one_of(st.none(), anything)), max_size=40)
        sizes = st.tuples(st.integers(0, 90), st.integers(0, 30))

        @settings(max_examples=150, deadline=None)
        @given(rows, rows, sizes, st.booleans(), st.sampled_from([0.0, 0.9]), st.floats(0.01, 3), finite)
        def draw(a, b, size, log, smoothing, factor, at) -> None:  # type: ignore[no-untyped-def]
            chart.log_y, chart.smoothing = log, smoothing
            chart.reset()
            chart.show([series("a", a, 16), series("b", sorted(b, key=lambda p: p[0]))])
            moves = (chart.refresh, lambda: chart.zoom(factor), lambda: chart.zoom(0.3, at=at), lambda: chart.pan(-1))
            for move in moves:
                move()
                strips = chart._draw(type(chart.size)(*size))
                assert len(strips) in (0, size[1])
                assert all(strip.cell_length == size[0] for strip in strips)

        draw()


async def test_follows_a_resize() -> None:
    async with ChartApp(series("loss", [(i, float(i)) for i in range(50)])).run_test(size=(80, 24)) as pilot:
        chart = pilot.app.query_one(LineChart)
        for size in ((20, 6), (120, 40), (5, 3), (1, 1)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert [len(line) for line in text_of(chart)] == [chart.size.width] * chart.size.height
