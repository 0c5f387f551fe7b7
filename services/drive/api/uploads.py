"""Files up to Drive: a small one in one request, a large one through a session that outlives this process.

https://developers.google.com/workspace/drive/api/guides/manage-uploads
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from services.drive.api import wire
from services.drive.api.http import Answer, Http, Patience
from services.drive.api.journal import Entry, Journal, Upload
from services.drive.api.pacing import EDIT
from services.drive.api.reading import Source, Threads
from services.drive.api.sending import Body
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile, OnBytes
from services.drive.errors import Corrupted, DriveRefused
from services.errors import StoreUnreachable

PATH = "/upload/drive/v3/files"
SMALL = 2 << 20  # up to here one request, sent anew when it breaks; a session costs one request more
_STEP = 256 << 10  # chunks of a session are multiples of this
_FIRST, _LEAST, _MOST = 8 << 20, 1 << 20, 256 << 20  # bytes of a chunk
_SECONDS = 10.0  # what a chunk should take
_FRESH_STARTS = 4  # how often an upload may begin anew: lost sessions, taken ids, corrupted copies

Get = Callable[[str], Awaitable[DriveFile | None]]


class _Gone(Exception):
    """Drive knows the session no more."""


class Uploads:
    """Sends files. ``get``: a file by its id; ``delete`` and ``trash`` remove a copy of ours that arrived corrupted."""

    def __init__(
        self,
        http: Http,
        journal: Journal,
        threads: Callable[[], Threads],
        get: Get,
        new_id: Callable[[], Awaitable[str]],
        delete: Callable[[str], Awaitable[None]],
        trash: Callable[[str], Awaitable[None]],
    ) -> None:
        self.http = http
        self.get = get
        self.new_id = new_id
        self.delete = delete
        self.trash = trash
        self._journal = journal
        self._threads = threads

    async def upload(self, local: Path, name: str, parent: str, on_bytes: OnBytes, replace: str) -> DriveFile:
        """See ``DriveClient.upload``."""
        threads = self._threads()
        source = await threads.run(Source, local, threads)
        with contextlib.ExitStack() as stack:
            try:
                entry = stack.enter_context(self._journal.entry(local, parent, name, replace))
                one = _One(self, source, entry, name, parent, replace, on_bytes, threads)
                return await one.upload()
            finally:
                await source.close()


class _One:
    """One file on its way up."""

    def __init__(
        self,
        uploads: Uploads,
        source: Source,
        entry: Entry,
        name: str,
        parent: str,
        replace: str,
        on_bytes: OnBytes,
        threads: Threads,
    ) -> None:
        self._up = uploads
        self._threads = threads
        self._http = uploads.http
        self._source = source
        self._entry = entry
        self._replace = replace
        self._metadata: dict[str, object] = {} if replace else {"name": name, "parents": [parent]}
        self._what = f"sending {source.path.name}"
        self._on_bytes = on_bytes
        self._shown = 0  # bytes that on_bytes has heard of, all in all
        self._noted = Upload(source.identity)

    async def upload(self) -> DriveFile:
        """Send it, or find that it lies there already. Verified."""
        noted = self._entry.load(self._source.identity)
        if noted is not None:
            self._noted = noted
            if (file := await self._there()) is not None:
                return self._finished(file)
            if noted.sha256:  # it had arrived, and was changed or trashed since: that one is let alone
                self._note(id="", address="")
        for _ in range(_FRESH_STARTS):
            try:
                file = await (self._small() if self._source.size <= SMALL else self._large())
                if await self._arrived(file):
                    return self._finished(file)
                self._note(id="", address="")
            except _Gone:  # under the same id: should the file be there after all, Drive will say so
                self._note(id=self._noted.id, address="")
            except DriveRefused as refusal:
                if refusal.status != 409 or self._replace:
                    raise
                if (found := await self._there()) is not None:
                    return self._finished(found)
                if await self._up.get(self._noted.id) is not None:  # our own earlier try, which arrived corrupted
                    await self._up.trash(self._noted.id)
                self._note(id="", address="")
            self._show(0)
        raise Corrupted(
            f"{self._source.path} did not arrive on Google Drive as it is, in {_FRESH_STARTS} tries.",
            hint="Something between here and Google changes the bytes: check the network and the disk.",
        )

    # what is known

    def _note(self, *, id: str, address: str, sha256: str = "") -> None:
        self._noted = Upload(self._source.identity, id, address, self._noted.begun or time.time(), sha256)
        self._entry.save(self._noted, flush=bool(address))

    async def _named(self) -> str:
        """The id that the new file gets: noted before anything is sent under it."""
        if not self._noted.id:
            self._note(id=await self._up.new_id(), address="")
        return self._noted.id

    def _show(self, at: int) -> None:
        if at != self._shown:
            self._on_bytes(at - self._shown)
            self._shown = at

    def _told(self, n: int) -> None:
        self._http.stats.sent_bytes += max(0, n)
        self._show(self._shown + n)

    async def _there(self) -> DriveFile | None:
        """The file, when an earlier try has brought it to Drive whole."""
        id = self._replace or self._noted.id
        file = await self._up.get(id) if id else None
        if file is None or file.trashed or file.size != self._source.size:
            return None
        return file if await self._same(file) else None

    async def _same(self, file: DriveFile) -> bool:
        """Whether Drive's checksum is that of the bytes read here."""
        sha256 = await self._source.sha256()
        if not file.sha256 and not file.md5:
            file = await self._up.get(file.id) or file
        if file.sha256:
            return file.sha256 == sha256
        return bool(file.md5) and file.md5 == await self._source.md5()

    def _finished(self, file: DriveFile) -> DriveFile:
        self._show(self._source.size)
        self._note(id=file.id, address="", sha256=file.sha256)
        return file

    async def _arrived(self, file: DriveFile) -> bool:
        """Whether it arrived as it is; else the copy is removed. One that was replaced is sent again instead."""
        whole = False
        try:
            whole = await self._same(file) or await self._there() is not None  # it may be the answer that is corrupted
            if not whole:
                self._http.stats.last_trouble = f"{self._what}: the bytes arrived corrupted"
        finally:  # also when the local file changed meanwhile: then what arrived is a mixture
            if not whole and not self._replace:
                await self._up.delete(self._noted.id)
        return whole

    # small: one request

    async def _small(self) -> DriveFile:
        patience = self._http.patience(self._what)
        metadata = self._metadata if self._replace else {**self._metadata, "id": await self._named()}
        boundary, head, tail = multipart(metadata)
        while True:
            body = Body(
                self._source, 0, self._source.size, self._told, stall=self._http.retry.stall, head=head, tail=tail
            )
            try:
                answer = await self._http.once(
                    "PATCH" if self._replace else "POST",
                    f"{PATH}/{self._replace}" if self._replace else PATH,
                    what=self._what,
                    units=EDIT,
                    params=query("multipart"),
                    headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                    body=body.armed,
                    create=not self._replace,
                )
                return wire.decode(answer.body, wire.File).file()
            except Trouble as trouble:
                if body.error is not None:
                    raise body.error from None
                await patience.after(trouble)
                if trouble.sent and (file := await self._there()) is not None:
                    return file
                self._show(0)

    # large: a session

    async def _large(self) -> DriveFile:
        """Send through the noted session, or a new one. Raises _Gone when Drive has forgotten the session."""
        patience = self._http.patience(self._what)
        at: int | None = None if self._noted.address else 0
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
                    self._show(at)
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
                self._show(at)
            except Trouble as trouble:
                at = None
                chunk = max(_LEAST, chunk // 4)
                await patience.after(trouble)

    async def _begin(self, patience: Patience) -> None:
        """Open a session and note its address before anything is sent to it."""
        metadata = self._metadata if self._replace else {**self._metadata, "id": await self._named()}
        while True:
            try:
                answer = await self._http.once(
                    "PATCH" if self._replace else "POST",
                    f"{PATH}/{self._replace}" if self._replace else PATH,
                    what=self._what,
                    units=EDIT,
                    params=query("resumable"),
                    headers={
                        "Content-Type": "application/json; charset=UTF-8",
                        "X-Upload-Content-Type": "application/octet-stream",
                        "X-Upload-Content-Length": str(self._source.size),
                    },
                    body=msgspec.json.encode(metadata),
                    create=not self._replace,
                )
            except Trouble as trouble:
                await patience.after(trouble)
                continue
            address = answer.headers.get("Location", "")
            if not address:
                raise StoreUnreachable(
                    f"Google Drive opened no upload session; {self._what} can't begin.", hint="Check [drive] api."
                )
            await self._threads.run(partial(self._note, id=self._noted.id, address=address))  # flushes to the disk
            return

    async def _probe(self) -> int | DriveFile:
        """How many bytes the session has, or the file when it has them all."""
        return self._reached(await self._put(b"", f"bytes */{self._source.size}"))

    async def _chunk(self, at: int, end: int) -> int | DriveFile:
        body = Body(self._source, at, end, self._told, stall=self._http.retry.stall)
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
                self._noted.address,
                what=self._what,
                units=0,
                headers={"Content-Range": content_range, "Content-Type": "application/octet-stream"},
                body=body if isinstance(body, bytes) else body.armed,
                ok=(200, 201, 308),
            )
        except DriveRefused as refusal:
            if refusal.status in (404, 410):
                if (file := await self._there()) is not None:  # finished, and the session is forgotten
                    return Answer(200, {}, msgspec.json.encode({"id": file.id}))
                raise _Gone from None
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


def query(kind: str) -> dict[str, str]:
    """Parameters of an upload of this kind; its answer tells what the checks need."""
    return {"uploadType": kind, "fields": wire.FILE, "supportsAllDrives": "true"}


def multipart(metadata: Mapping[str, object]) -> tuple[str, bytes, bytes]:
    """Boundary, and what goes before and after a file's bytes in a multipart/related body."""
    boundary = uuid.uuid4().hex
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode()
        + msgspec.json.encode(metadata)
        + f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    )
    return boundary, head, f"\r\n--{boundary}--\r\n".encode()


def _next_chunk(chunk: int, sent: int, seconds: float) -> int:
    """So many bytes that they take about ten seconds, at most four times as many as now."""
    wanted = min(sent / max(seconds, 1e-3) * _SECONDS, chunk * 4, _MOST)
    return max(_LEAST, int(wanted) // _STEP * _STEP)
