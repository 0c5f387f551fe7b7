"""Uploads against every fault: one file in the end, equal to the local one, and few bytes sent twice."""

from __future__ import annotations

import asyncio
import os

import pytest

from services.drive.api import session, uploads
from services.drive.errors import Corrupted, DriveFull, DriveRefused
from services.errors import BadInput, HybridError, Refused, StoreUnreachable
from tests.drive.api.conftest import Bench

KB, MB = 1 << 10, 1 << 20
SESSION = "upload_id="


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few megabytes go in several chunks, so that the tests are quick."""
    monkeypatch.setattr(session, "_FIRST", 1 * MB)
    monkeypatch.setattr(session, "_MOST", 1 * MB)


@pytest.mark.parametrize("size", [0, 1, 100 * KB, uploads.SMALL, uploads.SMALL + 1, 5 * MB + 7])
async def test_arrives_as_it_is(bench: Bench, size: int) -> None:
    local = bench.file("model.bin", size)
    file = await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()
    assert (file.size, bench.shown) == (size, size)
    assert file.parents == (bench.folder,)


@pytest.mark.parametrize("size", [300 * KB, 5 * MB])
async def test_replaces_the_content_of_a_file(bench: Bench, size: int) -> None:
    id, _ = bench.remote("model.bin", 1000)
    local = bench.file("new.bin", size, seed=2)
    file = await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes, replace=id)
    assert file.id == id
    assert bench.stored("model.bin") == local.read_bytes()


FAULTS = {
    "500": {"status": 500, "reason": "internalError", "times": 2},
    "503 with Retry-After": {"status": 503, "retry_after": 0, "times": 2},
    "429": {"status": 429, "reason": "rateLimitExceeded"},
    "403 rateLimitExceeded": {"status": 403, "reason": "rateLimitExceeded"},
    "403 userRateLimitExceeded": {"status": 403, "reason": "userRateLimitExceeded"},
    "401": {"status": 401, "reason": "authError"},
    "line breaks at the first byte": {"drop_request_at": 0},
    "line breaks in the middle": {"drop_request_at": 150 * KB},
    "line is reset": {"drop_request_at": 150 * KB, "reset": True},
    "reply is lost": {"lose_reply": True},
    "reply is cut short": {"truncate_at": 20},
    "reply breaks off": {"drop_response_at": 20},
    "reply is corrupted": {"corrupt_at": 30},
    "stored bytes are corrupted": {"corrupt_stored": 70 * KB},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("size", [200 * KB, 5 * MB], ids=["small", "large"])
async def test_every_fault_leaves_one_whole_file(bench: Bench, fault: dict[str, object], size: int) -> None:
    local = bench.file("model.bin", size)
    path = SESSION if size > uploads.SMALL else "uploadType=multipart"
    rule = bench.server.fault(path=path, after=1 if size > uploads.SMALL else 0, **fault)
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.server.hits(rule)
    assert bench.stored("model.bin") == local.read_bytes()
    assert bench.shown == size


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_every_fault_when_a_session_begins(bench: Bench, fault: dict[str, object]) -> None:
    local = bench.file("model.bin", 3 * MB)
    bench.server.fault(path="uploadType=resumable&(?!.*upload_id)", **fault)
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()


async def test_a_lost_reply_sends_nothing_twice(bench: Bench) -> None:
    """What was committed is found by its id, or by asking the session."""
    for name, size, path in (("small", 200 * KB, "multipart"), ("large", 3 * MB, SESSION)):
        bench.server.fault(path=path, lose_reply=True, after=2 if size > MB else 0)
        await bench.client().upload(bench.file(name, size), name, bench.folder, bench.on_bytes)
        assert len(bench.server.named(name)) == 1
    assert bench.sent() < 3 * MB + 200 * KB + 4 * KB


async def test_the_range_is_obeyed_inside_the_chunk_just_sent(bench: Bench) -> None:
    local = bench.file("model.bin", 5 * MB)
    bench.server.fault(path=SESSION, commit_at_most=300 * KB, times=3)
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()
    assert bench.shown == 5 * MB


async def test_chunks_are_multiples_of_256_kib(bench: Bench) -> None:
    bench.server.fault(path=SESSION, drop_request_at=300 * KB, after=1)
    await bench.client().upload(bench.file("model.bin", 9 * MB + 1), "model.bin", bench.folder, bench.on_bytes)
    chunks = [r.bytes_in for r in bench.server.requests if SESSION in r.query and r.status == 308 and r.bytes_in]
    assert len(chunks) >= 2
    assert all(chunk % (256 * KB) == 0 for chunk in chunks)


async def test_a_forgotten_session_starts_again(bench: Bench) -> None:
    local = bench.file("model.bin", 5 * MB)
    rule = bench.server.fault(path=SESSION, forget_session=True, after=1)
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.server.hits(rule) == 1
    assert bench.stored("model.bin") == local.read_bytes()


async def test_another_process_goes_on_where_the_first_was(bench: Bench) -> None:
    local = bench.file("model.bin", 8 * MB)
    bench.server.fault(path=SESSION, after=3, status=503, times=0)
    with pytest.raises(StoreUnreachable):
        await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    before = bench.sent()
    assert before >= 3 * MB
    bench.server.clear()
    bench.shown = 0
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()
    assert bench.shown == 8 * MB
    assert bench.sent() <= 8 * MB + 5 * MB  # refused chunks count too: a status is answered once the body has come
    assert bench.paths("POST", "uploadType=resumable") == 1


async def test_a_file_that_changed_meanwhile_is_not_gone_on_with(bench: Bench) -> None:
    local = bench.file("model.bin", 4 * MB)
    bench.server.fault(path=SESSION, after=2, status=503, times=0)
    with pytest.raises(StoreUnreachable):
        await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    bench.server.clear()
    local.write_bytes(os.urandom(4 * MB))
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()
    assert bench.paths("POST", "uploadType=resumable") == 2


async def test_cancelled_then_gone_on_with(bench: Bench) -> None:
    local = bench.file("model.bin", 8 * MB)
    reached = asyncio.Event()
    task = asyncio.create_task(
        bench.client().upload(local, "model.bin", bench.folder, lambda n: reached.set() if n > 0 else None)
    )
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert bench.stored("model.bin") == local.read_bytes()
    assert bench.sent() <= 8 * MB + 2 * MB


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_what_has_arrived_is_not_sent_again(bench: Bench, size: int) -> None:
    local = bench.file("model.bin", size)
    first = await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    before = bench.sent()
    bench.shown = 0
    second = await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert first.id == second.id
    assert (bench.sent(), bench.shown) == (before, size)


async def test_what_was_trashed_meanwhile_is_sent_again(bench: Bench) -> None:
    local = bench.file("model.bin", 2000)
    client = bench.client()
    first = await client.upload(local, "model.bin", bench.folder, bench.on_bytes)
    await client.trash(first.id)
    second = await client.upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert second.id != first.id
    assert [held.id for held in bench.server.named("model.bin") if not held.trashed] == [second.id]


async def test_one_file_is_sent_once_at_a_time(bench: Bench) -> None:
    local = bench.file("model.bin", 3 * MB)
    done = await asyncio.gather(
        *(bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes) for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Refused) for one in done) == 2
    assert len(bench.server.named("model.bin")) == 1


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_a_corrupted_copy_whose_reply_was_lost_is_not_left_beside_the_right_one(bench: Bench, size: int) -> None:
    local = bench.file("model.bin", size)
    last = SESSION if size > MB else "multipart"
    bench.server.fault(path=last, corrupt_stored=5, lose_reply=True, after=2 if size > MB else 0)
    bench.server.fault(path=SESSION, forget_session=True, after=3)
    file = await bench.client().upload(local, "model.bin", bench.folder, bench.on_bytes)
    (held,) = (one for one in bench.server.named("model.bin") if not one.trashed)
    assert (held.id, held.read()) == (file.id, local.read_bytes())


async def test_what_somebody_changed_on_drive_since_is_let_alone(bench: Bench) -> None:
    local = bench.file("model.bin", 2000)
    client = bench.client()
    first = await client.upload(local, "model.bin", bench.folder, bench.on_bytes)
    await client.replace(first.id, b"by hand")
    second = await client.upload(local, "model.bin", bench.folder, bench.on_bytes)
    assert second.id != first.id
    assert await client.read(first.id) == b"by hand"


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_a_copy_that_is_always_corrupted_is_refused_and_not_left(bench: Bench, size: int) -> None:
    bench.server.fault(path=SESSION if size > MB else "multipart", corrupt_stored=5, times=0)
    with pytest.raises(Corrupted):
        await bench.client().upload(bench.file("model.bin", size), "model.bin", bench.folder, bench.on_bytes)
    assert bench.server.named("model.bin") == []


async def test_a_file_that_changes_while_it_is_sent_is_an_error_and_not_left(bench: Bench) -> None:
    local = bench.file("model.bin", 3 * MB)

    def touch(n: int) -> None:
        os.utime(local, ns=(1, 1))

    with pytest.raises(HybridError, match="changed while"):
        await bench.client().upload(local, "model.bin", bench.folder, touch)
    assert bench.server.named("model.bin") == []


async def test_a_file_that_shrinks_while_it_is_sent_is_an_error(bench: Bench) -> None:
    local = bench.file("model.bin", 5 * MB)

    def cut(n: int) -> None:
        os.truncate(local, 10)

    with pytest.raises(HybridError, match="changed while"):
        await bench.client().upload(local, "model.bin", bench.folder, cut)
    assert bench.server.named("model.bin") == []


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_a_full_drive_is_said_at_once(bench: Bench, size: int) -> None:
    poor = bench.server.account("poor@example.org", limit=100)
    other = Bench(bench.server, poor, bench.place)
    with pytest.raises(DriveFull, match="full"):
        await other.client().upload(bench.file("model.bin", size), "model.bin", other.folder, bench.on_bytes)
    assert bench.paths("POST", "/upload/") == 1
    await other.close()


async def test_a_local_file_that_is_none(bench: Bench) -> None:
    with pytest.raises(BadInput):
        await bench.client().upload(bench.place / "none", "none", bench.folder, bench.on_bytes)
    with pytest.raises(BadInput):
        await bench.client().upload(bench.place, "none", bench.folder, bench.on_bytes)


async def test_a_parent_that_is_none(bench: Bench) -> None:
    for size in (10, 3 * MB):
        with pytest.raises(DriveRefused):
            await bench.client().upload(bench.file("model.bin", size), "model.bin", "nowhere", bench.on_bytes)
