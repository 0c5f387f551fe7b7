"""A line that loses answers and cuts bodies, between the bucket store and a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.drive.bucket import BucketStore
from services.drive.store import Source, Wanted
from services.errors import StoreUnreachable
from tests.drive.s3_bed import s3, s3_server

__all__ = ["s3", "s3_server"]


class Line:
    """Forwards to the server. ``lose`` answers to PUT and ``cut`` answers to GET (after half their bytes) never arrive
    whole; of the latter none but the first ``good`` ones, if that is set. ``seen`` are the requests' first lines."""

    def __init__(self, server: str) -> None:
        self.host, self.port = urlsplit(server).hostname, urlsplit(server).port
        self.lose = self.cut = 0
        self.good: int | None = None
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._head(reader):
                await self._forward(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.append(head.split(b"\r\n")[0].decode())
        there_in, there_out = await asyncio.open_connection(self.host, self.port)
        there_out.write(head + await reader.readexactly(_length(head)))
        answer = await self._head(there_in)
        body = b"" if head.startswith(b"HEAD") else await there_in.readexactly(_length(answer))
        there_out.close()
        if head.startswith(b"PUT") and self.lose:
            self.lose -= 1
            raise ConnectionResetError
        if head.startswith(b"GET") and len(body) > 1000 and self._cuts():
            writer.write(answer + body[: len(body) // 2])
            await writer.drain()
            raise ConnectionResetError
        writer.write(answer + body)
        await writer.drain()

    def _cuts(self) -> bool:
        if self.good is not None:
            self.good -= 1
            return self.good < 0
        self.cut -= 1
        return self.cut >= 0


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


@pytest.fixture
async def line(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    line = Line(s3_server)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield line
    server.close()


async def test_a_slot_whose_answer_was_lost_is_known_to_be_ours(s3: str, line: Line) -> None:
    store = BucketStore.from_url(s3, "R", patience=10)
    line.lose = 1
    assert await store.put_new("log", "a", b"mine")
    assert len([r for r in line.seen if r.startswith("PUT")]) == 2  # it was asked again, and met its own success
    assert not await store.put_new("log", "a", b"theirs")


async def test_bodies_that_are_cut_off_are_asked_for_again(s3: str, line: Line, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=10)
    data = os.urandom(9 << 20)
    (tmp_path / "f").write_bytes(data)
    await store.put_files([Source(str(tmp_path / "f"), "f", len(data))], "m", lambda n, p: None)
    line.cut = 2
    heard = [0]

    def told(n: int, path: str) -> None:
        heard[0] += n

    sha = hashlib.sha256(data).hexdigest()
    await store.get_files([Wanted("f", str(tmp_path / "got"), len(data), sha)], "m", told)
    assert (tmp_path / "got").read_bytes() == data and heard == [len(data)]


async def test_answers_lost_on_the_way_up_cost_time_and_nothing_else(s3: str, line: Line, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=10)
    data = os.urandom(17 << 20)
    (tmp_path / "f").write_bytes(data)
    line.lose = 2
    [copied] = await store.put_files([Source(str(tmp_path / "f"), "f", len(data))], "m", lambda n, p: None)
    assert copied.sha256 == hashlib.sha256(data).hexdigest()
    assert await store.read("m/f") == data


async def test_a_line_that_stays_down_ends_in_a_sentence_and_keeps_what_came(
    s3: str, line: Line, tmp_path: Path
) -> None:
    store = BucketStore.from_url(s3, "R", patience=0.2)
    data = os.urandom(18 << 20)
    (tmp_path / "f").write_bytes(data)
    await store.put_files([Source(str(tmp_path / "f"), "f", len(data))], "m", lambda n, p: None)
    wanted = Wanted("f", str(tmp_path / "got"), len(data), hashlib.sha256(data).hexdigest())
    line.good = 1
    with pytest.raises(StoreUnreachable):
        await store.get_files([wanted], "m", lambda n, p: None)
    assert (tmp_path / "got.part").exists() and not (tmp_path / "got").exists()
    line.good = None
    await store.get_files([wanted], "m", lambda n, p: None)
    assert (tmp_path / "got").read_bytes() == data
