"""A file on its way down: ``NAME.part`` beside its place, and a journal of the ranges that came, with their hashes.

After a crash the journal says what the ``.part`` file should hold; what it does not hold (a torn page after a power
failure) is fetched again. While ranges arrive, in whatever order, the whole file's hash follows behind from the start,
so that it is ready when the last byte is.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services import atomic
from services.drive.api.placing import locked, sentences
from services.drive.api.reading import BLOCK, Threads
from services.drive.api.types import DriveFile
from services.errors import HybridError

_FLUSH = 64 << 20  # bytes after which the disk is told to begin, so that little is left for the end


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The journal's first line: what is being fetched."""

    id: str
    size: int
    sha256: str
    md5: str


class _Done(msgspec.Struct, frozen=True, array_like=True):
    """One range that is written: its bytes have this sha256. From 0 on it is the hash of all that came in order."""

    at: int
    end: int
    sha256: str


class _Block:
    """Bytes on their way to the disk and into the hash: ``stored`` when the writer has done with them."""

    def __init__(self, at: int, data: memoryview, done: asyncio.Future[int]) -> None:
        self.at = at
        self.end = at + len(data)
        self.data = data
        self.done = done
        self.stored = threading.Event()
        self.written = False


class Part:
    """The ``.part`` file of ``local``, locked for this process. Blocking; make and open it in a thread."""

    def __init__(self, local: Path, file: DriveFile, journals: Path, threads: Threads) -> None:
        """Raises Refused when another process fetches it, HybridError when the disk won't have it."""
        assert file.size is not None
        self.local = local
        self.size = file.size
        self.path = local.with_name(local.name + ".part")
        self._threads = threads
        self._head = _Head(file.id, file.size, file.sha256, file.md5)
        key = hashlib.sha256(str(local.absolute()).encode()).hexdigest()[:32]
        self._journal = journals / f"{key}.jsonl"
        self._log = -1
        self._done: list[tuple[int, int]] = []  # disjoint, sorted, joined where they touch
        self._sha = hashlib.sha256()
        self._md5 = None if file.sha256 else hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        self._front = 0  # there are no gaps up to here
        self._coming = 0  # nor up to here, once those that wait are written
        self._waiting: dict[int, _Block] = {}  # by their start, until they are in the hash of the whole
        self._hashing: asyncio.Future[None] | None = None
        self._flushing: asyncio.Future[None] | None = None
        self._unflushed = 0
        self._closing = False
        with sentences(self.local):
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fd = locked(self.path)
            try:
                self._recover()
            except BaseException:
                os.close(self._fd)
                raise

    def _recover(self) -> None:
        noted = self._noted() if os.fstat(self._fd).st_size == self.size else []
        self._recover_start([done for done in noted if done.at == 0])
        for done in noted:
            if done.at:
                digest = hashlib.sha256()
                for data in self._read(done.at, done.end):
                    digest.update(data)
                if digest.hexdigest() == done.sha256:
                    self._add(done.at, done.end)
        if not self._done:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.size)
            self._journal.unlink(missing_ok=True)
        self._log = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if not self._done:
            os.write(self._log, msgspec.json.encode(self._head) + b"\n")

    def _recover_start(self, noted: list[_Done]) -> None:
        """What came in order is hashed again, up to the last point where the hash is the one that was noted."""
        sha, md5, at = self._sha.copy(), self._md5 and self._md5.copy(), 0
        for done in sorted(noted, key=lambda done: done.end):
            for data in self._read(at, done.end):
                sha.update(data)
                if md5 is not None:
                    md5.update(data)
            at = done.end
            if sha.hexdigest() != done.sha256:
                break
            self._sha, self._md5, self._hashed = sha.copy(), md5 and md5.copy(), at
        if self._hashed:
            self._add(0, self._hashed)

    def _read(self, at: int, end: int) -> Iterator[bytes]:
        for start in range(at, end, BLOCK):
            yield os.pread(self._fd, min(BLOCK, end - start), start)

    def _noted(self) -> list[_Done]:
        """The journal's ranges, none when it is of another file. A last line torn by a crash is left out."""
        try:
            lines = self._journal.read_bytes().split(b"\n")
            if msgspec.json.decode(lines[0], type=_Head) != self._head:
                return []
        except (OSError, msgspec.DecodeError):
            return []
        done = []
        for line in lines[1:]:
            with contextlib.suppress(msgspec.DecodeError):
                done.append(msgspec.json.decode(line, type=_Done))
        return [d for d in done if 0 <= d.at < d.end <= self.size]

    @property
    def have(self) -> int:
        """Bytes that are there."""
        return sum(end - at for at, end in self._done)

    def gaps(self, most: int) -> list[tuple[int, int]]:
        """What is missing, from the start on, in ranges of at most ``most`` bytes."""
        found, at = [], 0
        for start, end in [*self._done, (self.size, self.size)]:
            while at < start:
                found.append((at, min(at + most, start)))
                at = found[-1][1]
            at = max(at, end)
        return found

    def take(self, at: int, data: memoryview) -> asyncio.Future[int]:
        """Write one block, hash it and note it; how long it was, when that is done. ``data`` must stay until then.

        What comes in order is hashed for the whole from here while it is being written; what comes ahead of its turn
        by itself, and read again later. The result raises HybridError when the disk is full.
        """
        block = _Block(at, data, asyncio.get_running_loop().create_future())
        block.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear it
        if at == self._coming:
            self._coming = block.end
            self._waiting[at] = block
            self._busy(block, self._threads.start(self._store, block))
            self._follow()
        else:
            self._busy(block, self._threads.start(self._store_ahead, block))
        return block.done

    def _busy(self, block: _Block, work: asyncio.Future[bool]) -> None:
        def ended(work: asyncio.Future[bool]) -> None:
            if (error := work.exception()) is not None:
                self._fail(block, error)
            elif work.result():
                self._settled(block)

        work.add_done_callback(ended)

    def _store(self, block: _Block) -> bool:
        try:
            self._write(block)
        finally:
            block.stored.set()
        return False

    def _store_ahead(self, block: _Block) -> bool:
        self._write(block)
        self._note(_Done(block.at, block.end, hashlib.sha256(block.data).hexdigest()))
        return True

    def _write(self, block: _Block) -> None:
        with sentences(self.local):
            view, at = block.data, block.at
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
            block.written = True

    def _note(self, done: _Done) -> None:
        with sentences(self.local):
            os.write(self._log, msgspec.json.encode(done) + b"\n")

    def _settled(self, block: _Block) -> None:
        """It is written, hashed and noted."""
        if self._closing:
            return
        self._add(block.at, block.end)
        self._follow()
        self._unflushed += len(block.data)
        if self._unflushed >= _FLUSH and (self._flushing is None or self._flushing.done()):
            if self._flushing is not None and (error := self._flushing.exception()) is not None:
                self._fail(block, error)  # an error is told to one flush only
                return
            self._unflushed = 0
            self._flushing = self._threads.start(self._flush)
        if not block.done.done():
            block.done.set_result(len(block.data))

    def _fail(self, block: _Block, error: BaseException) -> None:
        if not block.done.done():
            block.done.set_exception(error)

    def _flush(self) -> None:
        with sentences(self.local):
            os.fdatasync(self._fd)

    def _add(self, at: int, end: int) -> None:
        bisect.insort(self._done, (at, end))
        joined: list[tuple[int, int]] = []
        for start, stop in self._done:
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
            else:
                joined.append((start, stop))
        self._done = joined
        self._front = joined[0][1] if joined[0][0] == 0 else 0
        self._coming = max(self._coming, self._front)

    def _follow(self) -> None:
        """Let the hash of the whole go on as far as there are no gaps."""
        if self._closing or (self._hashing is not None and not self._hashing.done()):
            return
        if self._hashed in self._waiting or self._hashed < self._front:
            self._hashing = self._threads.start(self._hash, asyncio.get_running_loop())
            self._hashing.add_done_callback(self._hashed_on)

    def _hashed_on(self, hashing: asyncio.Future[None]) -> None:
        error = hashing.exception()
        if error is None and not self._closing:
            self._follow()  # for what came while it was about to end
            return
        for block in self._waiting.values():
            self._fail(block, error or HybridError("The download was given up."))

    def _hash(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: from the blocks that wait, else from the file. Each block then vouches for all up to its end."""
        while not self._closing:
            block = self._waiting.get(self._hashed)
            if block is not None:
                self._update(block.data)
                block.stored.wait()
                del self._waiting[block.at]
                if block.written:  # else its writer tells why not
                    self._note(_Done(0, block.end, self._sha.copy().hexdigest()))
                    loop.call_soon_threadsafe(self._settled, block)
            elif self._hashed < self._front:
                data = os.pread(self._fd, min(BLOCK, self._front - self._hashed), self._hashed)
                if not data:
                    raise HybridError(f"{self.path} was cut short while it was being fetched.", hint="Fetch it again.")
                self._update(data)
            else:
                return

    def _update(self, data: bytes | memoryview) -> None:
        self._sha.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        self._hashed += len(data)

    async def verified(self) -> str:
        """The sha256 (hex) of the whole; "" when it is not what Drive's checksum says."""
        while self._hashed < self.size:
            self._follow()
            assert self._hashing is not None
            await asyncio.shield(self._hashing)
        digest = self._sha.hexdigest()
        if self._head.sha256:
            return digest if digest == self._head.sha256 else ""
        assert self._md5 is not None
        return digest if self._md5.hexdigest() == self._head.md5 else ""

    async def finish(self, flush_name: bool) -> None:
        """Flush it and give it its name, which is flushed too if that is wanted."""

        def finish() -> None:
            with sentences(self.local):
                os.fsync(self._fd)
                self.path.replace(self.local)
                if flush_name:
                    atomic.sync_directory(self.local.parent)
            self._journal.unlink(missing_ok=True)

        if self._flushing is not None:
            await asyncio.shield(self._flushing)
        await self._threads.run(finish)

    def forget(self) -> None:
        """Remove what came: it is not what it should be."""
        self.path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    async def close(self) -> None:
        """Close it once no thread writes to it any more. What came stays."""
        self._closing = True
        try:
            await self._threads.settle()
        finally:
            os.close(self._fd)
            os.close(self._log)
