"""Bare calls to the server, for its own tests: no retries, no cleverness, the answer as it came."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.drive_bed.serve import Account

FOLDER = "application/vnd.google-apps.folder"


@dataclass(frozen=True)
class Reply:
    """An answer. ``json`` raises ValueError when the body is none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The API's word for an error."""
        return str(self.json["error"]["errors"][0]["reason"])


class Raw:
    """Calls with one account's access token."""

    def __init__(self, http: aiohttp.ClientSession, account: Account) -> None:
        self.http, self.account = http, account

    async def __call__(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Reply:
        async with self.http.request(method, path, headers=headers, allow_redirects=False, **more) as answer:
            body = await answer.read()
            return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)

    async def file(self, **metadata: Any) -> str:
        """Create an item without content; returns its id."""
        return str((await self("POST", "/drive/v3/files", json=metadata)).json["id"])

    async def put(self, name: str, content: bytes, **metadata: Any) -> str:
        """Create a small file; returns its id."""
        return str((await self.multipart({"name": name, **metadata}, content)).json["id"])

    async def multipart(self, metadata: dict[str, Any], content: bytes, query: str = "") -> Reply:
        """files.create with metadata and content in one request."""
        head = json.dumps(metadata).encode()
        body = b"--x\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n" + head
        body += b"\r\n--x\r\nContent-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--x--\r\n"
        path = "/upload/drive/v3/files?uploadType=multipart" + query
        return await self("POST", path, data=body, headers={"Content-Type": "multipart/related; boundary=x"})

    async def session(self, name: str, size: int | None = None, query: str = "", **metadata: Any) -> str:
        """Begin a resumable upload; returns its address."""
        headers = {} if size is None else {"X-Upload-Content-Length": str(size)}
        path = "/upload/drive/v3/files?uploadType=resumable" + query
        begun = await self("POST", path, json={"name": name, **metadata}, headers=headers)
        assert begun.status == 200, begun.body
        return begun.headers["location"]

    async def chunk(self, address: str, data: bytes, first: int, total: int | str, method: str = "PUT") -> Reply:
        """Send one chunk of an upload."""
        return await self(
            method, address, data=data, headers={"Content-Range": f"bytes {first}-{first + len(data) - 1}/{total}"}
        )

    async def progress(self, address: str, total: int | str = "*") -> Reply:
        """Ask how far an upload is."""
        return await self("PUT", address, headers={"Content-Range": f"bytes */{total}"})

    async def list(self, q: str = "", **query: str) -> list[str]:
        """The names that files.list finds, on one page."""
        answer = await self("GET", "/drive/v3/files", params={"q": q, "fields": "files(name)", **query})
        assert answer.status == 200, answer.body
        return [one["name"] for one in answer.json["files"]]


@asynccontextmanager
async def raw(account: Account) -> AsyncIterator[Raw]:
    """Calls as this account."""
    headers = {"Authorization": "Bearer " + account.access_token()}
    async with aiohttp.ClientSession(account.server.url, headers=headers) as http:
        http._retry_connection = False  # else aiohttp itself repeats a GET, PUT or DELETE whose connection broke
        yield Raw(http, account)
