"""The body of an answer on its way: by sendfile when nothing stands against it, else in pieces."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

from tests.drive_bed.messages import Answer, Broken, Request

_PIECE = 256 * 1024

Pace = Callable[[int], Awaitable[None]]


async def send_body(
    transport: asyncio.Transport, room: asyncio.Event, request: Request, answer: Answer, length: int, pace: Pace
) -> int:
    """Send ``length`` bytes of the answer's body with the request's faults; returns what was sent.

    Raises Broken where the answer is to break off.
    """
    if request.method == "HEAD" or not length:
        if request.trouble.drop_response_at is not None:
            raise Broken("dropped as asked", reset=request.trouble.reset)
        return 0
    trouble = request.trouble
    plain = trouble.drop_response_at is None and trouble.corrupt_at is None and not trouble.rate
    if answer.file is not None and plain and not isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject):
        with answer.file.open("rb") as file:
            before = _taken(transport)
            try:
                return await asyncio.get_running_loop().sendfile(transport, file, answer.offset, length)
            except OSError as error:
                reached = os.lseek(file.fileno(), 0, os.SEEK_CUR) - answer.offset
                sent = max(0, min(reached, _taken(transport) - before))
                raise Broken("the client went away inside an answer", sent=sent) from error
    return await _in_pieces(transport, room, request, answer, length, pace)


def _taken(transport: asyncio.Transport) -> int:
    """Bytes that the other side's kernel has acknowledged on this connection: those in our send buffer never left.

    tcpi_bytes_acked of struct tcp_info (linux/tcp.h). It counts the answer's header too: a few hundred bytes more.
    """
    told = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    return int(struct.unpack_from("=Q", told, 120)[0])


async def _in_pieces(
    transport: asyncio.Transport, room: asyncio.Event, request: Request, answer: Answer, length: int, pace: Pace
) -> int:
    trouble = request.trouble
    stop = length if trouble.drop_response_at is None else min(length, trouble.drop_response_at)
    step = min(_PIECE, max(1024, trouble.rate // 20)) if trouble.rate else _PIECE
    file = answer.file.open("rb") if answer.file is not None else None
    sent = 0
    try:
        if file:
            file.seek(answer.offset)
        while sent < stop:
            size = min(step, stop - sent)
            piece = file.read(size) if file else answer.body[sent : sent + size]
            if not piece:
                break
            if trouble.corrupt_at is not None and sent <= trouble.corrupt_at < sent + len(piece):
                at = trouble.corrupt_at - sent
                piece = piece[:at] + bytes([piece[at] ^ 0x55]) + piece[at + 1 :]
            await room.wait()
            if transport.is_closing():
                raise Broken("the client went away inside an answer", sent=sent)
            transport.write(piece)
            sent += len(piece)
            await pace(len(piece))
    finally:
        if file:
            file.close()
    if stop < length or trouble.drop_response_at is not None:
        await _flushed(transport)
        raise Broken("dropped as asked", reset=trouble.reset, sent=sent)
    return sent


async def _flushed(transport: asyncio.Transport) -> None:
    """Wait until the kernel has what was written, so that a reset comes after those bytes, not in their place."""
    for _ in range(200):
        if transport.is_closing() or not transport.get_write_buffer_size():
            return
        await asyncio.sleep(0.01)
