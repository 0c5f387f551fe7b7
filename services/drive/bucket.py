"""A bucket as the store: S3 and what speaks like it, Google Cloud Storage, Azure, or a folder for trying it out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import platformdirs

from services import atomic
from services.drive import bucket_files, bucket_moves, claims
from services.drive.bucket_objects import Found, Objects
from services.drive.store import (
    INCOMING,
    TRASH,
    Copied,
    Entry,
    OnBytes,
    Source,
    Store,
    Stored,
    StoreStatus,
    Wanted,
    parts,
)
from services.errors import HybridError

_PROMISES = (
    "a record appears whole or not at all, and of two writers exactly one wins (conditional create)",
    "sent files are compared by checksum with what was read, by the service's answer or by reading them back",
    "an object carries its sha256 as metadata, and every download is compared with it",
    "a folder is moved by copying, its manifest last; a move that was cut off is finished by the next writer",
    "what was thrown away lies below .trash in the bucket until it is deleted there",
)
_NAMES = {"s3": "an S3 bucket", "gs": "a Google Cloud Storage bucket", "az": "an Azure container", "file": "a folder"}


class BucketStore(Store):
    """A store below ``root`` in the bucket of ``objects``. ``cache`` is where fetched folders are kept, ``state`` where
    this machine notes what it is working on."""

    kind = "bucket"

    def __init__(self, objects: Objects, cache: Path, state: Path) -> None:
        self.objects = objects
        self.cache = cache
        self.state = state
        self.label = f"{_NAMES[objects.scheme]}, not Google Drive"
        self._slots: dict[str, bytes] = {}

    @classmethod
    def from_url(cls, url: str, root: str, *, patience: float = 20) -> BucketStore:
        """The store below ``root`` at ``url`` (s3://NAME/PREFIX, gs://…, az://CONTAINER/…, file:///FOLDER).

        Credentials come from the environment. Touches nothing; raises BadInput when ``url`` is no such address.
        ``patience`` is how many seconds a failing request is tried again.
        """
        parts(root)
        objects = Objects(url, root, patience=patience)
        mine = hashlib.sha256(objects.shown("").encode()).hexdigest()[:16]
        return cls(
            objects,
            platformdirs.user_cache_path("hybrid-tui") / "bucket" / mine,
            platformdirs.user_state_path("hybrid-tui") / "bucket" / mine,
        )

    async def status(self) -> StoreStatus:
        """See ``Store.status``. A bucket's room is not known; ``writable`` shows at the first write."""
        folders, files = await self.objects.children("")
        begun = await self.objects.below(INCOMING)
        return StoreStatus(
            kind=self.kind,
            label=self.label,
            path=self.objects.shown(""),
            google_drive=False,
            reachable=True,
            created=bool(folders or files),
            writable=True,
            free_bytes=None,
            total_bytes=None,
            promises=_PROMISES,
            unfinished=len({f.key.removeprefix(f"{INCOMING}/").split("/")[0] for f in begun}),
            unfinished_bytes=sum(f.size for f in begun),
        )

    async def new_id(self) -> str:
        """128 random bits in hex."""
        return uuid.uuid4().hex

    async def first_id(self, folder: str) -> str:
        """A folder's chain starts at a fixed name."""
        parts(folder)
        return "genesis"

    async def put_new(self, folder: str, id: str, data: bytes) -> bool:
        """A create that the service refuses when the object exists (If-None-Match, ifGenerationMatch=0).

        True as well when it is there with these bytes: then the answer to our own earlier attempt was lost.
        """
        key = _key(f"{folder}/{id}.json")
        made = await self.objects.put(key, data, hashlib.sha256(data).hexdigest(), new=True)
        return made is not None or await self.read_slot(folder, id) == data

    async def read_slot(self, folder: str, id: str) -> bytes | None:
        """See ``Store.read_slot``. A slot never changes, so one that was read once is not asked for again."""
        key = _key(f"{folder}/{id}.json")
        data = self._slots.get(key)
        if data is None and (data := await self.objects.read(key)) is not None:
            self._slots[key] = data
        return data

    async def walk(self, folder: str, first: str, follow: Callable[[str, bytes], str | None]) -> None:
        """See ``Store.walk``. What a listing shows is fetched at once beforehand; whether a slot is empty, only a read
        of that slot says."""
        _, there = await self.objects.children(_key(folder))
        await asyncio.gather(
            *(self.read_slot(folder, _last(f.key).removesuffix(".json")) for f in there if f.key.endswith(".json"))
        )
        await super().walk(folder, first, follow)

    async def read(self, path: str) -> bytes | None:
        """See ``Store.read``."""
        return await self.objects.read(_key(path))

    async def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """See ``Store.read_many``: some at once."""
        return await asyncio.gather(*(self.read(path) for path in paths))

    async def write(self, path: str, data: bytes) -> None:
        """See ``Store.write``."""
        await self.objects.put(_key(path), data, hashlib.sha256(data).hexdigest(), new=False)

    async def list(self, path: str) -> tuple[Entry, ...]:
        """See ``Store.list``."""
        folders, files = await self.objects.children(_key(path) if path else "")
        found = [Entry(_last(f), True, 0) for f in folders]
        found += [Entry(_last(f.key), False, f.size, f.modified) for f in files]
        return tuple(sorted(found, key=lambda e: e.name))

    async def stat(self, path: str) -> Entry | None:
        """See ``Store.stat``. A folder is there while something lies below it."""
        found = await self.objects.head(_key(path))
        if found is not None:
            return Entry(_last(path), False, found.size)
        folders, files = await self.objects.children(path)
        return Entry(_last(path), True, 0) if folders or files else None

    async def make_folders(self, paths: Sequence[str]) -> None:
        """Nothing to do: a bucket has keys, not folders."""
        for path in paths:
            parts(path)

    async def put_files(
        self, sources: Sequence[Source], folder: str, on_bytes: OnBytes, *, replace: bool = False
    ) -> tuple[Copied, ...]:
        """See ``Store.put_files``. A file that was cut off is sent anew; one that is there already, as its declared
        sha256 says, is not sent again with ``replace``."""
        for source in sources:
            _key(f"{folder}/{source.path}")
        return tuple(await bucket_files.upload(self.objects, sources, folder, on_bytes, replace=replace))

    async def files(self, folder: str) -> tuple[Stored, ...]:
        """See ``Store.files``. One request a thousand files, and one for each file's declared sha256."""
        found = await self.objects.below(_key(folder))
        if self.objects.scheme != "file":
            found = await self.objects.heads(found)
        return tuple(_stored(f, folder) for f in found)

    async def get_files(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """See ``Store.get_files``."""
        for file in wanted:
            _key(f"{folder}/{file.path}")
        return tuple(await bucket_files.download(self.objects, wanted, folder, on_bytes))

    async def trash(self, folder: str, paths: Sequence[str]) -> None:
        """See ``Store.trash``: below ``.trash`` in the store's root, under the moment and the old path."""
        place = f"{TRASH}/{time.strftime('%Y%m%d-%H%M%S')}/{uuid.uuid4().hex[:4]}"
        await bucket_moves.throw_away(self.objects, [_key(f"{folder}/{path}") for path in paths], place)

    async def rename(self, path: str, to: str) -> bool:
        """See ``Store.rename``: copies, then deletes, in an order that any interruption leaves readable."""
        return await bucket_moves.move(self.objects, _key(path), _key(to))

    async def claim(self, folder: str) -> Callable[[], None]:
        """See ``Store.claim``: a lock file on this machine, since a bucket can't tell whether a process lives."""
        return await asyncio.to_thread(claims.claim, self.state / _key(folder))

    async def abandoned(self, parent: str) -> Sequence[str]:
        """See ``Store.abandoned``: those of this machine. What another machine left is counted by ``status``."""
        return await asyncio.to_thread(claims.abandoned, self.state / _key(parent))

    async def discard(self, folder: str) -> None:
        """See ``Store.discard``."""
        await self.objects.delete([f.key for f in await self.objects.below(_key(folder))])
        await asyncio.to_thread(claims.forget, self.state / folder)

    async def fetch(self, folder: str) -> Path:
        """Download the folder into this machine's cache. What is there from an earlier time and unchanged stays.

        Raises HybridError when there is no such folder.
        """
        found = await self.files(folder)
        if not found:
            raise HybridError(f"There is no folder {self.local(folder)}.")
        place = self.cache / folder
        index = place.with_name(place.name + ".json")
        wanted = [Wanted(f.path, str(place.joinpath(*parts(f.path))), f.size, f.sha256) for f in found]
        missing = await asyncio.to_thread(_missing, wanted, index)
        copied = await self.get_files(missing, folder, _unheard)
        await asyncio.to_thread(_remember, wanted, copied, index)
        await asyncio.to_thread(_tidy, place, {w.local for w in wanted})
        return place

    def local(self, path: str) -> str:
        """The object's address."""
        return self.objects.shown(_key(path))


def _key(path: str) -> str:
    return "/".join(parts(path))


def _last(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _unheard(_: int, __: str) -> None:
    return None


def _stored(found: Found, folder: str) -> Stored:
    return Stored(found.key.removeprefix(f"{folder}/"), found.size, found.sha256, modified=found.modified)


class _Kept(msgspec.Struct, frozen=True):
    """A file of the cache as it was when it had been compared."""

    sha256: str
    mtime_ns: int


def _missing(wanted: list[Wanted], index: Path) -> list[Wanted]:
    """Those that are not in the cache as they were when they were compared."""
    try:
        kept = msgspec.json.decode(index.read_bytes(), type=dict[str, _Kept])
    except (OSError, msgspec.DecodeError):
        kept = {}

    def here(file: Wanted) -> bool:
        known = kept.get(file.path)
        try:
            there = Path(file.local).lstat()
        except OSError:
            return False
        return (
            known is not None
            and there.st_size == file.size
            and there.st_mtime_ns == known.mtime_ns
            and bool(file.sha256)
            and known.sha256 == file.sha256
        )

    return [file for file in wanted if not here(file)]


def _remember(wanted: list[Wanted], copied: Sequence[Copied], index: Path) -> None:
    sha = {f.path: f.sha256 for f in wanted} | {c.path: c.sha256 for c in copied}
    kept = {f.path: _Kept(sha[f.path], Path(f.local).stat().st_mtime_ns) for f in wanted}
    atomic.write_bytes(index, msgspec.json.encode(kept))


def _tidy(place: Path, wanted: set[str]) -> None:
    """Remove from the cache what the folder does not hold any more; a part may be another process's."""
    for at, _, names in os.walk(place):
        for name in names:
            path = Path(at, name)
            if str(path) not in wanted and not name.endswith(".part"):
                path.unlink(missing_ok=True)
