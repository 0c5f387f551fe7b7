"""How figures read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import formats


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (15_000_000_000, "15.0 GB"), (-2048, "-2.0 kB"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_size(n: float | None, text: str) -> None:
    assert formats.size(n) == text


@pytest.mark.parametrize(
    ("s", "text"),
    [(0.25, "0.2 s"), (45, "45 s"), (365, "6 min 05 s"), (7980, "2 h 13 min"), (100_000, "1 d 3 h"), (math.inf, "–")],
)
def test_duration(s: float, text: str) -> None:
    assert formats.duration(s) == text


@pytest.mark.parametrize(("x", "text"), [(2.3152, "2.315"), (0.0015, "0.0015"), (12_345.6, "12,346"), (None, "–")])
def test_number(x: float | None, text: str) -> None:
    assert formats.number(x) == text


def test_age_and_rate() -> None:
    assert formats.age(1000, now=1004) == "just now"
    assert formats.age(0, now=7200) == "2 h ago"
    assert formats.rate(114.4, "tokens") == "114 tokens/s"
    assert formats.percent(0.858) == "85.8 %"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_has_a_text(x: float) -> None:
    for format_ in (formats.size, formats.number, formats.percent, formats.duration, formats.count):
        assert format_(x)
