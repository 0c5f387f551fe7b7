"""HTTP/1.1 for the test server, on asyncio's transports: streamed bodies, sendfile, CONNECT, and faults by the byte.

An HTTP library hides what has to be done here on purpose: breaking a connection at a given byte of a request or of an
answer, a line of so many bytes a second, and TLS on a socket that CONNECT has opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.drive_bed.messages import Answer, Broken, Request, Trouble
from tests.drive_bed.sending import send_body

_BUFFER = 1 << 20
_MAX_HEAD = 64 * 1024
_DRAIN = 8 << 20  # an unread request body up to this is read off so that the connection can go on

App = Callable[[Request], Awaitable[Answer]]
Done = Callable[[Request, int, int], None]


class Connection(asyncio.BufferedProtocol):
    """One client's connection: requests one after the other, each given to ``app``.

    ``tls`` gives the context for a host named by CONNECT. ``done(request, status, bytes_out)`` hears of each request.
    """

    def __init__(self, app: App, done: Done, tls: Callable[[str], ssl.SSLContext]) -> None:
        self.app, self.done, self.tls = app, done, tls
        self.transport: asyncio.Transport
        self.scheme = "http"
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._eof = False
        self._news: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        if self._end == len(self._buffer):
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return self.scheme == "http"  # a client may close its half after the request and still wait for the answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._room.set()
        self._wake()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # -- reading

    async def _more(self) -> bool:
        """Wait for more bytes in the buffer; False at the end of the stream."""
        if self._eof:
            return False
        if self._end == len(self._buffer) and self._start:
            self._compact()
        if self._end == len(self._buffer):
            return False
        self._news = asyncio.get_running_loop().create_future()
        before = self._end
        await self._news
        return self._end > before

    def _compact(self) -> None:
        kept = self._end - self._start
        self._view[:kept] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, kept
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _skip(self, count: int) -> None:
        self._start += count
        if self._start == self._end:
            full = self._end == len(self._buffer)
            self._start = self._end = 0
            if full and not self.transport.is_closing():
                self.transport.resume_reading()

    async def _until(self, mark: bytes, limit: int) -> bytes | None:
        """Bytes up to and with ``mark``; None when the stream ends before."""
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            if self._end - self._start > limit or not await self._more():
                return None
        line = bytes(self._view[self._start : found + len(mark)])
        self._skip(len(line))
        return line

    async def _exactly(self, count: int, slow: Callable[[int], Awaitable[None]]) -> AsyncIterator[memoryview]:
        while count:
            if self._start == self._end and not await self._more():
                raise Broken("the client went away inside a request's body")
            piece = self._view[self._start : min(self._end, self._start + count)]
            count -= len(piece)
            yield piece
            self._skip(len(piece))
            await slow(len(piece))

    async def chunks(self, request: Request) -> AsyncIterator[memoryview]:
        """The request's body as it comes. A piece is valid only until the next one is asked for."""
        if request.headers.get("expect", "").lower() == "100-continue" and not request.bytes_in:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for piece in self._raw(request):
            stop = request.trouble.drop_request_at
            if stop is not None and request.bytes_in + len(piece) >= stop:
                keep = piece[: stop - request.bytes_in]
                request.bytes_in += len(keep)
                if keep:
                    yield keep
                raise Broken("dropped as asked", reset=request.trouble.reset)
            request.bytes_in += len(piece)
            yield piece
        request.body_read = True

    async def _raw(self, request: Request) -> AsyncIterator[memoryview]:
        slow = _Pace(request.trouble.rate)
        if request.trouble.rate and (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # else the kernel takes megabytes at once
        if request.headers.get("transfer-encoding", "").lower() != "chunked":
            async for piece in self._exactly(request.length, slow):
                yield piece
            return
        while True:
            line = await self._until(b"\r\n", 1024)
            if line is None:
                raise Broken("the client went away inside a request's body")
            size = int(line.split(b";")[0], 16)
            async for piece in self._exactly(size, slow):
                yield piece
            if await self._until(b"\r\n", 1024) is None:  # no client here sends trailers
                raise Broken("the client went away inside a request's body")
            if size == 0:
                return

    def abort(self) -> None:
        """End the connection now."""
        self.transport.abort()

    # -- one request after the other

    async def _serve(self) -> None:
        try:
            while (head := await self._until(b"\r\n\r\n", _MAX_HEAD)) is not None:
                request = _parse(head, self)
                if request.method == "CONNECT":
                    await self._upgrade(request)
                elif not await self._one(request):
                    break
        except Broken as broken:
            self._break(broken.reset)
        except ValueError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except (ConnectionError, ssl.SSLError, RuntimeError, OSError):
            pass  # the client is gone
        finally:
            with contextlib.suppress(Exception):
                self.transport.close()

    async def _one(self, request: Request) -> bool:
        """Serve one request; False when the connection has to end."""
        status = sent = 0
        try:
            answer = await self.app(request)
            status = answer.status
            if request.trouble.lose_reply:
                raise Broken("the reply is lost as asked", reset=request.trouble.reset)
            keep = await self._drain(request) and not request.trouble.rate
            sent = await self._send(request, answer, keep)
            return keep and not request.trouble.cut
        except Broken as broken:
            sent = broken.sent
            raise
        finally:
            self.done(request, status, sent)

    async def _drain(self, request: Request) -> bool:
        """Read off what the application left of the body. False when that is too much: then the connection ends."""
        if request.headers.get("connection", "").lower() == "close":
            return False
        if request.body_read or not request.has_body:
            return True
        if request.length - request.bytes_in > _DRAIN:
            return False
        async for _ in self.chunks(request):
            pass
        return True

    async def _send(self, request: Request, answer: Answer, keep: bool) -> int:
        length = answer.length
        if request.trouble.truncate_at is not None:
            length = min(length, request.trouble.truncate_at)
        phrase = HTTPStatus(answer.status).phrase if answer.status in HTTPStatus._value2member_map_ else "Unknown"
        if answer.status == 308:
            phrase = "Resume Incomplete"
        head = [f"HTTP/1.1 {answer.status} {phrase}"]
        head += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status != 204:
            head.append(f"Content-Length: {length}")
        head.append("Connection: " + ("keep-alive" if keep else "close"))
        start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if answer.file is None and not request.trouble.names and request.method != "HEAD":
            self.transport.write(start + answer.body)
            await self._room.wait()
            return length
        self.transport.write(start)
        return await send_body(self.transport, self._room, request, answer, length, _Pace(request.trouble.rate))

    async def _upgrade(self, request: Request) -> None:
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        host = request.path.rsplit(":", 1)[0]
        upgraded = await asyncio.get_running_loop().start_tls(self.transport, self, self.tls(host), server_side=True)
        if upgraded is None:
            raise Broken("the client went away in the TLS handshake")
        self.transport = upgraded
        self.scheme = "https"

    def _break(self, reset: bool) -> None:
        if reset and (sock := self.transport.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Pace:
    """Waits as long as a line of ``rate`` bytes a second needs; 0 is as fast as it goes."""

    def __init__(self, rate: int) -> None:
        self.rate, self.begun, self.count = rate, time.monotonic(), 0

    async def __call__(self, count: int) -> None:
        if not self.rate:
            return
        self.count += count
        wait = self.begun + self.count / self.rate - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)


def _parse(head: bytes, connection: Connection) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    if method == "CONNECT":
        return Request(method, target, {}, "", headers, connection, Trouble())
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method, unquote(url.path), query, url.query, headers, connection, Trouble())
