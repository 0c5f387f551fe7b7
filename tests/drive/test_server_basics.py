"""The test server as a client meets it first."""

from __future__ import annotations

import aiohttp

from tests.drive_bed.serve import DriveServer


async def test_a_file_goes_up_and_comes_back(drive_server: DriveServer) -> None:
    ann = drive_server.account()
    auth = {"Authorization": "Bearer " + ann.access_token()}
    async with aiohttp.ClientSession(drive_server.url, headers=auth) as http:
        up = await http.post("/upload/drive/v3/files?uploadType=media", data=b"hello")
        id = (await up.json())["id"]
        down = await http.get(f"/drive/v3/files/{id}?alt=media")
        assert await down.read() == b"hello"
    assert [held.read() for held in drive_server.files] == [b"hello"]
    assert [(one.method, one.status, one.units) for one in drive_server.requests] == [
        ("POST", 200, 50),
        ("GET", 200, 200),
    ]
