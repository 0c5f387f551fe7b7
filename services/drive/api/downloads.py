"""Files down from Drive: a small one at once, a large one in parallel ranges; verified before it gets its name.

https://developers.google.com/workspace/drive/api/guides/manage-downloads
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from services.drive.api import wire
from services.drive.api.http import Http
from services.drive.api.pacing import DOWNLOAD
from services.drive.api.parts import Part
from services.drive.api.placing import place, room
from services.drive.api.reading import BLOCK, Threads
from services.drive.api.receiving import ALONE, TOGETHER, blocks
from services.drive.api.trouble import Trouble
from services.drive.api.types import DriveFile, OnBytes
from services.drive.errors import Corrupted
from services.errors import BadInput

_SMALL = 1 << 20  # up to here a file is fetched into memory
_LINES = 4  # ranges of one file under way at once
_LOOK = 0.5  # seconds after which it is seen how fast one line is
_FAST = 200e6  # bytes a second of one line that more lines would hardly better
_RANGE = 32 << 20  # bytes of a range at least: each costs as much quota as forty small requests
_RANGES = 16  # into so many a very large file is cut
_TRIES = 3  # whole tries of a file that arrives corrupted


class Downloads:
    """Fetches files. ``lines`` bounds the ranges of all files that are under way at once, and so the memory."""

    def __init__(self, http: Http, state: Path, threads: Callable[[], Threads], lines: int) -> None:
        self._http = http
        self._state = state
        self._threads = threads
        self._lines = asyncio.Semaphore(lines)
        self._receiving = 0  # lines that receive

    async def download(self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool, flush_name: bool) -> str:
        """See ``DriveClient.download``."""
        if file.size is None or not (file.sha256 or file.md5):
            raise BadInput(
                f"{file.name} can't be fetched: it has no bytes on Google Drive that could be checked.",
                hint="Google's own documents are exported in the browser.",
            )
        threads = self._threads()
        if named(local) and (digest := await threads.run(already, local, file)):
            on_bytes(file.size)
            return digest
        for _ in range(_TRIES):
            fetch = self._small if file.size <= _SMALL else self._large
            digest = await fetch(file, local, on_bytes, abuse, flush_name, threads)
            if digest:
                return digest
            self._http.stats.last_trouble = f"fetching {file.name}: the bytes arrived corrupted"
        raise Corrupted(
            f"{file.name} does not arrive as Google Drive's checksum says, in {_TRIES} tries; nothing was kept.",
            hint="If it was changed on Drive meanwhile, refresh and fetch it again.",
        )

    async def _large(
        self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool, flush_name: bool, threads: Threads
    ) -> str:
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
                await part.finish(flush_name)
            else:
                part.forget()
                on_bytes(-shown)
            return digest
        finally:
            await part.close()

    async def _ranges(self, file: DriveFile, part: Part, on_bytes: OnBytes, abuse: bool) -> None:
        """All that is missing, from the start on: on one line, and on a few at once when that one is not fast.

        What comes in order is hashed as it comes; what comes ahead of its turn has to be read again for that.
        """
        most = max(_RANGE, -(-part.size // _RANGES // BLOCK) * BLOCK)
        missing = iter(part.gaps(most))

        async def line() -> None:
            for at, end in missing:
                async with self._lines:
                    await self._range(file, part, at, end, on_bytes, abuse)

        had = part.have
        lines = [asyncio.create_task(line())]
        try:
            await asyncio.wait(lines, timeout=_LOOK)
            if part.have - had <= _FAST * _LOOK and part.size > most:
                lines += [asyncio.create_task(line()) for _ in range(_LINES - 1)]
            await asyncio.gather(*lines)
        finally:
            for task in lines:
                task.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    async def _range(self, file: DriveFile, part: Part, at: int, end: int, on_bytes: OnBytes, abuse: bool) -> None:
        """One range, gone on from where it broke."""
        patience = self._http.patience(f"fetching {file.name}")

        def kept(n: int) -> None:
            nonlocal at
            at += n
            patience.progress()
            on_bytes(n)

        while at < end:
            try:
                await self._receive(file, part, at, end, abuse, kept)
            except Trouble as trouble:
                await patience.after(trouble)

    async def _receive(self, file: DriveFile, part: Part, at: int, end: int, abuse: bool, kept: OnBytes) -> None:
        """One request for the bytes from ``at`` to ``end``: some blocks are written and hashed while more arrive.

        ``kept`` hears of what is written. When the line breaks, what came before is written all the same. Raises
        Trouble.
        """
        busy: deque[asyncio.Future[int]] = deque()
        came = 0
        self._receiving += 1
        room = ALONE if self._receiving == 1 else TOGETHER
        try:
            async with (
                self._opened(file, at, end, abuse) as response,
                contextlib.aclosing(blocks(response, end - at, self._http.retry.stall, room)) as arriving,
            ):
                async for data in arriving:
                    busy.append(part.take(at + came, data))
                    came += len(data)
                    self._http.stats.received_bytes += len(data)
                    while busy and (busy[0].done() or len(busy) > room.ahead):
                        await asyncio.wait([busy[0]])  # not itself: cancelled, it would cancel it
                        kept(busy.popleft().result())
        finally:
            self._receiving -= 1
            while busy:
                await asyncio.wait([busy[0]])
                kept(busy.popleft().result())
        if at + came < end:
            raise Trouble("the answer was too short")

    @contextlib.asynccontextmanager
    async def _opened(self, file: DriveFile, at: int, end: int, abuse: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer that holds these bytes and begins with the first of them."""
        whole = at == 0 and end == file.size
        params = {"alt": "media", "supportsAllDrives": "true", **({"acknowledgeAbuse": "true"} if abuse else {})}
        headers = {"Accept-Encoding": "identity"} | ({} if whole else {"Range": f"bytes={at}-{end - 1}"})
        async with self._http.opened(
            "GET",
            wire.file_path(file.id),
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

    async def _small(
        self, file: DriveFile, local: Path, on_bytes: OnBytes, abuse: bool, flush_name: bool, threads: Threads
    ) -> str:
        """A file that is fetched into memory first."""
        assert file.size is not None
        patience = self._http.patience(f"fetching {file.name}")
        data = bytearray()
        while len(data) < file.size:
            try:
                async with self._opened(file, len(data), file.size, abuse) as response:
                    async for more in response.content.iter_any():
                        more = more[: file.size - len(data)]
                        data += more
                        self._http.stats.received_bytes += len(more)
                        on_bytes(len(more))
                if len(data) < file.size:
                    raise Trouble("the answer was too short")
            except Trouble as trouble:
                await patience.after(trouble)
        digest = await place(local, data, file, flush_name, threads)
        if not digest:
            on_bytes(-len(data))
        return digest


def named(local: Path) -> bool:
    """Whether anything has that name: asked at once, to save most files a turn in a thread."""
    return os.path.lexists(local)


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
