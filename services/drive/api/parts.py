"""A file on its way down: ``NAME.part`` beside its place, and a journal of the ranges that came, with their hashes.

After a crash the journal says what the ``.part`` file should hold; what it does not hold (a torn page after a power
failure) is fetched again. While ranges arrive, in whatever order, the whole file's hash follows from the start, so
that it is ready when the last byte is. Three threads work at it: the loop's receives, one writes, one hashes.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from services import atomic
from services.drive.api.placing import locked, sentences
from services.drive.api.ranges import Done, Log, Ranges
from services.drive.api.reading import BLOCK, Threads
from services.drive.api.types import DriveFile
from services.errors import HybridError

_FLUSH = 64 << 20  # bytes after which the disk is told to begin, so that little is left for the end


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
        self._file = file
        self._threads = threads
        self._log = Log(journals / f"{hashlib.sha256(str(local.absolute()).encode()).hexdigest()[:32]}.jsonl", file)
        self._ranges = Ranges()
        self._sha = hashlib.sha256()
        self._md5 = None if file.sha256 else hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        self._coming = 0  # there will be no gap up to here once the blocks that wait are written
        self._waiting: dict[int, _Block] = {}  # by their start, until they are in the hash of the whole
        self._hashing: asyncio.Future[None] | None = None
        self._flushing: asyncio.Future[None] | None = None
        self._unflushed = 0
        self._closing = False
        with sentences(self.local):
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fd = locked(self.path)
            self._direct = _direct(self._fd)
            try:
                self._recover()
            except BaseException:
                self._close()
                raise

    def _recover(self) -> None:
        noted = self._log.read() if os.fstat(self._fd).st_size == self.size else []
        self._recover_start([done for done in noted if done.at == 0])
        for done in noted:
            if done.at:
                digest = hashlib.sha256()
                for data in self._read(done.at, done.end):
                    digest.update(data)
                if digest.hexdigest() == done.sha256:
                    self._add(done.at, done.end)
        if not self.have:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.size)
        self._log.open(anew=not self.have)

    def _recover_start(self, noted: list[Done]) -> None:
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

    @property
    def have(self) -> int:
        """Bytes that are there."""
        return self._ranges.have

    def gaps(self, most: int) -> list[tuple[int, int]]:
        """What is missing, from the start on, in ranges of at most ``most`` bytes."""
        return self._ranges.gaps(self.size, most)

    # a block: written and hashed at the same time, then noted

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
            work = self._threads.start(self._store, block)
            self._follow()
        else:
            work = self._threads.start(self._store_ahead, block)

        def ended(work: asyncio.Future[bool]) -> None:
            if (error := work.exception()) is not None:
                _fail(block, error)
            elif work.result():
                self._settled(block)

        work.add_done_callback(ended)
        return block.done

    def _store(self, block: _Block) -> bool:
        """In a thread: write what the hash of the whole takes from memory. False: it is not settled yet."""
        try:
            with sentences(self.local):
                if not self._past_the_cache(block):
                    _write(self._fd, block)
            block.written = True
        finally:
            block.stored.set()
        return False

    def _past_the_cache(self, block: _Block) -> bool:
        """Write a full block straight to the disk: no copy for the page cache, and nothing to flush at the end."""
        if self._direct < 0 or len(block.data) != BLOCK:
            return False
        try:
            _write(self._direct, block)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it lies across the disk's sectors
                raise
            return False
        return True

    def _store_ahead(self, block: _Block) -> bool:
        """In a thread: write and hash what came ahead of its turn."""
        with sentences(self.local):
            _write(self._fd, block)
            self._log.note(block.at, block.end, hashlib.sha256(block.data).hexdigest())
        return True

    def _settled(self, block: _Block) -> None:
        """It is written, hashed and noted."""
        if self._closing:
            return
        self._add(block.at, block.end)
        self._follow()
        self._unflushed += len(block.data)
        if self._unflushed >= _FLUSH and (self._flushing is None or self._flushing.done()):
            if self._flushing is not None and (error := self._flushing.exception()) is not None:
                _fail(block, error)  # an error is told to one flush only
                return
            self._unflushed = 0
            self._flushing = self._threads.start(self._flush)
        if not block.done.done():
            block.done.set_result(len(block.data))

    def _add(self, at: int, end: int) -> None:
        self._ranges.add(at, end)
        self._coming = max(self._coming, self._ranges.front)

    def _flush(self) -> None:
        with sentences(self.local):
            os.fdatasync(self._fd)

    # the hash of the whole

    def _follow(self) -> None:
        """Let it go on as far as there are no gaps."""
        if self._closing or (self._hashing is not None and not self._hashing.done()):
            return
        if self._hashed in self._waiting or self._hashed < self._ranges.front:
            self._hashing = self._threads.start(self._hash, asyncio.get_running_loop())
            self._hashing.add_done_callback(self._followed)

    def _followed(self, hashing: asyncio.Future[None]) -> None:
        if (error := hashing.exception()) is None:
            self._follow()  # for what came while it was about to end
            return
        for block in self._waiting.values():
            _fail(block, error)

    def _hash(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: from the blocks that wait, else from the file. Each block then vouches for all up to its end."""
        while not self._closing:
            front = self._ranges.front
            block = self._waiting.get(self._hashed)
            if block is not None:
                self._update(block.data)
                block.stored.wait()
                del self._waiting[block.at]
                if block.written:  # else its writer tells why not
                    with sentences(self.local):
                        self._log.note(0, block.end, self._sha.copy().hexdigest())
                    loop.call_soon_threadsafe(self._settled, block)
            elif self._hashed < front:
                data = os.pread(self._fd, min(BLOCK, front - self._hashed), self._hashed)
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
        if self._file.sha256:
            return digest if digest == self._file.sha256 else ""
        assert self._md5 is not None
        return digest if self._md5.hexdigest() == self._file.md5 else ""

    # the end

    async def finish(self, flush_name: bool) -> None:
        """Flush it and give it its name, which is flushed too if that is wanted."""

        def finish() -> None:
            with sentences(self.local):
                os.fsync(self._fd)
                self.path.replace(self.local)
                if flush_name:
                    atomic.sync_directory(self.local.parent)
            self._log.forget()

        if self._flushing is not None:
            await asyncio.shield(self._flushing)
        await self._threads.run(finish)

    def forget(self) -> None:
        """Remove what came: it is not what it should be."""
        self.path.unlink(missing_ok=True)
        self._log.forget()

    async def close(self) -> None:
        """Close it once no thread writes to it any more. What came stays."""
        self._closing = True
        try:
            await self._threads.settle()
        finally:
            self._close()

    def _close(self) -> None:
        os.close(self._fd)
        if self._direct >= 0:
            os.close(self._direct)
        self._log.close()


def _direct(fd: int) -> int:
    """A second descriptor of an open file that writes past the page cache; -1 where that can't be."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):
        return -1


def _write(fd: int, block: _Block) -> None:
    view, at = block.data, block.at
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _fail(block: _Block, error: BaseException) -> None:
    if not block.done.done():
        block.done.set_exception(error)
