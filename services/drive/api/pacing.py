"""How fast requests may go: Drive's quota is counted in units, and files are created at a slow steady rate.

A user of a project has 325,000 units a minute (https://developers.google.com/workspace/drive/api/guides/limits;
projects that used the API before May 2026 keep what they had, 12,000 requests by an earlier state of that page), and
about three files a second can be created for long, which is reported, not documented. Both are token buckets that are
full at the start: two hundred small files, or a thousand listings, go at once; only what lasts is held to the steady
rate. What is let through within any minute, burst and refill together, stays below the quota. When Drive says that we
are too fast all the same (an older project, or another program shares the account), what is left of the burst is
halved and the rate too; each request that passes brings a little of it back.
"""

from __future__ import annotations

import asyncio
import time

GET, LIST, EDIT, DOWNLOAD = 5, 100, 50, 200
"""Units of one request of each kind."""

_SLOWEST = 0.1  # share of the steady rate that is never gone below
_BACK = 0.02  # share of the steady rate that a request which passed brings back


class Bucket:
    """Lets ``burst`` through at once and ``rate`` a second after that. Waiters go first come, first served."""

    def __init__(self, burst: float, rate: float) -> None:
        self.burst = burst
        self.rate = rate
        self._share = 1.0
        self._level = burst
        self._then = time.monotonic()

    async def take(self, amount: float) -> float:
        """Wait until ``amount`` may go; returns the seconds waited. Cancelled while waiting, it takes nothing."""
        wait = self.reserve(amount, time.monotonic())
        if not wait:
            return 0.0
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self._level += amount
            raise
        return wait

    def reserve(self, amount: float, now: float) -> float:
        """Take ``amount`` at the moment ``now`` (monotonic seconds); the seconds after which it may go."""
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / (self.rate * self._share))

    def passed(self) -> None:
        """A request was answered: a little faster again, if it had become slow."""
        if self._share < 1:
            self._fill(time.monotonic())
            self._share = min(1.0, self._share + _BACK)

    def refused(self) -> None:
        """Drive said that this was too fast."""
        self._fill(time.monotonic())
        self._level = min(self._level, self._level / 2)
        self._share = max(_SLOWEST, self._share / 2)

    def _fill(self, now: float) -> None:
        self._level = min(self.burst, self._level + (now - self._then) * self.rate * self._share)
        self._then = now


class Pace:
    """The two buckets of one account. ``creates`` counts new files and folders, ``units`` everything."""

    def __init__(self, units: Bucket | None = None, creates: Bucket | None = None) -> None:
        self.units = units or Bucket(burst=100_000, rate=3_750)  # 100,000 + 60 * 3,750 = 325,000
        self.creates = creates or Bucket(burst=400, rate=3)

    async def take(self, units: int, *, create: bool) -> float:
        """Wait until a request of so many units may go; returns the seconds waited."""
        waited = await self.units.take(units)
        return waited + (await self.creates.take(1) if create else 0.0)

    def passed(self, *, create: bool) -> None:
        """A request was let through by Drive."""
        self.units.passed()
        if create:
            self.creates.passed()

    def refused(self, *, create: bool) -> None:
        """Drive answered that a rate was exceeded: it is the creates' if this was one, for theirs is the lower."""
        (self.creates if create else self.units).refused()
