"""Listings: the query language, masks, order, pages, corpora; and the feed of changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drive_bed import fields, query
from tests.drive_bed.errors import ApiError
from tests.drive_bed.items import Item
from tests.drive_bed.raw import FOLDER, Raw, raw
from tests.drive_bed.serve import DriveServer

DRIVES = {"supportsAllDrives": "true", "includeItemsFromAllDrives": "true"}


@pytest.fixture
async def call(drive_server: DriveServer) -> AsyncIterator[Raw]:
    async with raw(drive_server.account(scope="drive")) as calls:
        yield calls


@pytest.fixture
async def folder(call: Raw) -> str:
    """A folder with a few things that queries can tell apart."""
    id = await call.file(name="Models", mimeType=FOLDER)
    await call.put("it's \\ here", b"1", parents=[id], modifiedTime="2020-01-01T00:00:00Z")
    await call.put("HelloWorld_two.bin", b"22", parents=[id], properties={"kind": "weights"})
    await call.put("notes", b"333", parents=[id], appProperties={"a": "b"}, mimeType="text/plain")
    await call.file(name="sub", mimeType=FOLDER, parents=[id])
    return id


QUERIES = [
    ("name = 'notes'", {"notes"}),
    ("name = 'NOTES'", {"notes"}),
    ("name != 'notes'", {"it's \\ here", "HelloWorld_two.bin", "sub"}),
    (r"name = 'it\'s \\ here'", {"it's \\ here"}),
    ("name contains 'Hello'", {"HelloWorld_two.bin"}),
    ("name contains 'world'", set()),
    ("mimeType = 'text/plain'", {"notes"}),
    ("mimeType != 'application/vnd.google-apps.folder' and not name = 'notes'", {"it's \\ here", "HelloWorld_two.bin"}),
    ("mimeType contains 'text/'", {"notes"}),
    ("properties has { key='kind' and value='weights' }", {"HelloWorld_two.bin"}),
    ("properties has { key = 'kind' and value = 'no' }", set()),
    ("appProperties has { key='a' and value='b' }", {"notes"}),
    ("modifiedTime < '2020-06-01T00:00:00'", {"it's \\ here"}),
    ("modifiedTime = '2020-01-01T00:00:00.000Z'", {"it's \\ here"}),
    ("modifiedTime >= '2020-01-01T00:00:00+00:00' and modifiedTime <= '2020-01-01T00:00:00Z'", {"it's \\ here"}),
    ("(name='sub' or name='notes') and not (mimeType='text/plain')", {"sub"}),
    ("name='sub' or name='notes' and mimeType='text/plain'", {"sub", "notes"}),
    ("'me' in owners and trashed=false and name='sub'", {"sub"}),
    ("trashed = true", set()),
]


@pytest.mark.parametrize(("asked", "names"), QUERIES)
async def test_queries(call: Raw, folder: str, asked: str, names: set[str]) -> None:
    assert set(await call.list(f"'{folder}' in parents and ({asked})")) == names


@pytest.mark.parametrize(
    "wrong",
    ["name", "name = notes", "name = 'a' and", "(name = 'a'", "size > '3'", "name like 'a'", "'a' in names",
     "trashed = 1", "modifiedTime > 'yesterday'", "name = 'a' name = 'b'", "properties has { key='a' }", "'"],
)  # fmt: skip
async def test_bad_queries(call: Raw, wrong: str) -> None:
    answer = await call("GET", "/drive/v3/files", params={"q": wrong})
    assert (answer.status, answer.reason) == (400, "invalid")


async def test_root_trash_and_duplicates(call: Raw, folder: str) -> None:
    inside = await call.put("x", b"", parents=[folder])
    await call.put("x", b"", parents=[folder])
    assert await call.list(f"name='x' and '{folder}' in parents") == ["x", "x"]
    assert await call.list("'root' in parents") == ["Models"]
    await call("PATCH", f"/drive/v3/files/{folder}", json={"trashed": True})
    below = (await call("GET", f"/drive/v3/files/{inside}?fields=trashed,explicitlyTrashed")).json
    assert below == {"trashed": True, "explicitlyTrashed": False}
    assert await call.list("'root' in parents and trashed=false") == []
    await call("PATCH", f"/drive/v3/files/{folder}", json={"trashed": False})
    assert await call.list("name='x' and trashed=false") == ["x", "x"]
    await call("PATCH", f"/drive/v3/files/{folder}", json={"trashed": True})
    assert (await call("DELETE", "/drive/v3/files/trash")).status == 204
    assert (await call("GET", f"/drive/v3/files/{inside}")).status == 404


async def test_pages_and_order(call: Raw) -> None:
    for n in range(7):
        await call.put(f"f{n}", b"1" * (10 - n))
    seen, token = [], ""
    while True:
        params = {
            "pageSize": "3",
            "orderBy": "name desc",
            "q": "name contains 'f'",
            "fields": "nextPageToken,files/name",
        }
        page = (await call("GET", "/drive/v3/files", params=params | ({"pageToken": token} if token else {}))).json
        seen.append([one["name"] for one in page["files"]])
        if (token := page.get("nextPageToken", "")) == "":
            break
    assert seen == [["f6", "f5", "f4"], ["f3", "f2", "f1"], ["f0"]]
    assert (await call.list("name contains 'f'", orderBy="quotaBytesUsed"))[0] == "f6"
    for name, value in (
        ("pageToken", "x"),
        ("orderBy", "nonsense"),
        ("pageSize", "0"),
        ("pageSize", "1001"),
        ("corpora", "x"),
    ):
        assert (await call("GET", "/drive/v3/files", params={name: value})).status == 400


async def test_masks(call: Raw, folder: str) -> None:
    one = f"/drive/v3/files/{folder}?fields="
    assert (await call("GET", one + "name,owners(emailAddress),capabilities/canEdit")).json == {
        "name": "Models",
        "owners": [{"emailAddress": "ann@example.org"}],
        "capabilities": {"canEdit": True},
    }
    for wrong in ("nonsense", "name,", "name)", "(name", "files(name"):
        answer = await call("GET", one + wrong)
        assert (answer.status, answer.reason) == (400, "invalidParameter")
    assert (await call("GET", "/drive/v3/about")).status == 400


async def test_moving(call: Raw, folder: str) -> None:
    id = await call.put("x", b"1")
    address = f"/drive/v3/files/{id}"
    twice = await call("PATCH", address, params={"addParents": folder}, json={})
    assert (twice.status, twice.reason) == (403, "multipleParentsNotSupported")
    moved = await call(
        "PATCH", address, params={"addParents": folder, "removeParents": "root", "fields": "parents"}, json={}
    )
    assert moved.json == {"parents": [folder]}
    assert (await call("PATCH", address, json={"parents": ["root"]})).reason == "fieldNotWritable"
    inside = await call.file(name="in", mimeType=FOLDER, parents=[folder])
    cycle = await call(
        "PATCH", f"/drive/v3/files/{folder}", params={"addParents": inside, "removeParents": "root"}, json={}
    )
    assert cycle.status == 403
    assert (await call.multipart({"name": "y", "parents": [id]}, b"")).status == 403  # not a folder
    assert (await call.multipart({"name": "y", "parents": [folder, inside]}, b"")).status == 400


async def test_shared_drives(call: Raw, drive_server: DriveServer) -> None:
    members = {"ann@example.org": "fileOrganizer", "bob@example.org": "reader"}
    shared = drive_server.shared_drive("Team", members)
    refused = await call.multipart({"name": "x", "parents": [shared]}, b"1")
    assert refused.status == 404  # the client did not say that it knows shared drives
    made = await call.multipart({"name": "x", "parents": [shared]}, b"1", "&supportsAllDrives=true&fields=*")
    assert made.json["driveId"] == shared
    assert "owners" not in made.json
    id = made.json["id"]
    assert await call.list("name='x'") == []
    assert await call.list("name='x'", **DRIVES, corpora="allDrives") == ["x"]
    assert await call.list(f"'{shared}' in parents", **DRIVES, corpora="drive", driveId=shared) == ["x"]
    assert (await call("DELETE", f"/drive/v3/files/{id}?supportsAllDrives=true")).status == 403  # organizers may
    async with raw(drive_server.account("bob@example.org", scope="drive")) as bob:
        read = await bob("GET", f"/drive/v3/files/{id}?supportsAllDrives=true&alt=media")
        assert read.body == b"1"
        wrote = await bob("PATCH", f"/drive/v3/files/{id}?supportsAllDrives=true", json={"name": "y"})
        assert (wrote.status, wrote.reason) == (403, "insufficientFilePermissions")
    async with raw(drive_server.account("eve@example.org", scope="drive")) as eve:
        assert (await eve("GET", f"/drive/v3/files/{id}?supportsAllDrives=true")).status == 404
        assert (await eve("GET", "/drive/v3/drives")).json["drives"] == []
    folder = await call.file(name="F", mimeType=FOLDER)
    into = {"addParents": shared, "removeParents": "root", "supportsAllDrives": "true"}
    moved = await call("PATCH", f"/drive/v3/files/{folder}", params=into, json={})
    assert (moved.status, moved.reason) == (403, "teamDrivesFolderMoveInNotSupported")
    mine = await call.put("mine", b"12345")
    moved = await call("PATCH", f"/drive/v3/files/{mine}", params=into | {"fields": "driveId"}, json={})
    assert moved.json == {"driveId": shared}
    about = (await call("GET", "/drive/v3/about?fields=storageQuota")).json["storageQuota"]
    assert about["usage"] == "0"  # a shared drive's bytes are nobody's


async def test_shortcuts_and_docs(call: Raw, folder: str) -> None:
    target = await call.put("x", b"1")
    short = "application/vnd.google-apps.shortcut"
    id = await call.file(name="s", mimeType=short, shortcutDetails={"targetId": target})
    told = (await call("GET", f"/drive/v3/files/{id}?fields=*")).json
    assert told["shortcutDetails"] == {"targetId": target, "targetMimeType": "application/octet-stream"}
    assert not {"size", "md5Checksum", "headRevisionId"} & set(told)
    nowhere = await call("POST", "/drive/v3/files", json={"mimeType": short, "shortcutDetails": {"targetId": "no"}})
    assert nowhere.status == 404


async def test_changes(call: Raw, folder: str) -> None:
    start = (await call("GET", "/drive/v3/changes/startPageToken")).json["startPageToken"]
    one, two = await call.put("one", b"1"), await call.put("two", b"2")
    await call("PATCH", f"/drive/v3/files/{one}", json={"name": "uno"})
    await call("DELETE", f"/drive/v3/files/{two}")
    mask = "nextPageToken,newStartPageToken,changes(fileId,removed,file/name)"
    page = (await call("GET", "/drive/v3/changes", params={"pageToken": start, "pageSize": "1", "fields": mask})).json
    assert page["changes"] == [{"fileId": one, "removed": False, "file": {"name": "uno"}}]
    assert "newStartPageToken" not in page
    page = (await call("GET", "/drive/v3/changes", params={"pageToken": page["nextPageToken"], "fields": mask})).json
    assert page["changes"] == [{"fileId": two, "removed": True}]
    page = (await call("GET", "/drive/v3/changes", params={"pageToken": page["newStartPageToken"]})).json
    assert page["changes"] == []
    assert (await call("GET", "/drive/v3/changes", params={"pageToken": "999"})).status == 400
    assert (await call("GET", "/drive/v3/changes")).status == 400


NAMES = st.text(min_size=1, max_size=20)


@given(name=NAMES, other=NAMES)
def test_any_name_can_be_asked_for(name: str, other: str) -> None:
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    asked = query.parse(f"name = '{quoted}' and trashed = false or name = 'never'")
    scene = query.Scene(_Still(), "me", "client", "root")  # type: ignore[arg-type]
    assert asked.test(scene, Item("1", name, "m", []))
    assert asked.test(scene, Item("1", other, "m", [])) == (other.lower() in (name.lower(), "never"))


class _Still:
    """Items of which none is in the trash."""

    def in_trash(self, item: Item) -> bool:
        return False


MASKS = st.recursive(
    st.none(),
    lambda below: st.dictionaries(st.sampled_from(["a", "b", "c2"]), below, min_size=1, max_size=3),
    max_leaves=8,
)


def write(mask: fields.Mask) -> str:
    return ",".join(name if below is None else f"{name}({write(below)})" for name, below in mask.items())


@given(mask=MASKS.filter(lambda mask: mask is not None))
def test_masks_are_read_as_written(mask: fields.Mask) -> None:
    assert fields.parse(write(mask)) == mask


@given(text=st.text(alphabet="ab(),/* ", max_size=12))
def test_any_mask_is_read_or_refused(text: str) -> None:
    try:
        fields.cut({"a": {"b": 1}, "b": [{"a": 2}]}, fields.parse(text))
    except ApiError as error:
        assert error.status == 400
