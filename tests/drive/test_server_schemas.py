"""Every kind of answer fits the schemas of Drive's own discovery document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.drive_bed.raw import FOLDER, Raw, raw
from tests.drive_bed.resources import FILE_FIELDS
from tests.drive_bed.serve import DriveServer

pytest.importorskip("googleapiclient", reason="google-api-python-client, whose discovery document is used, is missing")
from tests.drive_bed.schemas import Schemas

SCHEMAS = Schemas()
WHOLE = {"fields": "*"}
DRIVES = {"supportsAllDrives": "true", "includeItemsFromAllDrives": "true"}


@pytest.fixture
async def full(drive_server: DriveServer) -> AsyncIterator[Raw]:
    """A Drive with one of everything."""
    ann = drive_server.account(scope="drive")
    shared = drive_server.shared_drive("Team", {"ann@example.org": "organizer"})
    async with raw(ann) as call:
        folder = await call.file(name="F", mimeType=FOLDER, description="d", properties={"a": "b"})
        file = await call.put("x.txt", b"hello", parents=[folder], appProperties={"c": "d"})
        await call.file(name="s", mimeType="application/vnd.google-apps.shortcut", shortcutDetails={"targetId": file})
        await call.file(name="doc", mimeType="application/vnd.google-apps.document")
        await call("POST", "/drive/v3/files?supportsAllDrives=true", json={"name": "t", "parents": [shared]})
        gone = await call.put("gone", b"1")
        await call("DELETE", f"/drive/v3/files/{gone}")
        trashed = await call.put("trashed", b"2")
        await call("PATCH", f"/drive/v3/files/{trashed}", json={"trashed": True})
        yield call


def fit(value: Any, name: str) -> None:
    assert SCHEMAS.problems(value, name) == []


async def test_files(full: Raw) -> None:
    listed = await full("GET", "/drive/v3/files", params=WHOLE | DRIVES)
    fit(listed.json, "FileList")
    assert {one["name"] for one in listed.json["files"]} == {"My Drive", "F", "x.txt", "s", "doc", "t", "trashed"}
    for one in listed.json["files"]:
        answer = await full("GET", f"/drive/v3/files/{one['id']}", params=WHOLE | DRIVES)
        fit(answer.json, "File")
        assert answer.json == one
    page = await full("GET", "/drive/v3/files", params=WHOLE | {"pageSize": "2"})
    fit(page.json, "FileList")
    assert page.json["nextPageToken"]


async def test_every_way_of_writing(full: Raw) -> None:
    made = await full.multipart({"name": "m"}, b"1", "&fields=*")
    fit(made.json, "File")
    id = made.json["id"]
    changed = await full("PATCH", f"/drive/v3/files/{id}", params=WHOLE, json={"name": "n"})
    fit(changed.json, "File")
    address = await full.session("r", 3, "&fields=*")
    fit((await full.chunk(address, b"abc", 0, 3)).json, "File")
    fit((await full("POST", f"/drive/v3/files/{id}/copy", params=WHOLE, json={})).json, "File")


async def test_the_rest(full: Raw) -> None:
    fit((await full("GET", "/drive/v3/about", params=WHOLE)).json, "About")
    fit((await full("GET", "/drive/v3/files/generateIds")).json, "GeneratedIds")
    fit((await full("GET", "/drive/v3/changes/startPageToken")).json, "StartPageToken")
    changes = await full("GET", "/drive/v3/changes", params=WHOLE | DRIVES | {"pageToken": "1"})
    fit(changes.json, "ChangeList")
    assert {one["removed"] for one in changes.json["changes"]} == {True, False}
    drives = await full("GET", "/drive/v3/drives", params=WHOLE)
    fit(drives.json, "DriveList")
    fit((await full("GET", "/drive/v3/drives/" + drives.json["drives"][0]["id"], params=WHOLE)).json, "Drive")


async def test_defaults_are_drives(full: Raw) -> None:
    listed = (await full("GET", "/drive/v3/files")).json
    assert set(listed) == {"kind", "incompleteSearch", "files"}
    assert set(listed["files"][0]) == {"kind", "id", "name", "mimeType"}
    for name, kind in (
        ("FileList", listed),
        ("StartPageToken", (await full("GET", "/drive/v3/changes/startPageToken")).json),
    ):
        assert kind["kind"] == SCHEMAS.by_name[name]["properties"]["kind"]["default"]


def test_no_field_is_invented() -> None:
    assert set(SCHEMAS.by_name["File"]["properties"]) == FILE_FIELDS


def test_the_check_can_fail() -> None:
    wrong = {"id": 1, "size": "many", "trashed": "no", "parents": "x", "nonsense": 1, "modifiedTime": "2020-01-01"}
    found = SCHEMAS.problems(wrong | {"owners": [{"me": 1}]}, "File")
    assert len(found) == 7
