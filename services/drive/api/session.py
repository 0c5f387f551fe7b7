"""A resumable upload: a session of Drive that takes a file in chunks, and outlives the process that began it.

https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable
"""

from __future__ import annotations

import time
import urllib.parse
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from services.drive.api import wire
from services.drive.api.http import Answer, Patience
from services.drive.api.pacing import EDIT
from services.drive.api.sending import Body, query
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile
from services.drive.errors import DriveRefused
from services.errors import StoreUnreachable

if TYPE_CHECKING:
    from services.drive.api.uploads import One

_STEP = 256 << 10  # chunks of a session are multiples of this
_FIRST, _LEAST, _MOST = 8 << 20, 1 << 20, 256 << 20  # bytes of a chunk
_SECONDS = 10.0  # what a chunk should take


class Gone(Exception):
    """Drive knows the session no more."""


class Session:
    """The session of one file on its way up."""

    def __init__(self, one: One) -> None:
        self._one = one
        self._http = one.http
        self._source = one.source

    async def send(self) -> DriveFile:
        """Through the noted session, or a new one. Raises Gone when Drive has forgotten the session."""
        patience = self._http.patience(self._one.what)
        at: int | None = None if self._one.noted.address else 0
        if at == 0:
            await self._begin(patience)
        chunk = _FIRST
        while True:
            try:
                if at is None:
                    found = await self._probe()
                    if isinstance(found, DriveFile):
                        return found
                    at = found
                    self._one.show(at)
                await self._source.hash_to(at)
                begun = time.monotonic()
                end = min(self._source.size, at + chunk)
                reached = await self._chunk(at, end)
                if isinstance(reached, DriveFile):
                    return reached
                if reached > at:
                    patience.progress()
                    chunk = _next_chunk(chunk, reached - at, time.monotonic() - begun)
                else:
                    await patience.after(Trouble("nothing of a chunk was kept"))
                at = reached
                self._one.show(at)
            except Trouble as trouble:
                at = None
                chunk = max(_LEAST, chunk // 4)
                await patience.after(trouble)

    async def _begin(self, patience: Patience) -> None:
        """Open a session and note its address before anything is sent to it."""
        metadata = await self._one.metadata()
        while True:
            try:
                answer = await self._http.once(
                    "PATCH" if self._one.replace else "POST",
                    wire.upload_path(self._one.replace),
                    what=self._one.what,
                    units=EDIT,
                    params=query("resumable"),
                    headers={
                        "Content-Type": "application/json; charset=UTF-8",
                        "X-Upload-Content-Type": "application/octet-stream",
                        "X-Upload-Content-Length": str(self._source.size),
                    },
                    body=msgspec.json.encode(metadata),
                    create=not self._one.replace,
                )
            except Trouble as trouble:
                await patience.after(trouble)
                continue
            address = answer.headers.get("Location", "")
            if urllib.parse.urlsplit(address).scheme != urllib.parse.urlsplit(self._http.root).scheme:
                raise StoreUnreachable(
                    f"Google Drive opened no upload session; {self._one.what} can't begin.", hint="Check [drive] api."
                )
            await self._one.threads.run(
                partial(self._one.note, id=self._one.noted.id, address=address)
            )  # flushes to the disk
            return

    async def _probe(self) -> int | DriveFile:
        """How many bytes the session has, or the file when it has them all."""
        return self._reached(await self._put(b"", f"bytes */{self._source.size}"))

    async def _chunk(self, at: int, end: int) -> int | DriveFile:
        body = Body(self._source, at, end, self._one.told, stall=self._http.retry.stall)
        try:
            answer = await self._put(body, f"bytes {at}-{end - 1}/{self._source.size}")
        except Trouble:
            if body.error is not None:
                raise body.error from None
            raise
        return self._reached(answer)

    async def _put(self, body: Body | bytes, content_range: str) -> Answer:
        try:
            return await self._http.once(
                "PUT",
                self._one.noted.address,
                what=self._one.what,
                units=0,
                headers={"Content-Range": content_range, "Content-Type": "application/octet-stream"},
                body=body if isinstance(body, bytes) else body.armed,
                ok=(200, 201, 308),
            )
        except DriveRefused as refusal:
            if refusal.status in (404, 410):
                if (file := await self._one.there()) is not None:  # finished, and the session is forgotten
                    return Answer(200, {}, msgspec.json.encode({"id": file.id}))
                raise Gone from None
            raise

    def _reached(self, answer: Answer) -> int | DriveFile:
        if answer.status != 308:
            return wire.decode(answer.body, wire.File).file()
        kept = answer.headers.get("Range", "")  # "bytes=0-524287"; none when the session is empty
        last = kept.rpartition("-")[2]
        reached = int(last) + 1 if last.isdigit() else 0
        if reached >= self._source.size:
            raise Trouble("all bytes are there, but the file is not made yet")
        return reached


def _next_chunk(chunk: int, sent: int, seconds: float) -> int:
    """So many bytes that they take about ten seconds, at most four times as many as now."""
    wanted = min(sent / max(seconds, 1e-3) * _SECONDS, chunk * 4, _MOST)
    return max(_LEAST, int(wanted) // _STEP * _STEP)
