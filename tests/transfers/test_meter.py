"""The meter: at most four reports a second, a rate that follows the line, bytes that must be sent again."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.drive.api.types import Stats
from services.drive.folder import FolderStore
from services.transfers.meter import Meter, Reading


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Counted(FolderStore):
    """A store that counts what goes over its line."""

    def __init__(self) -> None:
        self.stats = Stats()


def test_at_most_four_reports_a_second_and_none_without_news() -> None:
    clock, seen = Clock(), list[Reading]()
    meter = Meter({"a": 10_000}, seen.append, clock=clock)
    for _ in range(1000):
        meter.hear(10, "a")
        clock.now += 0.001
        meter.tick()
    assert 4 <= len(seen) <= 5
    count = len(seen)
    for _ in range(200):
        clock.now += 0.001
        meter.tick()
    assert len(seen) <= count + 1


def test_the_rate_follows_the_line_and_falls_when_it_stalls() -> None:
    clock, seen = Clock(), list[Reading]()
    meter = Meter({"a": 1_000_000}, seen.append, clock=clock)
    for _ in range(400):
        meter.hear(250, "a")
        clock.now += 0.025
        meter.tick()
    assert abs((seen[-1].rate or 0) - 10_000) < 500
    assert abs((seen[-1].eta_s or 0) - 90) < 6
    for _ in range(30):
        clock.now += 1
        meter.tick()
    assert (seen[-1].rate or 0) < 100


def test_what_an_earlier_attempt_left_does_not_count_as_speed() -> None:
    clock, seen, store = Clock(), list[Reading](), Counted()
    store.stats.sent_bytes = 5_000
    meter = Meter({"a": 1_000_000}, seen.append, store, total_bytes=3_000_000, total_files=3, clock=clock)
    meter.hear(900_000, "a")  # the store goes on inside the file
    for _ in range(10):
        store.stats.sent_bytes += 1_000
        meter.hear(1_000, "a")
        clock.now += 0.25
        meter.tick()
    assert (seen[-1].done_bytes, seen[-1].total_bytes, seen[-1].done_files) == (2_910_000, 3_000_000, 2)
    assert seen[-1].moved_bytes == 10_000 and 3_000 < (seen[-1].rate or 0) < 5_000


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-120, 120)), max_size=60))
def test_counts_stay_within_the_files(steps: list[tuple[str, int]]) -> None:
    """Whatever a store reports, no file is more than whole or less than empty, and arrived ones are whole."""
    sizes = {"a": 100, "b": 0, "c": 37}
    meter = Meter(sizes, lambda _: None)
    for path, n in steps:
        meter.hear(n, path)
        now = meter.reading()
        assert 0 <= now.done_bytes <= 137 and 0 <= now.done_files <= 3
        assert all(0 < f.done < f.size for f in now.files)
    meter.arrived(sizes)
    assert (meter.reading().done_bytes, meter.reading().done_files, meter.reading().files) == (137, 3, ())
