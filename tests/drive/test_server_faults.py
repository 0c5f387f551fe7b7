"""What can be made to go wrong, seen from the client's side of a real socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.drive_bed.raw import FOLDER, Raw, raw
from tests.drive_bed.serve import DriveServer

STEP = 256 * 1024


@pytest.fixture
async def call(drive_server: DriveServer) -> AsyncIterator[Raw]:
    async with raw(drive_server.account()) as calls:
        yield calls


REASONS = [
    (401, "authError", "global"),
    (403, "rateLimitExceeded", "usageLimits"),
    (403, "userRateLimitExceeded", "usageLimits"),
    (403, "dailyLimitExceeded", "usageLimits"),
    (403, "downloadQuotaExceeded", "usageLimits"),
    (403, "storageQuotaExceeded", "global"),
    (403, "insufficientFilePermissions", "global"),
    (403, "cannotDownloadAbusiveFile", "global"),
    (404, "notFound", "global"),
    (409, "conflict", "global"),
    (410, "gone", "global"),
    (429, "rateLimitExceeded", "usageLimits"),
    (500, "internalError", "global"),
    (503, "backendError", "global"),
]


@pytest.mark.parametrize(("status", "reason", "domain"), REASONS)
async def test_refusals(call: Raw, drive_server: DriveServer, status: int, reason: str, domain: str) -> None:
    rule = drive_server.fault(path="/files", status=status, reason=reason, retry_after=7 if status == 429 else None)
    answer = await call("GET", "/drive/v3/files")
    assert answer.status == status
    error = answer.json["error"]
    assert (error["code"], error["errors"][0]["reason"], error["errors"][0]["domain"]) == (status, reason, domain)
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    assert (await call("GET", "/drive/v3/files")).status == 200
    assert drive_server.hits(rule) == 1
    assert drive_server.requests[0].faults == (str(rule),)


async def test_google_has_other_shapes_of_errors(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(path="/files", status=502)
    answer = await call("GET", "/drive/v3/files")
    assert answer.status == 502
    assert answer.body.startswith(b"<!DOCTYPE html>")
    drive_server.fault(path="/token", status=400, reason="invalid_grant")
    drive_server.fault(path="/token", status=503)
    assert (await call("POST", "/token", data=b"")).json["error"] == "invalid_grant"
    assert (await call("POST", "/token", data=b"")).json["error"] == "internal_failure"


async def test_two_spellings_of_one_reason(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(path="/files", status=403, reason="rateLimitExceeded")
    error = (await call("GET", "/drive/v3/files")).json["error"]
    assert (error["errors"][0]["reason"], error["details"][0]["reason"]) == ("rateLimitExceeded", "RATE_LIMIT_EXCEEDED")


async def test_incomplete_and_short_pages(call: Raw, drive_server: DriveServer) -> None:
    for n in range(4):
        await call.put(f"f{n}", b"")
    drive_server.fault(path="/files", incomplete=True)
    page = (await call("GET", "/drive/v3/files")).json
    assert (len(page["files"]), page["incompleteSearch"]) == (2, True)
    drive_server.fault(path="/files", page_at_most=0)
    page = (await call("GET", "/drive/v3/files")).json
    assert page["files"] == []
    rest = (await call("GET", "/drive/v3/files", params={"pageToken": page["nextPageToken"]})).json
    assert (len(rest["files"]), rest["incompleteSearch"]) == (4, False)


async def test_a_dropped_question(call: Raw, drive_server: DriveServer) -> None:
    id = await call.put("x", b"1")
    drive_server.fault(method="DELETE", drop_request_at=0)
    with pytest.raises(aiohttp.ClientError):
        await call("DELETE", f"/drive/v3/files/{id}")
    assert len(drive_server.files) == 1


async def test_which_requests(call: Raw, drive_server: DriveServer) -> None:
    drive_server.account("bob@example.org")
    drive_server.fault(method="GET", path=r"files\?q=", after=1, times=2, status=500)
    drive_server.fault(account="bob@example.org", times=0, status=502)
    statuses = [(await call("GET", "/drive/v3/files?q=")).status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert (await call("GET", "/drive/v3/files")).status == 200
    async with raw(drive_server.account("bob@example.org")) as bob:
        assert [(await bob("GET", "/drive/v3/files")).status for _ in range(2)] == [502, 502]


async def test_by_chance_but_the_same_each_time(call: Raw, drive_server: DriveServer) -> None:
    seen = []
    for _ in range(2):
        drive_server.clear()
        drive_server.fault(times=0, probability=0.5, seed=3, status=503)
        seen.append([(await call("GET", "/drive/v3/files")).status for _ in range(12)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 503}


async def test_latency(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(path="/files", latency=0.2)
    began = time.monotonic()
    await call("GET", "/drive/v3/files")
    assert 0.2 <= time.monotonic() - began < 2


async def test_a_dropped_request_leaves_whole_steps(call: Raw, drive_server: DriveServer) -> None:
    data = os.urandom(4 * STEP)
    address = await call.session("x", len(data))
    drive_server.fault(path="upload_id", drop_request_at=2 * STEP + 1000)
    with pytest.raises(aiohttp.ClientError):
        await call.chunk(address, data, 0, len(data))
    assert (await call.progress(address)).headers["range"] == f"bytes=0-{2 * STEP - 1}"
    done = await call.chunk(address, data[2 * STEP :], 2 * STEP, len(data))
    assert done.status == 200
    assert drive_server.files[0].read() == data
    broken = next(one for one in drive_server.requests if one.faults)
    assert (broken.status, broken.bytes_in) == (0, 2 * STEP + 1000)


async def test_a_dropped_small_upload_leaves_nothing(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(path="multipart", drop_request_at=100)
    with pytest.raises(aiohttp.ClientError):
        await call.multipart({"name": "x"}, b"1" * 5000)
    assert drive_server.files == []


@pytest.mark.parametrize("reset", [False, True])
async def test_a_dropped_answer(call: Raw, drive_server: DriveServer, reset: bool) -> None:
    id = await call.put("x", os.urandom(300_000))
    drive_server.fault(path="alt=media", drop_response_at=200_000, reset=reset)
    got = b""
    with pytest.raises(aiohttp.ClientError):
        async with call.http.get(f"/drive/v3/files/{id}?alt=media") as answer:
            assert answer.headers["Content-Length"] == "300000"
            async for piece in answer.content.iter_any():
                got += piece
    assert drive_server.files[0].read().startswith(got)
    assert len(got) == 200_000 or reset
    assert drive_server.requests[-1].bytes_out == 200_000


async def test_a_lost_reply_comes_after_the_deed(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(method="POST", lose_reply=True)
    ids = (await call("GET", "/drive/v3/files/generateIds?count=1")).json["ids"]
    with pytest.raises(aiohttp.ClientError):
        await call.multipart({"name": "x", "id": ids[0]}, b"hello")
    assert drive_server.files[0].read() == b"hello"
    again = await call.multipart({"name": "x", "id": ids[0]}, b"hello")
    assert (again.status, again.reason) == (409, "fileIdInUse")


async def test_a_lost_reply_to_the_last_chunk(call: Raw, drive_server: DriveServer) -> None:
    address = await call.session("x", 5)
    drive_server.fault(path="upload_id", lose_reply=True)
    with pytest.raises(aiohttp.ClientError):
        await call.chunk(address, b"hello", 0, 5)
    asked = await call.progress(address, 5)
    assert (asked.status, asked.json["name"]) == (200, "x")
    assert len(drive_server.files) == 1


@pytest.mark.parametrize("kept", [0, STEP - 1, STEP, 2 * STEP + 5])
async def test_a_chunk_that_is_kept_in_part(call: Raw, drive_server: DriveServer, kept: int) -> None:
    data = os.urandom(3 * STEP)
    address = await call.session("x", len(data))
    drive_server.fault(path="upload_id", commit_at_most=kept)
    answer = await call.chunk(address, data, 0, len(data))
    assert answer.status == 308
    have = kept // STEP * STEP
    assert answer.headers.get("range") == (f"bytes=0-{have - 1}" if have else None)
    assert (await call.chunk(address, data[have:], have, len(data))).status == 200
    assert drive_server.files[0].read() == data


async def test_stored_wrongly(call: Raw, drive_server: DriveServer) -> None:
    drive_server.fault(path="multipart", corrupt_stored=1)
    await call.put("x", b"hello")
    stored = drive_server.files[0].read()
    assert stored != b"hello"
    assert stored[:1] + stored[2:] == b"hllo"
    address = await call.session("y", 3, "&fields=md5Checksum")
    drive_server.fault(path="upload_id", corrupt_stored=2)
    answer = await call.chunk(address, b"abc", 0, 3)
    assert answer.json["md5Checksum"] != "900150983cd24fb0d6963f7d28e17f72"


async def test_wrong_and_short_answers(call: Raw, drive_server: DriveServer) -> None:
    id = await call.put("x", b"hello")
    drive_server.fault(path="alt=media", corrupt_at=4)
    drive_server.fault(path="alt=media", after=1, truncate_at=2)
    wrong = (await call("GET", f"/drive/v3/files/{id}?alt=media")).body
    assert wrong[:4] == b"hell"
    assert wrong[4:] not in (b"o", b"")
    short = await call("GET", f"/drive/v3/files/{id}?alt=media")
    assert (short.status, short.body, short.headers["content-length"]) == (200, b"he", "2")


async def test_a_forgotten_session(call: Raw, drive_server: DriveServer) -> None:
    address = await call.session("x", STEP * 2)
    await call.chunk(address, b"1" * STEP, 0, STEP * 2)
    drive_server.fault(path="upload_id", forget_session=True)
    assert (await call.progress(address)).status == 404
    assert (await call.progress(address)).status == 404


async def test_a_stale_listing(call: Raw, drive_server: DriveServer) -> None:
    old = await call.file(name="old", mimeType=FOLDER)
    gone = await call.put("gone", b"1")
    await asyncio.sleep(0.3)
    await call.put("new", b"2")
    await call("PATCH", f"/drive/v3/files/{old}", json={"name": "renamed"})
    await call("DELETE", f"/drive/v3/files/{gone}")
    drive_server.fault(method="GET", path=r"/files\?", stale=0.25)
    drive_server.fault(method="GET", path="/changes", stale=0.25)
    query = "trashed = false and 'root' in parents"
    assert set(await call.list(query)) == {"old", "gone"}
    assert set(await call.list(query)) == {"new", "renamed"}
    changes = (await call("GET", "/drive/v3/changes?pageToken=1")).json
    assert changes["changes"] == []
    assert (await call("GET", f"/drive/v3/files/{old}")).json["name"] == "renamed"  # by id it is never stale


async def test_slow_lines(call: Raw, drive_server: DriveServer) -> None:
    id = await call.put("x", b"1" * 100_000)
    drive_server.fault(path="alt=media", rate=300_000)
    drive_server.fault(path="uploadType=media", rate=300_000)
    began = time.monotonic()
    assert len((await call("GET", f"/drive/v3/files/{id}?alt=media")).body) == 100_000
    assert 0.25 < time.monotonic() - began < 3
    began = time.monotonic()
    await call("POST", "/upload/drive/v3/files?uploadType=media", data=b"2" * 100_000)
    assert 0.25 < time.monotonic() - began < 3


async def test_a_full_drive(drive_server: DriveServer) -> None:
    ann = drive_server.account(limit=1000)
    async with raw(ann) as call:
        assert (await call.multipart({"name": "a"}, b"1" * 900)).status == 200
        refused = await call.multipart({"name": "b"}, b"1" * 101)
        assert (refused.status, refused.reason) == (403, "storageQuotaExceeded")
        begun = await call(
            "POST",
            "/upload/drive/v3/files?uploadType=resumable",
            json={"name": "b"},
            headers={"X-Upload-Content-Length": "101"},
        )
        assert (begun.status, begun.reason) == (403, "storageQuotaExceeded")
        address = await call.session("c")  # without its length it is found out at the end
        assert (await call.chunk(address, b"1" * 101, 0, 101)).reason == "storageQuotaExceeded"
        await call("PATCH", f"/drive/v3/files/{drive_server.files[0].id}", json={"trashed": True})
        quota = (await call("GET", "/drive/v3/about?fields=storageQuota")).json["storageQuota"]
        assert quota == {"limit": "1000", "usage": "900", "usageInDrive": "900", "usageInDriveTrash": "900"}


async def test_limits_of_an_account(drive_server: DriveServer) -> None:
    async with raw(drive_server.account(units_per_minute=250)) as call:
        statuses = [(await call("GET", "/drive/v3/files")).status for _ in range(3)]
        assert statuses == [200, 200, 403]
        assert (await call("GET", "/drive/v3/files")).reason == "userRateLimitExceeded"
        assert (await call("GET", "/drive/v3/files/root")).status in (403, 404)
    async with raw(drive_server.account("bob@example.org", creates_per_second=0.2)) as call:
        made = [(await call("POST", "/drive/v3/files", json={"name": "x"})).status for _ in range(3)]
        assert made == [200, 200, 403]


def test_unknown_words_are_refused(drive_server: DriveServer) -> None:
    with pytest.raises(TypeError):
        drive_server.fault(staus=500)
