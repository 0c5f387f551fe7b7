"""Token buckets: a burst at once, then the steady rate, slower when Drive says so."""

from __future__ import annotations

import asyncio
import itertools
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from services.drive.api.pacing import Bucket, Pace
from tests.drive.api.conftest import Bench


async def taken(bucket: Bucket, times: int, amount: float = 1) -> float:
    """Seconds that so many takes at once needed."""
    begun = time.monotonic()
    await asyncio.gather(*(bucket.take(amount) for _ in range(times)))
    return time.monotonic() - begun


async def test_a_burst_goes_at_once_and_the_rest_at_the_steady_rate() -> None:
    bucket = Bucket(burst=50, rate=500)
    assert await taken(bucket, 50) < 0.05
    assert 0.18 < await taken(bucket, 100) < 0.5


async def test_refusals_halve_the_burst_and_the_rate_and_answers_bring_them_back() -> None:
    bucket = Bucket(burst=64, rate=100)
    bucket.refused()
    assert await taken(bucket, 32) < 0.05
    slow = await taken(bucket, 10)
    assert 0.15 < slow < 0.6
    for _ in range(50):
        bucket.passed()
    assert await taken(bucket, 10) < slow


async def test_waiters_go_in_their_order() -> None:
    bucket = Bucket(burst=1, rate=200)
    order: list[int] = []

    async def one(number: int) -> None:
        await bucket.take(1)
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(12)))
    assert order == sorted(order)


async def test_who_is_cancelled_takes_nothing() -> None:
    bucket = Bucket(burst=1, rate=10)
    await bucket.take(1)
    task = asyncio.create_task(bucket.take(1000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await taken(bucket, 1) < 0.3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([5, 50, 100, 200]), st.floats(0, 30)), max_size=400))
def test_no_minute_holds_more_than_the_quota(requests: list[tuple[int, float]]) -> None:
    """Whatever is asked for and whenever: what is let through in any minute is at most 325,000 units."""
    bucket = Pace().units
    clock = time.monotonic()
    passed: list[tuple[float, int]] = []
    for units, pause in requests * 20:
        clock += pause / 100
        passed.append((clock + bucket.reserve(units, clock), units))
    assert all(earlier[0] <= later[0] for earlier, later in itertools.pairwise(passed))
    total, start = 0, 0
    for moment, units in passed:
        total += units
        while passed[start][0] < moment - 60:
            total -= passed[start][1]
            start += 1
        assert total <= 325_000


async def test_an_account_that_allows_less_is_obeyed(bench: Bench) -> None:
    """Requests that Drive found too fast are repeated, and the client becomes slower than it was."""
    poor = bench.server.account("slow@example.org", creates_per_second=40)
    other = Bench(bench.server, poor, bench.place)
    client = other.client()
    await asyncio.gather(*(client.create_folder(f"f{n}", other.folder) for n in range(60)))
    assert len(await client.children(other.folder)) == 60
    assert client._http._pace.creates._share < 1 or client.stats.retries == 0
    await other.close()
