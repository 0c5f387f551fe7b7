"""Small files from and to memory: a slot of the registry, its view, a manifest. Verified both ways."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping

from services.drive.api import wire
from services.drive.api.http import Http
from services.drive.api.pacing import DOWNLOAD, EDIT
from services.drive.api.sending import multipart, query
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile
from services.drive.errors import Corrupted, DriveRefused

_TRIES = 4  # of bytes that arrive corrupted
_HINT = "Something between here and Google changes the bytes: check the network."


class Small:
    """``get`` looks a file up by id."""

    def __init__(self, http: Http, get: Callable[[str], Awaitable[DriveFile | None]]) -> None:
        self._http = http
        self._get = get

    async def create(self, id: str, metadata: Mapping[str, object], data: bytes) -> bool:
        """See ``DriveClient.create``. ``metadata`` holds the id."""
        try:
            file: DriveFile | None = await self._send(
                "POST", wire.upload_path(), metadata, data, f"writing {metadata['name']}"
            )
        except DriveRefused as refusal:
            if refusal.status != 409:
                raise
            file = await self._get(id)
            return file is not None and same(file, data)
        if file is None or not same(file, data):  # what we made, under our id, is not what we sent
            await self.replace(id, data)
        return True

    async def replace(self, id: str, data: bytes) -> DriveFile:
        """See ``DriveClient.replace``."""
        for _ in range(_TRIES):
            file = await self._send("PATCH", wire.upload_path(id), {}, data, "writing a file")
            if same(file, data):
                return file
            self._http.stats.last_trouble = "writing a file: the bytes arrived corrupted"
        raise Corrupted("A small file does not arrive on Google Drive as it is.", hint=_HINT)

    async def _send(self, method: str, path: str, metadata: Mapping[str, object], data: bytes, what: str) -> DriveFile:
        boundary, head, tail = multipart(metadata)
        patience = self._http.patience(what)
        while True:
            try:
                answer = await self._http.once(
                    method,
                    path,
                    what=what,
                    units=EDIT,
                    params=query("multipart"),
                    headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                    body=head + data + tail,
                    create=method == "POST",
                )
                self._http.stats.sent_bytes += len(data)
                return wire.decode(answer.body, wire.File).file()
            except Trouble as trouble:
                await patience.after(trouble)

    async def read(self, id: str) -> bytes | None:
        """See ``DriveClient.read``. The checksum is asked for beside the bytes, not after them."""
        for _ in range(_TRIES):
            file, data = await asyncio.gather(self._get(id), self._media(id))
            if file is None or data is None:
                return None
            if same(file, data):
                return data
            self._http.stats.last_trouble = f"reading {file.name}: the bytes arrived corrupted"
        raise Corrupted(
            "A small file on Google Drive keeps arriving with other bytes than its checksum says.", hint=_HINT
        )

    async def _media(self, id: str) -> bytes | None:
        patience = self._http.patience("reading a file")
        while True:
            try:
                answer = await self._http.once(
                    "GET",
                    wire.file_path(id),
                    what="reading a file",
                    units=DOWNLOAD,
                    params={"alt": "media", "supportsAllDrives": "true"},
                    headers={"Accept-Encoding": "identity"},
                )
                self._http.stats.received_bytes += len(answer.body)
                return answer.body
            except DriveRefused as refusal:
                if refusal.status == 404:
                    return None
                raise
            except Trouble as trouble:
                await patience.after(trouble)


def same(file: DriveFile, data: bytes) -> bool:
    """Whether Drive's checksum of ``file`` is that of ``data``."""
    if file.sha256:
        return file.sha256 == hashlib.sha256(data).hexdigest()
    return bool(file.md5) and file.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
