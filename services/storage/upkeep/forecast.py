"""When the disk will be full: the Theil-Sen slope of the used bytes, with Sen's distribution-free interval.

The slope is the median of the slopes between every two samples, so that a few odd days don't bend it. The interval
is P. K. Sen's (1968, "Estimates of the regression coefficient based on Kendall's tau"); it takes the samples for
independent, which a disk's are not quite: read it as the least width, not the whole of what is unsure.
"""

from __future__ import annotations

import math
from statistics import median

from services import formats
from services.storage.types import DiskUsage
from services.storage.upkeep.samples import DAY
from services.storage.upkeep.types import Forecast, Sample

MIN_SAMPLES = 5
MIN_DAYS = 2.0
SPACING = 6 * 3600.0  # of the samples that are compared: 4 a day, at most 800 pairs a week
FAR = 3650 * DAY
_Z90 = 1.6449  # two-sided 90 % of the normal distribution
_STILL = 1_000_000.0  # bytes a day that nobody calls growth


def forecast(
    recorded: list[Sample], usage: DiskUsage, *, days: float, now: float, problems: tuple[str, ...] = ()
) -> Forecast:
    """Where the disk is heading, from the ``recorded`` samples of the last ``days`` and its ``usage`` now."""
    samples = _recent(recorded, usage, days, now)
    span = (samples[-1].at - samples[0].at) / DAY if samples else 0.0
    over_now = now if usage.problems else None
    if len(samples) < MIN_SAMPLES or span < MIN_DAYS:
        words = _few(len(samples), span)
        return Forecast("few", words, budget_at=over_now, samples=tuple(samples), problems=problems)
    slope, low, high = _slope(samples)
    rates = {"slope_bytes_per_day": slope, "slope_low": low, "slope_high": high}
    over = f"over {span:.0f} days"
    if low <= 0 <= high or abs(slope) < _STILL:
        words = f"The disk's use is steady: no trend stands out {over} ({_signed(low)} to {_signed(high)} a day)."
        return Forecast("steady", words, **rates, budget_at=over_now, samples=tuple(samples), problems=problems)
    if slope < 0:
        words = f"The disk's use is shrinking by {formats.size(-slope)} a day {over}."
        return Forecast("shrinking", words, **rates, budget_at=over_now, samples=tuple(samples), problems=problems)
    full, earliest, latest = (_when(now, usage.free_bytes, rate) for rate in (slope, high, low))
    room = min(usage.budget_bytes - usage.used_bytes, usage.free_bytes - usage.min_free_bytes)
    budget = over_now or _when(now, max(room, 0), slope)
    words = f"The disk grows by {formats.size(slope)} a day {over}{_full_words(full, earliest, latest)}"
    if budget and not over_now:
        words += f" Its budget breaks about {_date(budget)}."
    return Forecast("growing", words, **rates, full_at=full, full_earliest_at=earliest, full_latest_at=latest,
                    budget_at=budget, samples=tuple(samples), problems=problems)  # fmt: skip


def _recent(recorded: list[Sample], usage: DiskUsage, days: float, now: float) -> list[Sample]:
    """The last sample of every six hours of the window, and the disk as it is now.

    What was recorded while the disk had another size (it was enlarged, or the workspace moved) is left out.
    """
    own = [s for s in recorded if now - days * DAY <= s.at <= now and s.total_bytes == usage.total_bytes]
    thinned = {int(sample.at // SPACING): sample for sample in own}
    caches = own[-1].caches_bytes if own else None
    thinned[int(now // SPACING)] = Sample(now, usage.total_bytes, usage.used_bytes, usage.free_bytes, caches)
    return list(thinned.values())


def _slope(samples: list[Sample]) -> tuple[float, float, float]:
    """The median slope in bytes a day, and the ends of its 90 % interval."""
    points = [(sample.at / DAY, sample.used_bytes) for sample in samples]
    slopes = sorted((u2 - u1) / (t2 - t1) for i, (t1, u1) in enumerate(points) for t2, u2 in points[i + 1 :])
    n = len(points)
    width = _Z90 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, math.floor((len(slopes) - width) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + width) / 2))
    return median(slopes), slopes[low], slopes[high]


def _when(now: float, room: float, rate: float) -> float | None:
    """When ``room`` bytes are gone at ``rate`` bytes a day; None if that is not within ten years."""
    return now + room / rate * DAY if rate > 0 and room / rate * DAY < FAR else None


def _few(count: int, span: float) -> str:
    return (
        f"There are not enough samples for a forecast: {count} over {formats.number(span, 2)} days, it takes "
        f"{MIN_SAMPLES}, at least six hours apart, over {MIN_DAYS:.0f} days."
    )


def _full_words(full: float | None, earliest: float | None, latest: float | None) -> str:
    if full is None or earliest is None:
        return " and is not full within ten years."
    to = _date(latest) if latest else "much later"
    between = f" (between {_date(earliest)} and {to})" if to != _date(earliest) else ""
    return f" and is full about {_date(full)}{between}."


def _date(at: float) -> str:
    return formats.moment(at).split()[0]


def _signed(rate: float) -> str:
    return f"{'+' if rate > 0 else ''}{formats.size(rate)}"
