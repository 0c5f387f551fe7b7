"""The body of a large answer, read from the socket straight into blocks that are written to the disk from there.

aiohttp's own way copies each byte three times on its way through Python, which at a gigabyte a second is all that a
processor can do. Once the header is read its connection's transport is given another protocol, which fills our blocks;
the connection is closed afterwards. Bodies of unknown length, coded ones, and
small ones, whose connection is of further use, are left to aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator

import aiohttp
import msgspec

from services.drive.api.reading import BLOCK
from services.drive.api.trouble import Trouble

_LEAST = 128 << 10  # bytes that are worth a write of their own
_SOON = 0.02  # seconds that bytes wait at most for a block to be full: what a killed process had not written is lost


class Room(msgspec.Struct, frozen=True):
    """How far a line may be ahead of the disk: bytes of a ``block``, blocks that the reader may still be at when it
    asks for another one, bytes that the kernel takes in before we do. When the process dies all of it is lost."""

    block: int
    ahead: int
    window: int


ALONE = Room(BLOCK, 3, 4 << 20)  # of the only line: as much as makes it fast
TOGETHER = Room(BLOCK // 4, 1, 1 << 20)  # eight lines of this at a round trip of 50 ms are 160 MB/s


async def blocks(
    response: aiohttp.ClientResponse, size: int, stall: float, room: Room = ALONE
) -> AsyncGenerator[memoryview, None]:
    """The first ``size`` bytes of the body, in blocks: full ones, or smaller ones when the line is slow or breaks.

    A block is good until ``room.ahead`` more were given and another one is asked for. Raises Trouble, or what aiohttp
    raises, when the line breaks.
    """
    connection = response.connection
    transport = connection.transport if connection is not None else None
    plain = response.content_length is not None and "Content-Encoding" not in response.headers
    if not isinstance(transport, asyncio.Transport) or not plain or size <= BLOCK or response.content.is_eof():
        async for data in _by_aiohttp(response, size):
            yield data
        return
    head = response.content.read_nowait(-1)
    with contextlib.suppress(OSError, AttributeError):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, room.window)
    filler = _Filler(transport, min(size, response.content_length or 0), head, room)
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
    """Fills blocks in turn: one arrives, one may wait to be asked for, the others are the reader's.

    They begin at a page, as the disk wants it of what is written past the page cache.
    """

    def __init__(self, transport: asyncio.Transport, size: int, head: bytes, room: Room) -> None:
        self._transport = transport
        self._block = room.block
        self._most = room.ahead + 3
        self._left = size  # bytes that did not come yet
        self._pool: deque[mmap.mmap] = deque()  # the block that arrives is the last one
        self._ready: deque[memoryview] = deque()
        self._broken = False
        self._came = 0
        self._news = asyncio.Event()
        self._begin()
        for start in range(0, min(len(head), size), room.block):  # what came together with the header
            piece = memoryview(head)[start : min(start + room.block, size)]
            if len(piece) == room.block:
                self._ready.append(piece)
                self._left -= len(piece)
            else:
                self._pool[-1][: len(piece)] = piece
                self._filled(len(piece))

    def _begin(self) -> None:
        """Another block is to arrive: one not made yet, or that which the reader has had longest."""
        anew = len(self._pool) < self._most
        self._pool.append(mmap.mmap(-1, self._block) if anew else self._pool.popleft())
        self._at = 0  # filled bytes of it
        self._since = time.monotonic()

    def _filled(self, count: int) -> None:
        self._at += count
        self._left -= count
        late = self._at >= _LEAST and time.monotonic() - self._since > _SOON
        if self._at == self._block or not self._left or late:
            self._hand_over()

    def _hand_over(self) -> None:
        self._ready.append(memoryview(self._pool[-1])[: self._at])
        self._begin()
        self._news.set()

    # asyncio's side

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._pool[-1])[self._at : min(self._block, self._at + max(self._left, 1))]

    def buffer_updated(self, nbytes: int) -> None:
        nbytes = min(nbytes, self._left)
        self._came += nbytes
        self._filled(nbytes)
        if self._ready:
            self._transport.pause_reading()

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
        while not self._ready and self._left and not self._broken:
            self._news.clear()
            before = self._came
            try:
                async with asyncio.timeout(stall):
                    await self._news.wait()
            except TimeoutError:
                if self._came == before:
                    self._broken = True
        if not self._ready and self._at:
            self._hand_over()
        if self._ready:
            given = self._ready.popleft()
            if self._left and not self._broken and not self._ready:
                self._transport.resume_reading()
            return given
        if self._left:
            raise Trouble("the connection broke")
        return None
