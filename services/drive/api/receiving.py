"""The body of a large answer, read from the socket straight into blocks that are written to the disk from there.

aiohttp's own way copies each byte three times on its way through Python, which at a gigabyte a second is all that a
processor can do. Once the header is read its connection's transport is given another protocol, which fills our blocks;
the connection is closed afterwards. Bodies of unknown length, coded ones, and
small ones, whose connection is of further use, are left to aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from services.drive.api.reading import BLOCK
from services.drive.api.trouble import Trouble


async def blocks(response: aiohttp.ClientResponse, size: int, stall: float) -> AsyncGenerator[memoryview, None]:
    """The first ``size`` bytes of the body, in blocks; the last one, also when the line breaks, may be a short one.

    A block is good until the next but one is asked for. Raises Trouble, or what aiohttp raises, when the line breaks.
    """
    connection = response.connection
    transport = connection.transport if connection is not None else None
    plain = response.content_length is not None and "Content-Encoding" not in response.headers
    if not isinstance(transport, asyncio.Transport) or not plain or size <= BLOCK or response.content.is_eof():
        async for data in _by_aiohttp(response, size):
            yield data
        return
    head = response.content.read_nowait(-1)
    filler = _Filler(transport, min(size, response.content_length or 0), head)
    before = transport.get_protocol()
    transport.set_protocol(filler)
    try:
        transport.resume_reading()
        while block := await filler.block(stall):
            yield block
    finally:
        transport.set_protocol(before)
        response.close()


async def _by_aiohttp(response: aiohttp.ClientResponse, size: int) -> AsyncGenerator[memoryview, None]:
    waiting = bytearray()
    try:
        async for data in response.content.iter_any():
            waiting += data[: size - len(waiting)]
            if len(waiting) >= min(BLOCK, size):
                size -= len(waiting)
                yield memoryview(waiting)
                waiting = bytearray()
            if not size:
                return
    except (aiohttp.ClientError, TimeoutError):
        if waiting:
            yield memoryview(waiting)
        raise
    if waiting:
        yield memoryview(waiting)


class _Filler(asyncio.BufferedProtocol):
    """Fills blocks in turn: one arrives while the other two are the reader's."""

    def __init__(self, transport: asyncio.Transport, size: int, head: bytes) -> None:
        self._transport = transport
        self._left = size  # bytes that did not come yet
        self._pool = [bytearray(BLOCK) for _ in range(3)]
        self._full: list[memoryview] = []
        self._at = 0  # filled bytes of the block that is arriving
        self._broken = False
        self._came = 0
        self._news = asyncio.Event()
        self._head(head[:size])

    def _head(self, head: bytes) -> None:
        """What came together with the header."""
        for start in range(0, len(head), BLOCK):
            piece = head[start : start + BLOCK]
            if len(piece) == BLOCK:
                self._full.append(memoryview(piece))
            else:
                self._pool[0][: len(piece)] = piece
                self._at = len(piece)
        self._left -= len(head)

    # asyncio's side

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._pool[0])[self._at : min(BLOCK, self._at + max(self._left, 1))]

    def buffer_updated(self, nbytes: int) -> None:
        nbytes = min(nbytes, self._left)
        self._at += nbytes
        self._left -= nbytes
        self._came += nbytes
        if self._at == BLOCK or not self._left:
            self._transport.pause_reading()
            self._news.set()

    def eof_received(self) -> bool:
        self._broken = True
        self._news.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = True
        self._news.set()

    # the reader's side

    async def block(self, stall: float) -> memoryview | None:
        """The next block, None after the last one. Raises Trouble when the line broke and all that came was given."""
        if self._full:
            return self._full.pop(0)
        while self._at < BLOCK and self._left and not self._broken:
            self._news.clear()
            before = self._came
            try:
                async with asyncio.timeout(stall):
                    await self._news.wait()
            except TimeoutError:
                if self._came == before:
                    self._broken = True
        if self._at:
            given = memoryview(self._pool[0])[: self._at]
            self._pool.append(self._pool.pop(0))
            self._at = 0
            if self._left and not self._broken:
                self._transport.resume_reading()
            return given
        if self._left:
            raise Trouble("the connection broke")
        return None
