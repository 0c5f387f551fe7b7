"""Bytes on their way up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from tests.drive_bed.blobs import Blob

STEP = 256 * 1024  # a resumable upload is kept in multiples of this
_BLOCK = 1 << 20
_AHEAD = 8 << 20


class Growing:
    """Bytes that arrive piece by piece: an upload before it is a blob. ``sums`` are computed on the way."""

    def __init__(self, path: Path, sums: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.size = 0
        self._hashes = {name: hashlib.new(name) for name in sums}
        self._hashed = 0
        self._hashing: asyncio.Future[None] | None = None
        path.touch()

    async def take(self, pieces: AsyncIterator[memoryview], skip: int = 0, most: int | None = None) -> None:
        """Append what comes, without the first ``skip`` bytes and no more than ``most`` after them.

        What had come before an interruption stays.
        """
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        room = most
        try:
            async for piece in pieces:
                if skip:
                    dropped = min(skip, len(piece))
                    skip -= dropped
                    piece = piece[dropped:]
                if room is not None:
                    piece = piece[:room]
                    room -= len(piece)
                while piece:
                    written = os.write(fd, piece)
                    self.size += written
                    piece = piece[written:]
                if self._hashes and self.size - self._hashed >= _AHEAD:
                    self._hash_on(self.size // STEP * STEP)
        finally:
            os.close(fd)

    def _hash_on(self, upto: int) -> None:
        """Hash what has come in another thread, meanwhile more comes. Never beyond what a break would leave."""
        if self._hashing is None or self._hashing.done():
            self._hashing = asyncio.ensure_future(asyncio.to_thread(self._hash, upto))

    def _hash(self, upto: int) -> None:
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._hashed)
            while self._hashed < upto and (block := file.read(min(_BLOCK, upto - self._hashed))):
                for running in self._hashes.values():
                    running.update(block)
                self._hashed += len(block)

    def add(self, data: bytes) -> None:
        """Append these bytes."""
        with self.path.open("ab") as file:
            file.write(data)
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Forget what lies beyond ``size``."""
        if size < self._hashed:
            self._hashes = {}
        if size < self.size:
            with contextlib.suppress(FileNotFoundError):  # dropped meanwhile: another request ended the session
                os.truncate(self.path, size)
            self.size = size

    def spoil(self, at: int) -> None:
        """Change one byte of what has been stored."""
        self._hashes = {}
        if self.size:
            with self.path.open("r+b") as file:
                file.seek(min(at, self.size - 1))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 0x55]))

    async def blob(self) -> Blob:
        """The finished bytes, with the sums that were computed on the way."""
        if self._hashing is not None:
            await self._hashing
        if self._hashed and self._hashes:
            await asyncio.to_thread(self._hash, self.size)
        sums = {name: running.hexdigest() for name, running in self._hashes.items()} if self._hashed else {}
        return Blob(self.path, self.size, sums)

    def drop(self) -> None:
        """Delete what came."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
