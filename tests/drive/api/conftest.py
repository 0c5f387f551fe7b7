"""A client that is not patient, on the server of tests/drive_bed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.drive.api.client import DriveClient
from services.drive.api.http import Retry
from services.drive.api.types import DriveFile
from tests.drive_bed.fixtures import drive_server
from tests.drive_bed.serve import Account, DriveServer

__all__ = ["drive_server"]

IMPATIENT = Retry(first=0.01, most=0.05, tries=6, connect=2, stall=2)


class Bench:
    """An account, a folder on its Drive, and clients that work there, each as if in a process of its own."""

    def __init__(self, server: DriveServer, account: Account, place: Path) -> None:
        self.server = server
        self.account = account
        self.place = place
        self.folder = account.put("work")
        self.shown = 0
        self._open: list[DriveClient] = []

    def client(self, retry: Retry = IMPATIENT, **more: object) -> DriveClient:
        """A new client on the same state folder."""
        settings = self.server.settings(self.account, **more)
        made = DriveClient(self.server.tokens(self.account), settings, self.place / "state", retry=retry)
        self._open.append(made)
        return made

    def on_bytes(self, n: int) -> None:
        """Adds up what a person would be shown."""
        self.shown += n

    def file(self, name: str, size: int, seed: int = 1) -> Path:
        """A local file with bytes of its own."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{seed} {size}").randbytes(size))
        return path

    def remote(self, name: str, size: int, seed: int = 1) -> tuple[str, bytes]:
        """A file on Drive, made by another process: its id and bytes."""
        local = self.file(f"made/{name}", size, seed)
        id = self.server.call(
            "put", email=self.account.email, name=name, parent=self.folder, client=self.account.client, path=str(local)
        )["id"]
        return str(id), local.read_bytes()

    def stored(self, name: str) -> bytes:
        """What the one file of this name holds on the server."""
        (held,) = self.server.named(name)
        return held.read()

    def sent(self) -> int:
        """Bytes of files that the server took in upload requests, as often as they came."""
        return sum(r.bytes_in for r in self.server.requests if "/upload/" in r.path)

    def paths(self, method: str, text: str) -> int:
        """How many requests went there."""
        return sum(r.method == method and text in f"{r.path}?{r.query}" for r in self.server.requests)

    async def close(self) -> None:
        for client in self._open:
            await client.close()


@pytest.fixture
async def bench(drive_server: DriveServer, tmp_path: Path) -> AsyncIterator[Bench]:
    """See Bench."""
    made = Bench(drive_server, drive_server.account(), tmp_path)
    yield made
    await made.close()


@pytest.fixture
def sha() -> Callable[[Path], str]:
    """The sha256 of a local file."""
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


async def found(client: DriveClient, id: str) -> DriveFile:
    """A file that must be there."""
    file = await client.get(id)
    assert file is not None
    return file
