"""The parts of an upload request. Its body is bytes of a file, read and hashed some blocks ahead of what is sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping

import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from services.drive.api import wire
from services.drive.api.reading import BLOCK, Source
from services.errors import HybridError

_AHEAD = 2  # blocks that are read and hashed, and wait for the line


class Body(Payload):
    """``head``, the bytes from ``start`` to ``end`` of ``source``, ``tail``. ``told`` hears of the file's bytes.

    ``sent`` counts the file's bytes given to the line. What reading the file raised is kept in ``error``. It is written
    once for each time it was ``armed``: aiohttp by itself repeats a PUT whose connection broke, but what was sent
    before may have arrived, and the session must be asked first.
    """

    def __init__(
        self,
        source: Source,
        start: int,
        end: int,
        told: Callable[[int], None],
        *,
        stall: float,
        head: bytes = b"",
        tail: bytes = b"",
    ) -> None:
        super().__init__(None)
        self._source = source
        self._start = start
        self._end = end
        self._told = told
        self._stall = stall
        self._head = head
        self._tail = tail
        self._size = len(head) + end - start + len(tail)
        self._armed = False
        self.sent = 0
        self.error: HybridError | None = None

    def armed(self) -> Body:
        """It may be written once more."""
        self._armed = True
        return self

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """aiohttp asks for this when it logs a body as text: never."""
        raise TypeError("a file's bytes are not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write all of it; the request says the same length. A line that takes nothing for a while is given up."""
        if not self._armed:
            raise ConnectionError("a body is not written again by itself")
        self._armed = False
        if self.sent:
            self._told(-self.sent)
            self.sent = 0
        if self._head:
            await writer.write(self._head)
        ahead: asyncio.Queue[bytes | Exception] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._read(ahead))
        try:
            for _ in range(self._start, self._end, BLOCK):
                data = await ahead.get()
                if isinstance(data, Exception):
                    raise data
                async with asyncio.timeout(self._stall):
                    await writer.write(data)
                self.sent += len(data)
                self._told(len(data))
        except HybridError as error:
            self.error = error
            raise
        finally:
            reading.cancel()
        if self._tail:
            await writer.write(self._tail)

    async def _read(self, ahead: asyncio.Queue[bytes | Exception]) -> None:
        """Read and hash block after block: the next one is begun as soon as the last is done, not when it is sent."""
        try:
            for at in range(self._start, self._end, BLOCK):
                block = self._source.block(at, min(at + BLOCK, self._end))
                await ahead.put(await asyncio.shield(block))  # given up, it is still waited for when the file is closed
        except Exception as error:
            await ahead.put(error)


def query(kind: str) -> dict[str, str]:
    """Parameters of an upload of this kind; its answer tells what the checks need."""
    return {"uploadType": kind, "fields": wire.FILE, "supportsAllDrives": "true"}


def multipart(metadata: Mapping[str, object]) -> tuple[str, bytes, bytes]:
    """Boundary, and what goes before and after a file's bytes in a multipart/related body."""
    boundary = uuid.uuid4().hex
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode()
        + msgspec.json.encode(metadata)
        + f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    )
    return boundary, head, f"\r\n--{boundary}--\r\n".encode()
