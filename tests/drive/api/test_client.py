"""The calls other than transfers, on the server: ids, folders, listings, small files, changes, errors."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings

from services.drive.api.http import Retry
from services.drive.api.types import FOLDER
from services.drive.api.wire import quoted
from services.drive.errors import DriveLimit, DriveRefused, SignInNeeded
from services.errors import StoreUnreachable
from tests.drive.api.conftest import Bench, found


async def test_the_account(bench: Bench) -> None:
    about = await bench.client().about()
    assert (about.email, about.limit, about.used) == ("ann@example.org", 15 << 30, 0)


async def test_ids_are_fetched_ahead_and_never_given_twice(bench: Bench) -> None:
    client = bench.client()
    given = [*(await client.new_ids(3)), *(await client.new_ids(150))]
    given += [id for ids in await asyncio.gather(*(client.new_ids() for _ in range(40))) for id in ids]
    assert len(set(given)) == len(given) == 193
    assert bench.paths("GET", "generateIds") <= 3


async def test_of_many_who_make_one_folder_one_does(bench: Bench) -> None:
    (id,) = await bench.client().new_ids()
    made = await asyncio.gather(*(bench.client().create_folder("models", bench.folder, id=id) for _ in range(6)))
    assert {folder.id for folder in made} == {id}
    assert all(folder.folder for folder in made)
    assert len(bench.server.named("models")) == 1


async def test_a_slot_is_taken_once(bench: Bench) -> None:
    (id,) = await bench.client().new_ids()
    datas = [f"writer {n}".encode() for n in range(6)]
    won = await asyncio.gather(*(bench.client().create("slot", bench.folder, data, id=id) for data in datas))
    assert won.count(True) == 1
    assert await bench.client().read(id) == datas[won.index(True)]
    assert await bench.client().create("slot", bench.folder, datas[won.index(True)], id=id)


@pytest.mark.parametrize(
    "fault",
    [
        {"lose_reply": True},
        {"drop_request_at": 100},
        {"status": 503},
        {"truncate_at": 10},
        {"corrupt_stored": 2},
        {"drop_response_at": 10, "reset": True},
    ],
    ids=str,
)
async def test_small_files_through_faults(bench: Bench, fault: dict[str, object]) -> None:
    client = bench.client()
    (id,) = await client.new_ids()
    bench.server.fault(path="/upload/", **fault)
    assert await client.create("slot", bench.folder, b"0123456789" * 100, id=id)
    assert bench.stored("slot") == b"0123456789" * 100
    bench.server.fault(path="/upload/", **fault)
    await client.replace(id, b"new")
    assert bench.stored("slot") == b"new"


async def test_reading_a_small_file(bench: Bench) -> None:
    id, data = bench.remote("view.json", 5000)
    client = bench.client()
    for fault in ({"corrupt_at": 9}, {"truncate_at": 9}, {"drop_response_at": 9}, {"status": 500}):
        bench.server.fault(path="alt=media", **fault)
        assert await client.read(id) == data
    assert await client.read("none") is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=40), other=st.text(min_size=1, max_size=40))
async def test_any_name_and_property_is_found(bench: Bench, name: str, other: str) -> None:
    client = bench.client()
    folder = await client.create_folder(name, bench.folder, properties={"path": other})
    by_name = await client.children(bench.folder, name=folder.name)
    by_property = await client.children(bench.folder, properties={"path": other})
    assert folder.id in {one.id for one in by_name}
    assert folder.id in {one.id for one in by_property}
    assert await client.children(bench.folder, name=folder.name + "'") == []


def test_quoting() -> None:
    assert quoted("it's a \\") == r"'it\'s a \\'"


async def test_a_long_listing_has_every_file_once(bench: Bench) -> None:
    for number in range(1203):
        bench.account.put(f"file{number}", b"x", parent=bench.folder)
    listed = await bench.client().children(bench.folder)
    assert sorted(one.name for one in listed) == sorted(f"file{number}" for number in range(1203))
    assert {one.size for one in listed} == {1}


async def test_listings_know_what_they_hold(bench: Bench) -> None:
    id, _ = bench.remote("model.bin", 10)
    bench.account.put("link", mime="application/vnd.google-apps.shortcut", target=id, parent=bench.folder)
    bench.account.put("doc", mime="application/vnd.google-apps.document", parent=bench.folder)
    bench.account.put("sub", parent=bench.folder)
    listed = {one.name: one for one in await bench.client().children(bench.folder)}
    assert (listed["link"].target, listed["link"].size) == (id, None)
    assert (listed["doc"].google_doc, listed["doc"].size) == (True, None)
    assert (listed["sub"].mime, listed["sub"].folder) == (FOLDER, True)
    assert (listed["model.bin"].size, len(listed["model.bin"].sha256)) == (10, 64)
    assert abs(listed["model.bin"].modified - time.time()) < 60


@pytest.mark.parametrize(("incomplete", "found"), [(2, True), (99, False)])
async def test_an_incomplete_search_is_asked_again_and_never_taken_for_all(
    bench: Bench, incomplete: int, found: bool
) -> None:
    """The test server never says it, so a few lines of another one do."""
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"files": [{"id": str(asked), "name": "f"}], "incompleteSearch": asked <= incomplete})

    app = web.Application()
    app.router.add_get("/drive/v3/files", answer)
    server = TestServer(app)
    await server.start_server()
    client = bench.client()
    client._http.root = str(server.make_url("")).rstrip("/")
    try:
        if found:
            assert [one.id for one in await client.children("folder")] == ["3"]
        else:
            with pytest.raises(StoreUnreachable, match="completely"):
                await client.children("folder")
            assert asked == 4
    finally:
        await server.close()


async def test_a_stale_listing_does_not_hide_a_file_from_get(bench: Bench) -> None:
    client = bench.client()
    bench.server.fault(path=r"/files\?.*q=", stale=60, times=0)
    folder = await client.create_folder("new", bench.folder)
    assert await client.children(bench.folder) == []
    assert (await found(client, folder.id)).name == "new"


async def test_moving_renaming_trashing_deleting(bench: Bench) -> None:
    client = bench.client()
    id, _ = bench.remote("model.bin", 10)
    other = await client.create_folder("other", bench.folder)
    moved = await client.change(id, name="new", add_parent=other.id, remove_parent=bench.folder, properties={"a": "1"})
    assert (moved.name, moved.parents, moved.properties) == ("new", (other.id,), {"a": "1"})
    await client.trash(id)
    assert (await found(client, id)).trashed
    assert await client.children(other.id) == []
    await client.delete(id)
    await client.delete(id)
    assert await client.get(id) is None


async def test_changes(bench: Bench) -> None:
    client = bench.client()
    id, _ = bench.remote("old", 10)
    token = await client.changes_start()
    assert await client.changes(token) == ([], token)
    folder = await client.create_folder("new", bench.folder)
    await client.delete(id)
    changes, token = await client.changes(token)
    assert {change.id: change.file and change.file.name for change in changes} == {folder.id: "new", id: None}
    assert (await client.changes(token))[0] == []


async def test_shared_drives(bench: Bench) -> None:
    account = bench.server.account("lead@example.org", scope="drive")
    drive = bench.server.shared_drive("Team", {"lead@example.org": "organizer"})
    team = Bench(bench.server, account, bench.place)
    client = team.client(shared_drive=drive)
    assert [(one.id, one.name) for one in await client.shared_drives()] == [(drive, "Team")]
    token = await client.changes_start()
    folder = await client.create_folder("models", drive)
    assert folder.drive_id == drive
    file = await client.upload(bench.file("model.bin", 300), "model.bin", folder.id, bench.on_bytes)
    assert [one.id for one in await client.children(folder.id)] == [file.id]
    assert {change.id for change in (await client.changes(token))[0]} >= {folder.id, file.id}
    await client.download(file, bench.place / "down.bin", bench.on_bytes)
    await client.trash(file.id)
    await team.close()


async def test_an_expired_token_is_renewed(bench: Bench) -> None:
    client = bench.client()
    await client.about()
    bench.server.call("expire")
    await asyncio.gather(*(client.about() for _ in range(5)))


async def test_a_sign_in_that_is_not_accepted_is_said(bench: Bench) -> None:
    bench.server.fault(status=401, reason="authError", path="/drive/v3/", times=0)
    with pytest.raises(SignInNeeded) as caught:
        await bench.client().about()
    assert "drive.login" in caught.value.hint


async def test_limits_that_do_not_pass_are_not_repeated(bench: Bench) -> None:
    bench.server.fault(status=403, reason="dailyLimitExceeded", times=0, path="/about")
    with pytest.raises(DriveLimit):
        await bench.client().about()
    assert bench.paths("GET", "/about") == 1


async def test_retry_after_is_honoured(bench: Bench) -> None:
    bench.server.fault(status=429, retry_after=1, path="/about")
    begun = time.monotonic()
    client = bench.client()
    await client.about()
    assert time.monotonic() - begun >= 1
    assert client.stats.retries == 1
    assert client.stats.waited_seconds >= 1
    assert "429" in client.stats.last_trouble


async def test_stats_are_true(bench: Bench) -> None:
    client = bench.client()
    before = len(bench.server.requests)
    folder = await client.create_folder("f", bench.folder)
    local = bench.file("model.bin", 3 << 20)
    file = await client.upload(local, "model.bin", folder.id, bench.on_bytes)
    await client.children(folder.id)
    await client.download(file, bench.place / "down.bin", bench.on_bytes)
    seen = [one for one in bench.server.requests_since(before) if "/v3/" in one.path]
    stats = client.stats
    assert (stats.requests, stats.retries, stats.last_trouble) == (len(seen), 0, "")
    assert (stats.sent_bytes, stats.received_bytes) == (3 << 20, 3 << 20)
    assert stats.units == sum(one.units for one in seen)


async def test_no_answer_is_said_after_some_tries(bench: Bench) -> None:
    bench.server.fault(status=500, times=0, path="/about")
    with pytest.raises(StoreUnreachable, match="6 tries"):
        await bench.client().about()
    assert bench.paths("GET", "/about") == 6


async def test_a_line_on_which_nothing_moves_is_given_up(bench: Bench) -> None:
    bench.server.fault(latency=60, path="/about")
    client = bench.client(Retry(first=0.01, tries=3, stall=0.2))
    assert (await client.about()).email == "ann@example.org"
    assert "no answer in time" in client.stats.last_trouble


async def test_no_server_at_all(bench: Bench, tmp_path: Path) -> None:
    client = bench.client()
    client._http.root = "http://127.0.0.1:9"
    with pytest.raises(StoreUnreachable, match="no connection"):
        await client.about()


async def test_what_is_not_there_is_refused_in_words(bench: Bench) -> None:
    with pytest.raises(DriveRefused, match="no such file") as caught:
        await bench.client().change("none", name="x")
    assert caught.value.status == 404
    assert "drive.file" in caught.value.hint
