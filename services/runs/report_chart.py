"""Line charts as SVG: no HTML, no script, no style sheet, readable on light and on dark ground."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

import msgspec

from services import formats

WIDTH, LEFT, RIGHT, TOP, PLOT, BOTTOM = 760, 84, 24, 46, 200, 44
_COLOURS = ("#3b82c4", "#d9772b", "#3a9a5b", "#a05cc0", "#c2485d")  # each at least 3:1 on white and on near-black
_DASHES = ("", "7 4", "2 4", "10 3 2 3", "4 2")  # colour never says it alone
_INK, _GRID = "#808890", "#80889055"
_MOST_POINTS = 1_200  # of a curve; beyond it the extremes of neighbours stay

Point = tuple[float, float | None]


class Curve(msgspec.Struct, frozen=True):
    """A named curve; a point without a finite value is a gap."""

    name: str
    points: tuple[Point, ...]


class Chart(msgspec.Struct, frozen=True):
    """Curves over one x axis. ``log`` asks for a logarithmic y axis, which needs values above zero."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log: bool = False


def draw(charts: Sequence[Chart]) -> str:
    """All ``charts`` below one another as one SVG document, those of the same x over the same range.

    Charts without a single finite value are left out.
    """
    shown = [chart for chart in charts if _values(chart)]
    each = TOP + PLOT + BOTTOM
    height = max(each * len(shown), 60)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">'
    ]
    if not shown:
        parts.append(f'<text x="{WIDTH / 2}" y="34" text-anchor="middle" fill="{_INK}">No figures were told.</text>')
    for number, chart in enumerate(shown):
        xs = [x for other in shown if other.x == chart.x for curve in other.curves for x, _ in curve.points]
        parts += [f'<g transform="translate(0 {number * each})">', *_chart(chart, min(xs), max(xs)), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _values(chart: Chart) -> list[float]:
    return [y for curve in chart.curves for _, y in curve.points if y is not None and math.isfinite(y)]


def _chart(chart: Chart, first: float, last: float) -> list[str]:
    values = _values(chart)
    log = chart.log and min(values) > 0 and max(values) / min(values) > 3
    low, high, marks = _axis(values, log)
    span = (last - first) or 1.0

    def at_x(x: float) -> float:
        return LEFT + (x - first) / span * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        share = (math.log(y) - math.log(low)) / (math.log(high) - math.log(low)) if log else (y - low) / (high - low)
        return TOP + PLOT * (1 - share)

    parts = [f'<text x="{LEFT}" y="18" font-size="14" font-weight="600" fill="{_INK}">{escape(chart.title)}</text>']
    for mark in marks:
        y = at_y(mark)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{_GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, formats.number(mark, 3), "end"))
    for mark in nice(first, last, 6):
        parts.append(f'<path d="M{at_x(mark):.1f} {TOP + PLOT}v5" stroke="{_INK}"/>')
        parts.append(_text(at_x(mark), TOP + PLOT + 18, formats.number(mark, 4), "middle"))
    parts.append(f'<path d="M{LEFT} {TOP}V{TOP + PLOT}H{WIDTH - RIGHT}" fill="none" stroke="{_INK}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, TOP + PLOT + 36, chart.x, "middle"))
    words = f"{chart.y}, logarithmic" if log else chart.y
    turned = f'transform="rotate(-90 16 {TOP + PLOT / 2})"'
    parts.append(
        f'<text x="16" y="{TOP + PLOT / 2}" text-anchor="middle" fill="{_INK}" {turned}>{escape(words)}</text>'
    )
    for number, curve in enumerate(chart.curves):
        parts += _curve(curve, number, at_x, at_y)
    return [*parts, *_legend(chart.curves)]


def _curve(curve: Curve, number: int, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> list[str]:
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
    style = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"'
    style += f' stroke-dasharray="{dash}"' if dash else ""
    parts: list[str] = []
    for piece in _pieces(_thinned(curve.points)):
        places = [f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in piece]
        if len(places) > 1:
            parts.append(f'<path d="M{"L".join(places)}" {style}/>')
        if len(places) == 1 or len(piece) <= 12:
            dots = (place.split() for place in places)
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in dots]
    return parts


def _pieces(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """Runs of finite points; the gaps between them stay gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            found.append([])
        else:
            found[-1].append((x, y))
    return [piece for piece in found if piece]


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most about ``_MOST_POINTS``: of neighbours the smallest and the largest stay, in their order, and gaps."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS / 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        some = points[start : start + size]
        finite = [i for i, (_, y) in enumerate(some) if y is not None and math.isfinite(y)]
        ends = (
            {min(finite, key=lambda i: some[i][1] or 0.0), max(finite, key=lambda i: some[i][1] or 0.0)}
            if finite
            else set()
        )
        gap = next((i for i in range(len(some)) if i not in finite), None)
        kept += [some[i] for i in sorted(ends | ({gap} if gap is not None else set()))]
    return kept


def _axis(values: Sequence[float], log: bool) -> tuple[float, float, list[float]]:
    """Ends of the y axis and where its lines are."""
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.15, high * 1.15
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 4 else (1,)
        marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return low, high, [mark for mark in marks if low <= mark <= high]
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low = 0.0 if 0 <= low < 0.35 * high else low - room
    return low, high + room, nice(low, high + room, 5)


def nice(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">{escape(words)}</text>'


def _legend(curves: Sequence[Curve]) -> list[str]:
    parts: list[str] = []
    x = float(WIDTH - RIGHT)
    for number in reversed(range(len(curves))):
        name = curves[number].name
        x -= 7.0 * len(name) + 38
        dash = _DASHES[number % len(_DASHES)]
        style = f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="2.5"'
        style += f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<path d="M{x:.0f} 32h24" {style}/>')
        parts.append(_text(x + 30, 36, name, "start"))
    return parts
