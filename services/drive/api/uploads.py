"""Files up to Drive: a small one in one request, a large one through a session that outlives this process.

https://developers.google.com/workspace/drive/api/guides/manage-uploads
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.drive.api import wire
from services.drive.api.http import Http
from services.drive.api.journal import Entry, Journal, Upload
from services.drive.api.pacing import EDIT
from services.drive.api.reading import Source, Threads
from services.drive.api.sending import Body, multipart, query
from services.drive.api.session import Gone, Session
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile, OnBytes
from services.drive.errors import Corrupted, DriveRefused

SMALL = 2 << 20  # up to here one request, sent anew when it breaks; a session costs one request more
_FRESH_STARTS = 4  # how often an upload may begin anew: lost sessions, taken ids, corrupted copies

Get = Callable[[str], Awaitable[DriveFile | None]]


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
        source = await Source.opened(local, threads)
        with contextlib.ExitStack() as stack:
            try:
                entry = stack.enter_context(self._journal.entry(local, parent, name, replace))
                one = One(self, source, entry, name, parent, replace, on_bytes, threads)
                return await one.upload()
            finally:
                await source.close()


class One:
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
        self.threads = threads
        self.http = uploads.http
        self.source = source
        self._entry = entry
        self.replace = replace
        self._name, self._parent = name, parent
        self.what = f"sending {source.path.name}"
        self._on_bytes = on_bytes
        self._shown = 0  # bytes that on_bytes has heard of, all in all
        self.noted = Upload(source.identity)

    async def upload(self) -> DriveFile:
        """Send it, or find that it lies there already. Verified."""
        noted = self._entry.load(self.source.identity)
        if noted is not None:
            self.noted = noted
            if (file := await self.there()) is not None:
                return self._finished(file)
            if noted.sha256:  # it had arrived, and was changed or trashed since: that one is let alone
                self.note(id="", address="")
        for _ in range(_FRESH_STARTS):
            try:
                file = await (self._small() if self.source.size <= SMALL else Session(self).send())
                if await self._arrived(file):
                    return self._finished(file)
                self.note(id="", address="")
            except Gone:  # under the same id: should the file be there after all, Drive will say so
                self.note(id=self.noted.id, address="")
            except DriveRefused as refusal:
                if refusal.status != 409 or self.replace:
                    raise
                if (found := await self.there()) is not None:
                    return self._finished(found)
                if await self._up.get(self.noted.id) is not None:  # our own earlier try, which arrived corrupted
                    await self._up.trash(self.noted.id)
                self.note(id="", address="")
            self.show(0)
        raise Corrupted(
            f"{self.source.path} did not arrive on Google Drive as it is, in {_FRESH_STARTS} tries.",
            hint="Something between here and Google changes the bytes: check the network and the disk.",
        )

    # what is known

    def note(self, *, id: str, address: str, sha256: str = "") -> None:
        """Keep what is known for this process or another one."""
        self.noted = Upload(self.source.identity, id, address, self.noted.begun or time.time(), sha256)
        self._entry.save(self.noted, flush=bool(address))

    async def metadata(self) -> dict[str, object]:
        """What goes before the bytes. A new file's id is noted before anything is sent under it."""
        if self.replace:
            return {}
        if not self.noted.id:
            self.note(id=await self._up.new_id(), address="")
        return {"id": self.noted.id, "name": self._name, "parents": [self._parent]}

    def show(self, at: int) -> None:
        """``at`` bytes are on their way or there, all in all."""
        if at != self._shown:
            self._on_bytes(at - self._shown)
            self._shown = at

    def told(self, n: int) -> None:
        """So many more bytes were given to the line; a negative number takes them back."""
        self.http.stats.sent_bytes += max(0, n)
        self.show(self._shown + n)

    async def there(self) -> DriveFile | None:
        """The file, when an earlier try has brought it to Drive whole."""
        id = self.replace or self.noted.id
        file = await self._up.get(id) if id else None
        if file is None or file.trashed or file.size != self.source.size:
            return None
        return file if await self._same(file) else None

    async def _same(self, file: DriveFile) -> bool:
        """Whether Drive's checksum is that of the bytes read here."""
        sha256 = await self.source.sha256()
        if not file.sha256 and not file.md5:
            file = await self._up.get(file.id) or file
        if file.sha256:
            return file.sha256 == sha256
        return bool(file.md5) and file.md5 == await self.source.md5()

    def _finished(self, file: DriveFile) -> DriveFile:
        self.show(self.source.size)
        self.note(id=file.id, address="", sha256=file.sha256)
        return file

    async def _arrived(self, file: DriveFile) -> bool:
        """Whether it arrived as it is; else the copy is removed. One that was replaced is sent again instead."""
        whole = False
        try:
            whole = await self._same(file) or await self.there() is not None  # it may be the answer that is corrupted
            if not whole:
                self.http.stats.last_trouble = f"{self.what}: the bytes arrived corrupted"
        finally:  # also when the local file changed meanwhile: then what arrived is a mixture
            if not whole and not self.replace:
                await self._up.delete(self.noted.id)
        return whole

    # small: one request

    async def _small(self) -> DriveFile:
        patience = self.http.patience(self.what)
        metadata = await self.metadata()
        boundary, head, tail = multipart(metadata)
        while True:
            body = Body(self.source, 0, self.source.size, self.told, stall=self.http.retry.stall, head=head, tail=tail)
            try:
                answer = await self.http.once(
                    "PATCH" if self.replace else "POST",
                    wire.upload_path(self.replace),
                    what=self.what,
                    units=EDIT,
                    params=query("multipart"),
                    headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                    body=body.armed,
                    create=not self.replace,
                )
                return wire.decode(answer.body, wire.File).file()
            except Trouble as trouble:
                if body.error is not None:
                    raise body.error from None
                await patience.after(trouble)
                if trouble.sent and (file := await self.there()) is not None:
                    return file
                self.show(0)
