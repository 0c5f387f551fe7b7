"""Every size, time, share and number that a person reads is written here, in one way.

Sizes are decimal (1 GB = 10^9 bytes), as disks, Google Drive and GitHub Codespaces count them.
A missing or non-finite value is an en dash.
"""

from __future__ import annotations

import math
import time

MISSING = "–"


def size(n: float | None) -> str:
    """Bytes as "0 B", "999 B", "1.5 kB", "14.9 GB"."""
    if n is None or not math.isfinite(n):
        return MISSING
    sign, n = ("-", -n) if n < 0 else ("", n)
    if n < 1000:
        return f"{sign}{n:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        n /= 1000
        if n < 999.95 or unit == "TB":
            break
    return f"{sign}{n:.1f} {unit}"


def count(n: float | None) -> str:
    """A whole number with thin grouping: 12,345."""
    return MISSING if n is None or not math.isfinite(n) else f"{n:,.0f}"


def number(x: float | None, digits: int = 4) -> str:
    """A measured value with ``digits`` significant digits: 2.315, 0.0015, 12,300."""
    if x is None or not math.isfinite(x):
        return MISSING
    if abs(x) >= 10 ** (digits - 1):
        return f"{x:,.0f}"
    return f"{x:.{digits}g}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as "85.8 %"."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """A span of time: "0.3 s", "45 s", "6 min 05 s", "2 h 13 min", "3 d 4 h"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(timestamp: float | None, now: float | None = None) -> str:
    """How long ago a Unix time was: "just now", "5 min ago", "3 d ago"."""
    if timestamp is None or not math.isfinite(timestamp):
        return MISSING
    seconds = (time.time() if now is None else now) - timestamp
    if seconds < 10:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f} h ago"
    return f"{seconds // 86400:.0f} d ago"


def moment(timestamp: float | None) -> str:
    """A Unix time as local "2026-11-23 14:05"."""
    if timestamp is None or not math.isfinite(timestamp):
        return MISSING
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(timestamp))


def rate(per_second: float | None, unit: str) -> str:
    """ "114 tokens/s"; below ten with one decimal."""
    if per_second is None or not math.isfinite(per_second):
        return MISSING
    return f"{per_second:.1f} {unit}/s" if per_second < 10 else f"{per_second:,.0f} {unit}/s"
