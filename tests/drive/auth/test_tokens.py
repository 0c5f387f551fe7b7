"""One token for everybody: renewed once, early, off the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.drive.auth.tokens import Lease, SharedTokens
from services.errors import StoreUnreachable

moments = st.floats(0, 4e9, allow_nan=False)


class Renewals:
    """Gives t1, t2, …; waits for ``gate`` before each."""

    def __init__(self, life: float = 3600.0) -> None:
        self.life = life
        self.now = 1_000_000.0
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self.threads: set[int] = set()

    def __call__(self, refused: str) -> Lease:
        assert self.gate.wait(10)
        self.threads.add(threading.get_ident())
        self.calls.append(refused)
        if self.fails:
            raise StoreUnreachable("no answer")
        return Lease(f"t{len(self.calls)}", self.now, self.now + self.life)


@pytest.fixture
def renewals() -> Renewals:
    return Renewals()


@pytest.fixture
def tokens(renewals: Renewals) -> SharedTokens:
    return SharedTokens(renewals, clock=lambda: renewals.now)


@given(obtained=moments, life=st.floats(0, 1e5), now=moments)
def test_a_usable_lease_has_not_ended_and_an_unusable_one_is_due(obtained: float, life: float, now: float) -> None:
    lease = Lease("t", obtained, obtained + life)
    if lease.usable(now):
        assert now < lease.expires
    else:
        assert lease.due(now)


@given(obtained=moments, life=st.floats(1, 1e5))
def test_a_new_lease_is_used_and_renewed_in_its_last_tenth(obtained: float, life: float) -> None:
    lease = Lease("t", obtained, obtained + life)
    assert lease.usable(obtained) and not lease.due(obtained + life * 0.85)
    assert lease.due(obtained + life * 0.93) and not lease.usable(obtained + life)


async def test_many_callers_share_one_renewal(tokens: SharedTokens, renewals: Renewals) -> None:
    assert set(await asyncio.gather(*(tokens.token() for _ in range(100)))) == {"t1"}
    assert await tokens.token() == "t1"
    assert renewals.calls == [""]
    assert threading.get_ident() not in renewals.threads


async def test_it_is_renewed_in_the_background_before_it_ends(tokens: SharedTokens, renewals: Renewals) -> None:
    await tokens.token()
    renewals.now += 3500
    renewals.gate.clear()
    assert await tokens.token() == "t1"  # at once, although the renewal has not ended
    renewals.gate.set()
    work = tokens._work
    assert work is not None
    await work
    assert await tokens.token() == "t2"


async def test_a_failed_renewal_in_the_background_disturbs_nobody(tokens: SharedTokens, renewals: Renewals) -> None:
    await tokens.token()
    renewals.now += 3500
    renewals.fails = True
    assert await tokens.token() == "t1"
    work = tokens._work
    assert work is not None
    await asyncio.wait([work])
    for _ in range(20):
        assert await tokens.token() == "t1"
    assert len(renewals.calls) == 2  # not tried again with every call
    renewals.now += 100
    with pytest.raises(StoreUnreachable):
        await tokens.token()


async def test_a_refused_token_is_replaced_once_for_all(tokens: SharedTokens, renewals: Renewals) -> None:
    await tokens.token()
    assert set(await asyncio.gather(*(tokens.token(refused="t1") for _ in range(10)))) == {"t2"}
    assert await tokens.token(refused="t1") == "t2"  # who heard of it late
    assert renewals.calls == ["", "t1"]


async def test_a_caller_that_gives_up_does_not_stop_the_others(tokens: SharedTokens, renewals: Renewals) -> None:
    renewals.gate.clear()
    first, second = asyncio.create_task(tokens.token()), asyncio.create_task(tokens.token())
    await asyncio.sleep(0)
    first.cancel()
    renewals.gate.set()
    assert await second == "t1"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert renewals.calls == [""]


async def test_a_clock_set_back_makes_the_token_doubtful(tokens: SharedTokens, renewals: Renewals) -> None:
    await tokens.token()
    renewals.now -= 86_400
    assert await tokens.token() == "t2"


async def test_who_joins_a_renewal_that_brings_the_refused_token_gets_another() -> None:
    gate = threading.Event()

    def renew(refused: str) -> Lease:
        assert gate.wait(10)
        return Lease("new" if refused == "kept" else "kept", 1000.0, 4600.0)

    tokens = SharedTokens(renew, clock=lambda: 1000.0)
    first, second = asyncio.create_task(tokens.token()), asyncio.create_task(tokens.token(refused="kept"))
    await asyncio.sleep(0)
    gate.set()
    assert (await first, await second) == ("kept", "new")
