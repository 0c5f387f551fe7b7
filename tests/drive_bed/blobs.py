"""The bytes of files, on disk, and their checksums, computed when somebody asks for them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(slots=True)
class Blob:
    """Immutable bytes of one revision. ``sums``: algorithm → hex, filled by ``need``."""

    path: Path
    size: int
    sums: dict[str, str] = field(default_factory=dict)

    async def need(self, algorithms: frozenset[str]) -> None:
        """Have these checksums: from now on they are in ``sums``."""
        missing = [name for name in algorithms if name not in self.sums]
        if not missing:
            return
        if self.size <= _BLOCK:
            data = self.path.read_bytes()
            self.sums |= {name: hashlib.new(name, data).hexdigest() for name in missing}
            return
        digests = await asyncio.gather(*(asyncio.to_thread(_digest, self.path, name) for name in missing))
        self.sums |= dict(zip(missing, digests, strict=True))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class Blobs:
    """A folder of blobs. ``known`` are local files whose checksums were computed ahead (see ``know``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._next = 0
        self._known: dict[int, list[tuple[Path, dict[str, str]]]] = {}

    def new_path(self) -> Path:
        """A path that nothing lies at."""
        self._next += 1
        return self.folder / f"{self._next:07d}"

    async def put(self, data: bytes) -> Blob:
        """A new blob of these bytes."""
        path = self.new_path()
        path.write_bytes(data)
        return Blob(path, len(data))

    async def know(self, path: Path) -> None:
        """Compute the checksums of a local file now, so that an upload with the same bytes needs only to be compared.

        Google's own hashing costs the client's machine nothing; on loopback it would take a core from the client and
        be measured as if it were the client's. Every byte is still compared with the file before its sums are taken.
        """
        blob = Blob(path, (await asyncio.to_thread(path.stat)).st_size)
        await blob.need(frozenset({"md5", "sha1", "sha256"}))
        self._known.setdefault(blob.size, []).append((path, blob.sums))

    def knows(self, size: int | None) -> bool:
        """Some known file has this size."""
        return size in self._known

    async def recognise(self, blob: Blob) -> None:
        """Take over the sums of a known file with the very same bytes, if there is one."""
        for path, sums in self._known.get(blob.size, ()):
            if await asyncio.to_thread(_same, path, blob.path):
                blob.sums.update(sums)
                return


def _same(one: Path, other: Path) -> bool:
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        while True:
            first, second = a.read(_BLOCK), b.read(_BLOCK)
            if first != second:
                return False
            if not first:
                return True
