"""Uploads and downloads in all their ways."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.drive_bed.raw import FOLDER, Raw, raw
from tests.drive_bed.serve import DriveServer

STEP = 256 * 1024


@pytest.fixture
async def call(drive_server: DriveServer) -> AsyncIterator[Raw]:
    async with raw(drive_server.account()) as calls:
        yield calls


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 5 * STEP), seed=st.integers(0, 2**32), rest=st.data())
async def test_any_cut_into_chunks_arrives(call: Raw, size: int, seed: int, rest: st.DataObject) -> None:
    data = (seed.to_bytes(8, "little") * (size // 8 + 1))[:size]
    address = await call.session("x", size, "&fields=id,sha256Checksum,size")
    have = 0
    while True:
        steps = rest.draw(st.integers(1, 3))
        begin = have - rest.draw(st.sampled_from([0, 0, have // 2]))  # sending again what is there does no harm
        piece = data[begin : have + steps * STEP]
        if not size:
            answer = await call("PUT", address, data=b"")
        else:
            method = rest.draw(st.sampled_from(["PUT", "POST"]))
            answer = await call.chunk(address, piece, begin, rest.draw(st.sampled_from([size, size])), method)
        if answer.status == 200:
            break
        assert answer.status == 308
        have = int(answer.headers["range"].removeprefix("bytes=0-")) + 1
        assert have == begin + len(piece)
    assert answer.json["sha256Checksum"] == hashlib.sha256(data).hexdigest()
    assert (await call("GET", f"/drive/v3/files/{answer.json['id']}?alt=media")).body == data


async def test_unknown_length(call: Raw, drive_server: DriveServer) -> None:
    address = await call.session("x")
    assert (await call.progress(address)).headers.get("range") is None
    assert (await call.chunk(address, b"1" * STEP, 0, "*")).status == 308
    assert (await call.chunk(address, b"2" * 7, STEP, STEP + 7)).status == 200
    assert drive_server.files[0].size == STEP + 7


async def test_in_one_go_and_chunked_encoding(call: Raw, drive_server: DriveServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"1" * 50_000

    address = await call.session("x", 500_000)
    assert (await call("PUT", address, data=b"1" * 500_000)).status == 200
    assert (await call("PUT", await call.session("y"), data=pieces())).status == 200
    assert [held.size for held in drive_server.files] == [500_000, 500_000]


async def test_odd_chunks_lose_their_odd_end(call: Raw) -> None:
    address = await call.session("x", 3 * STEP)
    answer = await call.chunk(address, b"1" * (STEP + 100), 0, 3 * STEP)
    assert answer.headers["range"] == f"bytes=0-{STEP - 1}"
    gap = await call.chunk(address, b"1" * STEP, 2 * STEP, 3 * STEP)
    assert gap.status == 503
    assert b"exceeds already uploaded size of 262144" in gap.body


async def test_sessions_end(call: Raw, drive_server: DriveServer) -> None:
    address = await call.session("x", 3)
    assert (await call("DELETE", address)).status == 499
    assert (await call.chunk(address, b"abc", 0, 3)).status == 404
    other = await call.session("y", 3)
    assert (await call.chunk(other, b"abcd", 0, 4)).status == 400
    drive_server.call("sessions", forget=True)
    assert (await call.progress(other)).status == 404


async def test_the_address_is_the_key(call: Raw, drive_server: DriveServer) -> None:
    address = await call.session("x", 3)
    async with aiohttp.ClientSession() as nobody, nobody.put(address, data=b"abc") as answer:
        assert answer.status == 200
    assert drive_server.requests[-1].account == "ann@example.org"


async def test_a_second_line_takes_over(call: Raw, drive_server: DriveServer) -> None:
    """A client that lost its line goes on at once, although the server still waits on the old one."""
    address = await call.session("x", 2 * STEP)
    reading = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"1" * STEP
        reading.set()
        await asyncio.Event().wait()

    old = asyncio.create_task(
        call("PUT", address, data=stuck(), headers={"Content-Range": f"bytes 0-{2 * STEP - 1}/*"})
    )
    await reading.wait()
    while (asked := await call.progress(address)).headers.get("range") is None:
        pass
    have = int(asked.headers["range"].removeprefix("bytes=0-")) + 1
    with pytest.raises(aiohttp.ClientError):
        await old
    assert (await call.chunk(address, b"1" * (2 * STEP - have), have, 2 * STEP)).status == 200
    assert drive_server.files[0].read() == b"1" * 2 * STEP


async def test_an_id_serves_once(call: Raw, drive_server: DriveServer) -> None:
    one, two, three = (await call("GET", "/drive/v3/files/generateIds?count=3&type=files")).json["ids"]
    assert await call.file(id=one, name="F", mimeType=FOLDER) == one
    address = await call.session("x", 3, id=two)
    assert (await call.multipart({"id": two, "name": "y"}, b"1")).status == 200
    late = await call.chunk(address, b"abc", 0, 3)
    assert (late.status, late.reason) == (409, "fileIdInUse")
    for id in (one, two):
        again = await call.multipart({"id": id, "name": "z"}, b"2")
        assert (again.status, again.reason) == (409, "fileIdInUse")
        assert (await call("DELETE", f"/drive/v3/files/{id}")).status == 204
        assert (await call.multipart({"id": id, "name": "z"}, b"2")).status == 409  # also after its end
    short = "application/vnd.google-apps.shortcut"
    link = {"id": three, "name": "s", "mimeType": short, "shortcutDetails": {"targetId": drive_server.account().root}}
    assert (await call("POST", "/drive/v3/files", json=link)).reason == "invalid"
    doc = {"id": three, "name": "d", "mimeType": "application/vnd.google-apps.document"}
    assert b"not supported for Docs Editors" in (await call("POST", "/drive/v3/files", json=doc)).body
    assert (await call.multipart({"id": "invented", "name": "z"}, b"2")).status == 400
    async with raw(drive_server.account("bob@example.org")) as bob:
        assert (await bob.multipart({"id": three, "name": "z"}, b"2")).status == 400


async def test_of_many_writers_of_one_id_one_wins(call: Raw, drive_server: DriveServer) -> None:
    [id] = (await call("GET", "/drive/v3/files/generateIds?count=1")).json["ids"]
    answers = await asyncio.gather(*(call.multipart({"id": id, "name": f"{n}"}, b"%d" % n) for n in range(20)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 19
    won = next(n for n, answer in enumerate(answers) if answer.status == 200)
    assert drive_server.files[0].read() == b"%d" % won


async def test_new_content(call: Raw, drive_server: DriveServer) -> None:
    id = await call.put("x", b"one", properties={"a": "b"})
    before = (await call("GET", f"/drive/v3/files/{id}?fields=*")).json
    address = "/upload/drive/v3/files/" + id
    begun = await call("PATCH", address + "?uploadType=resumable&fields=*", json={"name": "y"})
    after = (await call.chunk(begun.headers["location"], b"three", 0, 5)).json
    assert (after["id"], after["name"], after["size"], after["properties"]) == (id, "y", "5", {"a": "b"})
    assert after["headRevisionId"] != before["headRevisionId"]
    assert int(after["version"]) > int(before["version"])
    assert (await call("PATCH", address + "?uploadType=media", data=b"four")).status == 200
    assert drive_server.files[0].read() == b"four"


RANGES = [
    ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
    ("bytes=3-5", 206, b"345", "bytes 3-5/10"),
    ("bytes=7-", 206, b"789", "bytes 7-9/10"),
    ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
    ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
    ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=10-", 416, None, "bytes */10"),
    ("bytes=0-1,3-4", 200, b"0123456789", None),
    ("lines=1-2", 200, b"0123456789", None),
]


@pytest.mark.parametrize(("asked", "status", "body", "told"), RANGES)
async def test_ranges(call: Raw, asked: str, status: int, body: bytes | None, told: str | None) -> None:
    id = await call.put("x", b"0123456789")
    answer = await call("GET", f"/drive/v3/files/{id}?alt=media", headers={"Range": asked})
    assert (answer.status, answer.headers.get("content-range")) == (status, told)
    assert body is None or answer.body == body


async def test_what_cannot_be_downloaded(call: Raw, drive_server: DriveServer) -> None:
    doc = await call.file(name="doc", mimeType="application/vnd.google-apps.document")
    folder = await call.file(name="f", mimeType=FOLDER)
    bad = call.account.put("bad", b"virus", abusive=True)
    for id, reason in (
        (doc, "fileNotDownloadable"),
        (folder, "fileNotDownloadable"),
        (bad, "cannotDownloadAbusiveFile"),
    ):
        answer = await call("GET", f"/drive/v3/files/{id}?alt=media")
        assert (answer.status, answer.reason) == (403, reason)
    assert (await call("GET", f"/drive/v3/files/{bad}?alt=media&acknowledgeAbuse=true")).body == b"virus"
    assert (await call("GET", f"/drive/v3/files/{doc}/export?mimeType=application/pdf")).status == 200
    assert (await call("GET", f"/drive/v3/files/{bad}/export?mimeType=application/pdf")).reason == "fileNotExportable"


async def test_checksums_of_a_large_file(call: Raw, drive_server: DriveServer) -> None:
    data = os.urandom(20 << 20)
    fields = "&fields=md5Checksum,sha1Checksum,sha256Checksum"
    answer = await call("PUT", await call.session("x", len(data), fields), data=data)
    assert answer.json == {f"{name}Checksum": hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256")}


async def test_a_known_file_is_compared_not_hashed(
    call: Raw, drive_server: DriveServer, tmp_path: os.PathLike[str]
) -> None:
    local = drive_server.folder.parent / "local"
    local.write_bytes(b"1" * 2_000_000)
    drive_server.call("know", path=str(local))
    for data in (b"1" * 2_000_000, b"1" * 1_999_999 + b"2"):
        address = await call.session("x", len(data), "&fields=md5Checksum")
        answer = await call("PUT", address, data=data)
        assert answer.json["md5Checksum"] == hashlib.md5(data).hexdigest()


async def test_expect_continue_and_early_refusal(call: Raw) -> None:
    answer = await call("POST", "/upload/drive/v3/files?uploadType=media", data=b"12", expect100=True)
    assert answer.status == 200
    refused = await call("POST", "/upload/drive/v3/files?uploadType=nonsense", data=b"1" * 3_000_000)
    assert (refused.status, refused.reason) == (400, "badRequest")
    for _ in range(3):  # what a refused request had still to say is read off: the connection goes on
        assert (await call("POST", "/upload/drive/v3/files?uploadType=no", data=b"1" * 300_000)).status == 400
