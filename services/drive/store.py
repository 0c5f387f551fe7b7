"""The store's interface: a small tree of files and folders, plus slots that are created once and never changed.

Paths are relative to the store's root, with "/" between parts ("models/finetuned/banking-v1"). A slot is a small file
addressed by an id from ``new_id``; ``put_new`` on a taken id is refused, so of two writers exactly one wins. On Google
Drive the id is a pre-generated file id and the refusal is HTTP 409; in a folder it is an exclusive create.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.errors import BadInput

INCOMING = "models/finetuned/.incoming"  # where a version's bytes lie until its record is written

TRASH = ".trash"  # where a folder keeps what was thrown away; Drive has a trash of its own

OnBytes = Callable[[int, str], None]


class Entry(msgspec.Struct, frozen=True):
    """A file or folder by its last name; ``size`` is a file's bytes, 0 for a folder.

    ``modified`` is Unix time, 0 where the store gives none; ``skipped`` says why a file can't be fetched, else "".
    """

    name: str
    folder: bool
    size: int
    modified: float = 0.0
    skipped: str = ""


class Source(msgspec.Struct, frozen=True):
    """A local file to be copied to ``path`` below the target folder; ``size`` in bytes as it was listed."""

    local: str
    path: str
    size: int


class Copied(msgspec.Struct, frozen=True):
    """A file that lies in the store and was read back: its bytes there have this size and sha256 (hex)."""

    path: str
    size: int
    sha256: str


class Stored(msgspec.Struct, frozen=True):
    """A file that lies in the store, by its path below the folder that was asked for. ``size`` in bytes.

    ``sha256`` and ``md5`` (hex) are what the store knows without reading the bytes, else "". ``modified`` is Unix time.
    ``settled`` is False while a mount has not yet confirmed that the bytes have reached Drive. ``skipped`` says why it
    can't be fetched (a Google Doc, a duplicate name, a shortcut that leads nowhere), else "".
    """

    path: str
    size: int
    sha256: str = ""
    md5: str = ""
    modified: float = 0.0
    settled: bool = True
    skipped: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """A file of the store to be fetched: ``path`` below the folder, ``local`` where to. Known size and sha256 (hex)
    are checked, "" when unknown."""

    path: str
    local: str
    size: int
    sha256: str = ""


class StoreStatus(msgspec.Struct, frozen=True):
    """Where models and the registry are kept. ``label`` says in words whether that is Google Drive.

    ``promises`` are the store's guarantees in words; ``free_bytes`` and ``total_bytes`` are None where unknown;
    ``unfinished`` counts additions that were begun and never committed (their bytes are ``unfinished_bytes``).
    ``problem`` says in a sentence or two what is in the way and what to do, "" when nothing is.
    """

    kind: str
    label: str
    path: str
    google_drive: bool
    reachable: bool
    created: bool
    writable: bool
    free_bytes: int | None
    total_bytes: int | None
    promises: tuple[str, ...]
    unfinished: int = 0
    unfinished_bytes: int = 0
    problem: str = ""


class Store(ABC):
    """What the registry and the transfers need. Every method raises StoreUnreachable when the place does not answer,
    and HybridError when it answers with a failure (disk full, no permission)."""

    kind: str
    label: str

    @abstractmethod
    async def status(self) -> StoreStatus:
        """Where this is, how much room it has, what it promises. Raises StoreUnreachable."""

    @abstractmethod
    async def new_id(self) -> str:
        """An id that no slot has; nothing is created."""

    @abstractmethod
    async def first_id(self, folder: str) -> str:
        """The id of the first slot of the chain kept in ``folder``: the same for every writer."""

    @abstractmethod
    async def put_new(self, folder: str, id: str, data: bytes) -> bool:
        """Create the slot ``id`` in ``folder`` with ``data``, whole or not at all. False when it is taken."""

    @abstractmethod
    async def read_slot(self, folder: str, id: str) -> bytes | None:
        """The slot's data, or None while it is empty. Never answers from a stale listing."""

    async def walk(self, folder: str, first: str, follow: Callable[[str, bytes], str | None]) -> None:
        """Read slots one after the other from ``first``: ``follow(id, data)`` names the next one, None to stop.

        Stops at the first empty slot. ``follow`` must be quick and may be called from another thread.
        """
        id: str | None = first
        while id is not None and (data := await self.read_slot(folder, id)) is not None:
            id = follow(id, data)

    @abstractmethod
    async def read(self, path: str) -> bytes | None:
        """A small file's content, None when there is none."""

    async def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """``read`` of each path, in their order."""
        return [await self.read(path) for path in paths]

    @abstractmethod
    async def write(self, path: str, data: bytes) -> None:
        """Replace a small file whole; parents are created."""

    @abstractmethod
    async def list(self, path: str) -> tuple[Entry, ...]:
        """The children of a folder by name; empty when there is no such folder. "" is the store's root."""

    @abstractmethod
    async def stat(self, path: str) -> Entry | None:
        """One file or folder, None when there is none."""

    @abstractmethod
    async def make_folders(self, paths: Sequence[str]) -> None:
        """Create folders (and parents) that are missing."""

    @abstractmethod
    async def put_files(
        self, sources: Sequence[Source], folder: str, on_bytes: OnBytes, *, replace: bool = False
    ) -> tuple[Copied, ...]:
        """Copy ``sources`` below ``folder`` and verify each by its sha256 against what was read from the source.

        A file that is there already is an error, or with ``replace`` becomes the new one, whole. ``on_bytes(n, path)``
        is called from the loop's thread as bytes arrive; a negative n takes back what must be sent again. Raises
        HybridError when a source changed meanwhile or a copy differs. Cancelling stops within a block and leaves what
        was copied; the next call goes on from there where the store can.
        """

    @abstractmethod
    async def files(self, folder: str) -> tuple[Stored, ...]:
        """Every file below ``folder``, at any depth, by path; empty when there is no such folder."""

    @abstractmethod
    async def get_files(self, wanted: Sequence[Wanted], folder: str, on_bytes: OnBytes) -> tuple[Copied, ...]:
        """Fetch files of ``folder`` to their local places: whole, verified, atomically, or not at all.

        Parts that came lie beside as ``.part`` until then and are gone on from, also by another process. Raises
        Corrupted when bytes differ from their checksum, HybridError when the disk is full.
        """

    @abstractmethod
    async def trash(self, folder: str, paths: Sequence[str]) -> None:
        """Move files below ``folder`` to the store's trash, from where a person can bring them back.

        Where the store has folders (a bucket has none), a path may be one of a folder. ``folder`` "" is the root.
        """

    @abstractmethod
    async def rename(self, path: str, to: str) -> bool:
        """Move a file or folder. False when ``to`` exists already or ``path`` does not: nothing is overwritten."""

    @abstractmethod
    async def claim(self, folder: str) -> Callable[[], None]:
        """Mark a folder that is about to be made as worked on by this process; the result ends that."""

    @abstractmethod
    async def abandoned(self, parent: str) -> Sequence[str]:
        """Names of claimed folders in ``parent`` whose process is surely gone for good."""

    @abstractmethod
    async def discard(self, folder: str) -> None:
        """Delete a folder of our own unfinished bytes; absent is fine."""

    @abstractmethod
    async def fetch(self, folder: str) -> Path:
        """A local path with the folder's content, downloaded first where the store is remote."""

    @abstractmethod
    def local(self, path: str) -> str:
        """How a person finds ``path``: an absolute local path, or the store's own notation."""


def parts(path: str) -> tuple[str, ...]:
    """The parts of a relative store path. Raises BadInput for an absolute path, "..", or a control character."""
    split = tuple(path.split("/"))
    if any(p in ("", ".", "..") or any(ord(c) < 32 or ord(c) == 127 for c in p) for p in split):
        raise BadInput(f"{path!r} is not a path inside the store.", hint="Use relative paths without '..'.")
    return split
