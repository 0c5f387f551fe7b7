"""A local file on its way up: read and hashed in threads, block by block, and what proves that it did not change."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from services.errors import BadInput, HybridError

BLOCK = 1 << 20
INLINE = 256 << 10  # bytes that are read, hashed or written sooner than a thread would have its turn
_PREFIX = 1 << 20

P = ParamSpec("P")
T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """Size in bytes, time of the last change, inode and the sha256 of the first MiB: the same file as before?"""

    size: int
    mtime_ns: int
    inode: int
    prefix: str


def _small(path: Path) -> bool:
    try:
        return path.stat().st_size <= INLINE
    except OSError:
        return True  # opening it says why


class Threads:
    """Blocking work in ``pool``; ``settle`` waits for what is still at it, so that descriptors can be closed."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._busy: set[asyncio.Future[object]] = set()

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin ``work``. Cancelling who awaits the result does not stop it."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))
        self._busy.add(future)  # type: ignore[arg-type]
        future.add_done_callback(self._busy.discard)
        return future

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result."""
        return await asyncio.shield(self.start(work, *args, **kwargs))

    async def settle(self) -> None:
        """Wait for all that was started, also when cancelled meanwhile."""
        cancelled = False
        while self._busy:
            try:
                await asyncio.wait(self._busy)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError


class Source:
    """An open local file. Blocks may be read again; each byte is hashed once, when it is first passed."""

    def __init__(self, path: Path, threads: Threads) -> None:
        """Blocking. Raises BadInput when ``path`` is no readable file."""
        self.path = path
        self._threads = threads
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInput(f"{path} can't be read: {error.strerror}.") from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise BadInput(f"{path} is not a file.")
        self._status = status
        self.size = status.st_size
        self._closing = False  # ends what is read ahead when the upload is given up
        prefix = os.pread(self._fd, _PREFIX, 0)
        sha = hashlib.sha256(prefix)
        self.identity = Identity(status.st_size, status.st_mtime_ns, status.st_ino, sha.hexdigest())
        whole = len(prefix) == self.size  # a small file is read and hashed already
        self._first = prefix if whole else b""
        self._sha = sha if whole else hashlib.sha256()
        self.hashed = self.size if whole else 0
        self._turn = threading.Lock()  # a read that was given up may still be at it when the next one begins

    @staticmethod
    async def opened(path: Path, threads: Threads) -> Source:
        """``path`` open; a very small one at once, without a thread's turn. Raises BadInput as above."""
        return Source(path, threads) if _small(path) else await threads.run(Source, path, threads)

    def read(self, at: int, end: int) -> bytes:
        """Blocking: the bytes of one block. Raises HybridError when the file became shorter or can't be read."""
        try:
            data = self._first[at:end] if self._first else os.pread(self._fd, end - at, at)
        except OSError as error:
            raise HybridError(f"{self.path} can't be read: {error.strerror}.") from None
        if len(data) != end - at:
            raise self.changed()
        with self._turn:
            if at <= self.hashed < end:
                self._sha.update(memoryview(data)[self.hashed - at :] if at < self.hashed else data)
                self.hashed = end
        return data

    def block(self, at: int, end: int) -> Awaitable[bytes]:
        """``read`` in a thread, started at once; a small file's bytes are here already."""
        if self._first:
            ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            ready.set_result(self.read(at, end))
            return ready
        return self._threads.start(self.read, at, end)

    async def hash_to(self, offset: int) -> None:
        """Hash what lies before ``offset`` and was not passed by yet: it was sent by an earlier process."""

        def catch_up() -> None:
            while self.hashed < offset and not self._closing:
                self.read(self.hashed, min(self.hashed + BLOCK, offset))

        if self.hashed < offset:
            await self._threads.run(catch_up)

    async def sha256(self) -> str:
        """Of the whole file, hex. Raises HybridError when the file is not the one that was opened any more."""
        await self.hash_to(self.size)
        self.check()
        return self._sha.hexdigest()

    async def md5(self) -> str:
        """Of the whole file, hex: read once more, for a place that knows no sha256."""

        def digest() -> str:
            md5 = hashlib.md5(usedforsecurity=False)
            for at in range(0, self.size, BLOCK):
                if self._closing:
                    break
                md5.update(self.read(at, min(at + BLOCK, self.size)))
            return md5.hexdigest()

        return await self._threads.run(digest)

    def check(self) -> None:
        """Raises HybridError when the file changed since it was opened."""
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise self.changed()

    def changed(self) -> HybridError:
        """The error for a file that was written to meanwhile."""
        return HybridError(
            f"{self.path} changed while it was being sent.", hint="Send it again when nothing writes to it any more."
        )

    async def close(self) -> None:
        """Close the file once no thread reads it any more."""
        self._closing = True
        try:
            await self._threads.settle()
        finally:
            fd, self._fd = self._fd, -1  # a request that is being given up may ask for one more block
            os.close(fd)
