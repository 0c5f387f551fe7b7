"""Files down from Drive: a small one at once, a large one in parallel ranges; verified before it gets its name.

https://developers.google.com/workspace/drive/api/guides/manage-downloads
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import aiohttp

from services import formats
from services.drive.api.http import Http
from services.drive.api.pacing import DOWNLOAD
from services.drive.api.parts import Part, place
from services.drive.api.reading import BLOCK, Threads
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile, OnBytes
from services.drive.errors import Corrupted
from services.errors import BadInput, HybridError

FILES_PATH = "/drive/v3/files"
_SMALL = 1 << 20  # up to here a file is fetched into memory
_LINES = 4  # ranges of one file under way at once
_RANGE = 32 << 20  # bytes of a range at least: each costs as much quota as forty small requests
_RANGES = 16  # into so many a very large file is cut
_SPARE = 64 << 20  # bytes that stay free on the disk
_TRIES = 3  # whole tries of a file that arrives corrupted


class Downloads:
    """Fetches files. ``lines`` bounds the ranges of all files that are under way at once, and so the memory."""

    def __init__(self, http: Http, state: Path, threads: Callable[[], Threads], lines: int) -> None:
        self._http = http
        self._state = state
        self._threads = threads
        self._lines = asyncio.Semaphore(lines)

    async def download(self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool) -> str:
        """See ``DriveClient.download``."""
        if file.size is None or not (file.sha256 or file.md5):
            raise BadInput(
                f"{file.name} can't be fetched: it has no bytes on Google Drive that could be checked.",
                hint="Google's own documents are exported in the browser.",
            )
        threads = self._threads()
        if digest := await threads.run(already, local, file):
            on_bytes(file.size)
            return digest
        for _ in range(_TRIES):
            fetch = self._small if file.size <= _SMALL else self._large
            digest = await fetch(file, local, on_bytes, abuse, threads)
            if digest:
                return digest
            self._http.stats.last_trouble = f"fetching {file.name}: the bytes arrived corrupted"
        raise Corrupted(
            f"{file.name} does not arrive as Google Drive's checksum says, in {_TRIES} tries; nothing was kept.",
            hint="If it was changed on Drive meanwhile, refresh and fetch it again.",
        )

    async def _large(self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool, threads: Threads) -> str:
        """Fetch what is missing and check the whole: its sha256, "" (and nothing is kept) when it is wrong."""
        part = await threads.run(Part, local, file, self._state, threads)
        shown = part.have
        try:
            await threads.run(room, local, part.size - part.have)
            on_bytes(part.have)

            def told(n: int) -> None:
                nonlocal shown
                shown += n
                on_bytes(n)

            await self._ranges(file, part, told, abuse)
            digest = await part.verified()
            if digest:
                await part.finish()
            else:
                part.forget()
                on_bytes(-shown)
            return digest
        finally:
            await part.close()

    async def _ranges(self, file: DriveFile, part: Part, on_bytes: OnBytes, abuse: bool) -> None:
        """All that is missing, from the start on, on a few lines at once."""
        most = max(_RANGE, -(-part.size // _RANGES // BLOCK) * BLOCK)
        missing = iter(part.gaps(most))

        async def line() -> None:
            for at, end in missing:
                async with self._lines:
                    await self._range(file, part, at, end, on_bytes, abuse)

        lines = [asyncio.create_task(line()) for _ in range(min(_LINES, -(-part.size // most)))]
        try:
            await asyncio.gather(*lines)
        finally:
            for task in lines:
                task.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    async def _range(self, file: DriveFile, part: Part, at: int, end: int, on_bytes: OnBytes, abuse: bool) -> None:
        """One range, gone on from where it broke."""
        patience = self._http.patience(f"fetching {file.name}")

        async def write(data: bytes) -> None:
            nonlocal at
            await part.write(at, data)
            at += len(data)
            patience.progress()
            on_bytes(len(data))

        while at < end:
            try:
                await self._receive(file, at, end, abuse, write)
            except Trouble as trouble:
                await patience.after(trouble)

    async def _receive(
        self, file: DriveFile, at: int, end: int, abuse: bool, write: Callable[[bytes], Coroutine[None, None, None]]
    ) -> None:
        """One request for the bytes from ``at`` to ``end``: one block is written while the next arrives.

        When the line breaks, what came before is written all the same. Raises Trouble.
        """
        writing: asyncio.Task[None] | None = None
        waiting: list[bytes] = []
        size = 0
        try:
            async with self._opened(file, at, end, abuse) as response:
                async for data in response.content.iter_any():
                    data = data[: end - at - size]
                    waiting.append(data)
                    size += len(data)
                    self._http.stats.received_bytes += len(data)
                    if size >= BLOCK:
                        if writing is not None:
                            await writing
                        writing = asyncio.create_task(write(b"".join(waiting)))
                        at, size = at + size, 0
                        waiting.clear()
                    if at + size == end:
                        break
        finally:
            if writing is not None:
                await writing
            if waiting:
                await write(b"".join(waiting))
        if at + size < end:
            raise Trouble("the answer was too short")

    @contextlib.asynccontextmanager
    async def _opened(self, file: DriveFile, at: int, end: int, abuse: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer that holds these bytes and begins with the first of them."""
        whole = at == 0 and end == file.size
        params = {"alt": "media", "supportsAllDrives": "true", **({"acknowledgeAbuse": "true"} if abuse else {})}
        headers = {"Accept-Encoding": "identity"} | ({} if whole else {"Range": f"bytes={at}-{end - 1}"})
        async with self._http.opened(
            "GET",
            f"{FILES_PATH}/{file.id}",
            what=f"fetching {file.name}",
            units=DOWNLOAD,
            params=params,
            headers=headers,
            ok=(200, 206),
        ) as response:
            given = response.headers.get("Content-Range", "")
            begins = int(first) if (first := given.removeprefix("bytes ").partition("-")[0]).isdigit() else 0
            if begins != at:
                response.close()
                raise Trouble("the answer holds other bytes than those asked for")
            yield response

    async def _small(self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool, threads: Threads) -> str:
        """A file that is fetched into memory first."""
        assert file.size is not None
        patience = self._http.patience(f"fetching {file.name}")
        data = bytearray()

        async def keep(more: bytes) -> None:
            data.extend(more)
            on_bytes(len(more))

        await threads.run(room, local, file.size)
        while len(data) < file.size:
            try:
                await self._receive(file, len(data), file.size, abuse, keep)
            except Trouble as trouble:
                await patience.after(trouble)
        digest = await threads.run(place, local, data, file)
        if not digest:
            on_bytes(-len(data))
        return digest


def already(local: Path, file: DriveFile) -> str:
    """The sha256 of ``local`` when it holds the file's bytes, else "". Blocking."""
    try:
        if local.stat().st_size != file.size:
            return ""
        with local.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if file.sha256:
                return digest if digest == file.sha256 else ""
            opened.seek(0)
            return digest if hashlib.file_digest(opened, "md5").hexdigest() == file.md5 else ""
    except OSError:
        return ""


def room(local: Path, needed: int) -> None:
    """Raises HybridError when the disk of ``local`` has no room for so many bytes more. Blocking."""
    there = next((p for p in local.absolute().parents if p.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free
    if needed and free < needed + _SPARE:
        raise HybridError(
            f"{local} needs {formats.size(needed)} more, and the disk has {formats.size(free)} free.",
            hint="Free some space (storage.items shows what can go); what came so far is kept.",
        )
