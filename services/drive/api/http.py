"""Requests to the API: authorised, paced, retried, counted. No token and no session address gets into a message."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp.payload import Payload

from services.drive.api import wire
from services.drive.api.pacing import Pace
from services.drive.api.trouble import Trouble, judge
from services.drive.api.types import Stats, Tokens
from services.drive.errors import SignInNeeded
from services.errors import StoreUnreachable

T = TypeVar("T")
Body = bytes | Callable[[], Payload] | None

_AHEAD = 4 << 20  # four lines of this at a round trip of 100 ms are 160 MB/s
_UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Retry(msgspec.Struct, frozen=True):
    """When to give up. ``first`` wait in seconds, doubled each time up to ``most``, each cut at random to as little as
    half; ``tries`` in a row without progress; ``stall`` seconds in which not a byte moves end a request."""

    first: float = 0.5
    most: float = 32.0
    tries: int = 9
    connect: float = 30.0
    stall: float = 90.0


class Answer(msgspec.Struct, frozen=True):
    """A successful answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Patience:
    """The tries of one piece of work. Progress makes it patient again."""

    def __init__(self, retry: Retry, stats: Stats, what: str) -> None:
        self._retry = retry
        self._stats = stats
        self._what = what
        self._failed = 0

    def progress(self) -> None:
        """Something was achieved: the count starts anew."""
        self._failed = 0

    async def after(self, trouble: Trouble) -> None:
        """Wait before the next try. Raises StoreUnreachable when there were enough."""
        self._failed += 1
        if self._failed >= self._retry.tries:
            raise StoreUnreachable(
                f"Google Drive did not do it after {self._failed} tries ({trouble}): {self._what}.",
                hint="Try again later; what was transferred so far is kept.",
            ) from None
        longest = min(self._retry.most, self._retry.first * 2 ** (self._failed - 1))
        wait = max(trouble.after, random.uniform(longest / 2, longest))
        self._stats.retries += 1
        self._stats.waited_seconds += wait
        self._stats.last_trouble = f"{self._what}: {trouble}; tried again after {wait:.1f} s"
        await asyncio.sleep(wait)


class Http:
    """One session for all requests of a client. ``root`` is the API's root address, without a slash at its end."""

    def __init__(self, root: str, tokens: Tokens, stats: Stats, pace: Pace, retry: Retry) -> None:
        self.root = root.rstrip("/")
        self.stats = stats
        self.retry = retry
        self._tokens = tokens
        self._pace = pace
        self._session: aiohttp.ClientSession | None = None
        self._proxy, self._proxy_auth = _proxy(self.root)

    def patience(self, what: str) -> Patience:
        """A fresh count of tries for ``what`` ("listing a folder")."""
        return Patience(self.retry, self.stats, what)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        what: str,
        units: int,
        params: Mapping[str, str] | None = None,
        json: object = None,
        create: bool = False,
    ) -> T:
        """One request that can be repeated without harm, repeated until it succeeds; its answer as a ``kind``.

        Raises DriveRefused and its kinds, SignInNeeded, StoreUnreachable.
        """
        patience = self.patience(what)
        body = None if json is None else msgspec.json.encode(json)
        headers = {} if json is None else {"Content-Type": "application/json; charset=UTF-8"}
        while True:
            try:
                answer = await self.once(
                    method, path, what=what, units=units, params=params, headers=headers, body=body, create=create
                )
                return wire.decode(answer.body, kind)
            except Trouble as trouble:
                await patience.after(trouble)

    async def once(
        self,
        method: str,
        path: str,
        *,
        what: str,
        units: int,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        ok: tuple[int, ...] = (200, 201, 204),
        create: bool = False,
    ) -> Answer:
        """One request, read whole. Raises Trouble when trying again may help, besides what ``call`` raises."""
        async with self.opened(
            method, path, what=what, units=units, params=params, headers=headers, body=body, ok=ok, create=create
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    @contextlib.asynccontextmanager
    async def opened(
        self,
        method: str,
        path: str,
        *,
        what: str,
        units: int,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        ok: tuple[int, ...] = (200,),
        create: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body the caller reads. ``path`` may be a whole address (an upload session's).

        Raises as ``once``; also within the block, when the line fails while the body is read.
        """
        waited = await self._pace.take(units, create=create)
        self.stats.waited_seconds += waited
        refused = ""
        for _ in range(3):
            token = await self._tokens.token(refused=refused)
            with _line_failures():
                async with self._send(method, path, token, units, params, headers, body) as response:
                    if response.status in ok:
                        self._pace.passed(create=create)
                        yield response
                        return
                    text = await response.read()
                    if callable(body):
                        response.close()  # else what is left of the body would still be sent
                    if response.status != 401:
                        raise self._judged(response.status, response.headers, text, what, create)
            refused = token
        raise SignInNeeded(f"Google does not accept the sign-in any more; {what} was refused.", hint="Run drive.login.")

    def _judged(self, status: int, headers: Mapping[str, str], text: bytes, what: str, create: bool) -> Exception:
        verdict = judge(status, headers, text, what)
        if isinstance(verdict, Trouble) and verdict.limited:
            self._pace.refused(create=create)
        return verdict

    def _send(
        self,
        method: str,
        path: str,
        token: str,
        units: int,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: Body,
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        self.stats.requests += 1
        self.stats.units += units
        whole = "://" in path
        address = path if whole else self.root + path
        ours = not whole or _origin(path) == _origin(self.root)  # a session elsewhere needs no token, and gets none
        return self._opened_session().request(
            method,
            address,
            params=params,
            headers={**(headers or {}), **({"Authorization": f"Bearer {token}"} if ours else {})},
            data=body() if callable(body) else body,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_auth=self._proxy_auth,
        )

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            retry = self.retry
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, socket_factory=_socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=retry.connect, sock_read=retry.stall),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "hybrid-tui (gzip)"},
                read_bufsize=1 << 20,
            )
        return self._session


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket on which a server can be only a few megabytes ahead of us: those of a transfer that is given up, or of
    a process that dies, have to be fetched again, and Linux would let it run ahead by tens of them."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    with contextlib.suppress(OSError, AttributeError):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, _AHEAD)
    return made


def _origin(address: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.netloc


def _proxy(root: str) -> tuple[str | None, aiohttp.BasicAuth | None]:
    """The proxy that the environment names for the API, and its password. aiohttp would look again at each request."""
    address = urllib.parse.urlsplit(root)
    named = urllib.request.getproxies().get(address.scheme)
    if not named or urllib.request.proxy_bypass(address.hostname or ""):
        return None, None
    parts = urllib.parse.urlsplit(named if "://" in named else f"http://{named}")
    auth = None
    if parts.username:
        auth = aiohttp.BasicAuth(urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), auth


@contextlib.contextmanager
def _line_failures() -> Iterator[None]:
    """Failures of the line as Trouble, in our words: aiohttp's may hold the address."""
    try:
        yield
    except _UNREACHED:
        raise Trouble("no connection", sent=False) from None
    except TimeoutError:
        raise Trouble("no answer in time") from None
    except aiohttp.ClientError:
        raise Trouble("the connection broke") from None
