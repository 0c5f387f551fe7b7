"""Files to and from a bucket: in parts, in little memory, compared with their checksums at both ends.

Going up, a file is read twice: once for its sha256, which the object carries as metadata from the moment it appears,
and once to send it. Coming down, a few ranges travel at once and are written in their order, so that what has come is
always a beginning of the file, which a later attempt goes on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

from services.drive.bucket_objects import Found, Objects
from services.drive.errors import Corrupted
from services.drive.partial import Partial, check_room, is_here
from services.drive.store import Copied, OnBytes, Source, Wanted
from services.errors import BadInput, HybridError, StoreUnreachable

PART = 8 << 20  # bytes of a part going up; S3's least is 5 MiB
RANGE = 4 << 20  # bytes of a part coming down, which takes twice its size in memory
_MOST_PARTS = 9000  # S3 allows 10,000
_UP, _DOWN = 3, 4  # parts on their way at once
_SMALL_AT_ONCE = 4
_ATTEMPTS = 3


async def upload(
    objects: Objects, sources: Sequence[Source], folder: str, told: OnBytes, *, replace: bool
) -> list[Copied]:
    """Send ``sources`` below ``folder``; see ``Store.put_files``. Small files travel beside each other, large ones one
    after the other."""
    slots = asyncio.Semaphore(_SMALL_AT_ONCE)
    done: dict[int, Copied] = {}

    async def send(i: int, source: Source) -> None:
        async with slots:
            done[i] = await _send(objects, source, f"{folder}/{source.path}", told, replace)

    small = [i for i, s in enumerate(sources) if s.size <= PART]
    await _all_or_first_error([send(i, sources[i]) for i in small])
    for i, source in enumerate(sources):
        if i not in done:
            await send(i, source)
    return [done[i] for i in range(len(sources))]


async def _send(objects: Objects, source: Source, key: str, told: OnBytes, replace: bool) -> Copied:
    before = _Reading(source)
    async for _ in before.blocks(PART):
        pass
    sha256 = before.sha256.hexdigest()
    standing = await objects.head(key)
    if standing is not None and not replace:
        raise HybridError(f"{objects.shown(key)} is there already.")
    if standing is not None and (standing.sha256, standing.size) == (sha256, source.size):
        told(source.size, source.path)
        return Copied(source.path, source.size, sha256)
    part = max(PART, -(-source.size // _MOST_PARTS))
    reading = _Reading(source, expected=sha256, told=told)
    if source.size <= PART:
        data = b"".join([block async for block in reading.blocks(part)])
        etag = await objects.put(key, data, sha256, new=not replace)
        if etag is None:
            raise HybridError(f"{objects.shown(key)} is there already.")
    else:
        etag = await _send_parts(objects, key, reading, sha256, part)
    if etag.strip('"') != reading.etag(whole=source.size <= PART):
        await _read_back(objects, key, sha256)
    return Copied(source.path, source.size, sha256)


async def _send_parts(objects: Objects, key: str, reading: _Reading, sha256: str, part: int) -> str:
    """Send in parts. When cancelled, the reading fails rather than the request, so that the parts sent are given up in
    the bucket too, where they would lie unseen and cost money."""
    sending = asyncio.ensure_future(objects.put_stream(key, reading.blocks(part), sha256, part, _UP))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        reading.stopped = True
        await asyncio.gather(sending, return_exceptions=True)
        raise


async def _read_back(objects: Objects, key: str, sha256: str) -> None:
    """Where the service's answer proves nothing (Google, Azure, S3 with keys of its own), the bytes are asked for."""
    found = hashlib.sha256()
    async for block in objects.stream(key):
        await asyncio.to_thread(found.update, block)
    if found.hexdigest() != sha256:
        await objects.delete([key])
        raise Corrupted(f"{objects.shown(key)} was not what was sent, and was removed.", hint="Send it again.")


class _Reading:
    """One pass over a local file, in blocks, with its checksums; ``expected`` is the sha256 of the pass before.

    ``etag`` is what S3 answers for the same bytes: the MD5, or that of the parts' MD5s and their number.
    """

    def __init__(self, source: Source, *, expected: str = "", told: OnBytes | None = None) -> None:
        self.source = source
        self.expected = expected
        self.told = told
        self.sha256 = hashlib.sha256()
        self.stopped = False
        self._parts: list[bytes] = []

    async def blocks(self, size: int) -> AsyncIterator[bytes]:
        """The file's blocks. Raises HybridError when it changed since it was listed or since the pass before."""
        file = await asyncio.to_thread(_opened, Path(self.source.local))
        try:
            begun, read = os.fstat(file.fileno()), 0
            while block := await asyncio.to_thread(self._take, file, size):
                if self.stopped:
                    raise HybridError("The copy was stopped.")
                read += len(block)
                if self.told is not None:
                    self.told(len(block), self.source.path)
                yield block
            ended = os.fstat(file.fileno())
        finally:
            file.close()
        same = (begun.st_size, begun.st_mtime_ns) == (ended.st_size, ended.st_mtime_ns) and read == self.source.size
        if not same or (self.expected and self.expected != self.sha256.hexdigest()):
            raise HybridError(
                f"{self.source.local} changed while it was being copied.", hint="Try again when nothing writes to it."
            )

    def _take(self, file: BinaryIO, size: int) -> bytes:
        block = file.read(size)
        if block:
            self.sha256.update(block)
            if self.expected:
                self._parts.append(hashlib.md5(block, usedforsecurity=False).digest())
        return block

    def etag(self, *, whole: bool) -> str:
        """See the class."""
        if whole:
            return (self._parts[0] if self._parts else hashlib.md5(usedforsecurity=False).digest()).hex()
        return f"{hashlib.md5(b''.join(self._parts), usedforsecurity=False).hexdigest()}-{len(self._parts)}"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} can't be read: {(error.strerror or str(error)).lower()}.") from error


async def download(objects: Objects, wanted: Sequence[Wanted], folder: str, told: OnBytes) -> list[Copied]:
    """Fetch files of ``folder``; see ``Store.get_files``."""
    found = await asyncio.gather(*(objects.head(f"{folder}/{w.path}") for w in wanted))
    checked = [_checked(objects, w, f"{folder}/{w.path}", f) for w, f in zip(wanted, found, strict=True)]
    stop = threading.Event()
    slots = asyncio.Semaphore(_SMALL_AT_ONCE)
    done: dict[int, Copied] = {}

    async def fetch(i: int) -> None:
        async with slots:
            done[i] = await _fetch(objects, *checked[i], told, stop)

    try:
        await asyncio.to_thread(check_room, [w for w, _ in checked])
        await _all_or_first_error([fetch(i) for i, (w, _) in enumerate(checked) if w.size <= PART])
        for i in range(len(checked)):
            if i not in done:
                await fetch(i)
    finally:
        stop.set()
    return [done[i] for i in range(len(checked))]


def _checked(objects: Objects, wanted: Wanted, key: str, found: Found | None) -> tuple[Wanted, Found]:
    """What is wanted with what is known of it. Raises when the object is another one."""
    if found is None:
        raise HybridError(f"{objects.shown(key)} is gone.", hint="Look at what is there now.")
    differs = found.size != wanted.size or (wanted.sha256 and found.sha256 and wanted.sha256 != found.sha256)
    if differs:
        raise Corrupted(
            f"{objects.shown(key)} is not what its checksum says.", hint="Push it again from where it is whole."
        )
    return Wanted(wanted.path, wanted.local, wanted.size, wanted.sha256 or found.sha256), found


async def _fetch(objects: Objects, wanted: Wanted, found: Found, told: OnBytes, stop: threading.Event) -> Copied:
    if await asyncio.to_thread(is_here, wanted, stop):
        told(wanted.size, wanted.path)
        return Copied(wanted.path, wanted.size, wanted.sha256)
    resume = bool(wanted.sha256)  # without a checksum nothing would tell a part of something else
    part = await _part(wanted, resume, stop)
    try:
        return await _fill(objects, wanted, found, part, told)
    finally:
        part.close()


async def _part(wanted: Wanted, resume: bool, stop: threading.Event) -> Partial:
    """Its ``.part``, opened in a thread; when cancelled meanwhile, what the thread opened is closed."""
    opening = asyncio.ensure_future(
        asyncio.to_thread(Partial, Path(wanted.local), size=wanted.size, resume=resume, stop=stop)
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(HybridError):
            (await opening).close()
        raise


async def _fill(objects: Objects, wanted: Wanted, found: Found, part: Partial, told: OnBytes) -> Copied:
    """Fetch the rest of ``part``; a part that turns out to be a beginning of something else is fetched anew, once."""
    while True:
        if part.resumed:
            told(part.resumed, wanted.path)
        resumed = part.resumed
        async for block in _ranges(objects, found, part.done):
            await asyncio.to_thread(part.write, block)
            told(len(block), wanted.path)
        if not wanted.sha256 or part.sha256() == wanted.sha256:
            await asyncio.to_thread(part.keep)
            return Copied(wanted.path, wanted.size, part.sha256())
        told(-wanted.size, wanted.path)
        if not resumed:
            part.discard()
            raise Corrupted(
                f"{objects.shown(found.key)} is not what its checksum says.",
                hint="Push it again from where it is whole.",
            )
        part.restart()


async def _ranges(objects: Objects, found: Found, start: int) -> AsyncIterator[memoryview]:
    """The object's bytes from ``start`` in their order, a few parts ahead."""
    starts = iter(range(start, found.size, RANGE))
    ahead: deque[asyncio.Task[memoryview]] = deque()

    def ask() -> None:
        for at in starts:
            ahead.append(asyncio.ensure_future(_range(objects, found, at, min(at + RANGE, found.size))))
            return

    try:
        for _ in range(_DOWN):
            ask()
        while ahead:
            block = await ahead.popleft()
            ask()
            yield block
    finally:
        for task in ahead:
            task.cancel()
        for task in ahead:
            with contextlib.suppress(asyncio.CancelledError, HybridError):
                await task


async def _range(objects: Objects, found: Found, start: int, end: int) -> memoryview:
    """One range, asked for again when its bytes stop coming; obstore retries requests, not bodies."""
    for attempt in range(_ATTEMPTS):
        try:
            return await objects.read_range(found.key, start, end, found.etag)
        except StoreUnreachable:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


async def _all_or_first_error(work: Sequence) -> None:  # type: ignore[type-arg]
    """Do all; when one fails the others are cancelled and waited for, then its error is raised."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
