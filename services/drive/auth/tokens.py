"""One access token for all callers of a process: renewed early, once, and off the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Lease(msgspec.Struct, frozen=True):
    """An access token and its time, in Unix seconds."""

    token: str
    obtained: float
    expires: float

    def __repr__(self) -> str:  # never the token
        return f"Lease(expires={self.expires!r})"

    def usable(self, now: float) -> bool:
        """It will last for a request. A clock that was set back makes it doubtful, so it is not."""
        return bool(self.token) and self.obtained <= now + 60 and now < self.expires - min(30, self._life * 0.05)

    def due(self, now: float) -> bool:
        """In its last tenth (six minutes of Google's hour), or not usable: time to get the next one."""
        return not self.usable(now) or now > self.expires - self._life * 0.1

    @property
    def _life(self) -> float:
        return max(self.expires - self.obtained, 0.0)


class SharedTokens:
    """Gives out what ``renew`` gets; it blocks, is called in a thread, and is told the token that was refused."""

    def __init__(self, renew: Callable[[str], Lease], clock: Callable[[], float] = time.time) -> None:
        self._renew = renew
        self._clock = clock
        self._lease = Lease("", 0.0, 0.0)
        self._work: asyncio.Task[Lease] | None = None
        self._quiet_until = 0.0

    async def token(self, *, refused: str = "") -> str:
        """See services.drive.api.types.Tokens."""
        now = self._clock()
        if self._lease.usable(now) and self._lease.token != refused:
            if self._lease.due(now) and time.monotonic() >= self._quiet_until:
                self._begin("")
            return self._lease.token
        lease = await self._joined(refused)
        if lease.token == refused:  # it joined a renewal that did not know of the refusal
            lease = await self._joined(refused)
        return lease.token

    async def _joined(self, refused: str) -> Lease:
        return await asyncio.shield(self._begin(refused))  # a caller that gives up does not stop it for the others

    def _begin(self, refused: str) -> asyncio.Task[Lease]:
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._get(refused), name="renew the access token")
            self._work.add_done_callback(self._settled)
        return self._work

    async def _get(self, refused: str) -> Lease:
        self._lease = await in_thread(lambda: self._renew(refused))
        return self._lease

    def _settled(self, work: asyncio.Task[Lease]) -> None:
        """A renewal nobody waits for may fail: whoever needs it later will hear of it. Not at once again."""
        if not work.cancelled() and work.exception() is not None:
            self._quiet_until = time.monotonic() + 10


async def in_thread(work: Callable[[], T]) -> T:
    """``work()`` in a thread that does not hold up the program's end: Ctrl+C need not wait for a silent server."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="google sign-in", daemon=True).start()
    return await future
