"""Which files below the root are known, and what Drive's changes feed says about them since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from services import settings
from services.drive import google_root
from services.drive.api.types import DriveFile
from services.drive.errors import DriveRefused
from services.drive.google_mirror import Mirror
from services.drive.google_root import Layout
from services.errors import StoreUnreachable

if TYPE_CHECKING:
    from services.drive.api.client import DriveClient

FRESH = 1.0  # seconds for which the last poll of the changes, and a listing for reading, are good enough
FIRST_SECONDS = 15.0  # for the first answer of all
SAVE_SECONDS = 60.0


class Cache:
    """Files by id, and ids by folder and name. ``changed`` hears of a folder whose children are not what they were.

    What is here is believed as long as the feed, polled at most once a second, says nothing else.
    """

    def __init__(
        self, client: DriveClient, mirror: Mirror, drive: settings.Drive, changed: Callable[[str], None]
    ) -> None:
        self.client = client
        self.mirror = mirror
        self.root = ""
        self.layout = Layout({}, {})
        self.missed = False  # whether changes may have been missed since this box last looked
        self._drive = drive
        self._changed = changed
        self._token = ""
        self._polled = self._saved = -1e9
        self._by_id: dict[str, DriveFile] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        self._polling = asyncio.Lock()

    def get(self, id: str) -> DriveFile | None:
        """The file with this id, None when it is not known."""
        return self._by_id.get(id)

    def child(self, folder: str, name: str) -> DriveFile | None:
        """The only child of this name, None when none is known."""
        return self._by_id.get(self._by_name.get((folder, name), ""))

    def ambiguous(self, folder: str, name: str) -> None:
        """Several children have this name, or a new one has come: only a listing tells."""
        self._by_name.pop((folder, name), None)

    def put(self, file: DriveFile, *, parent: str = "") -> None:
        """Remember a file as it is now."""
        self.forget(file.id)
        self._by_id[file.id] = file
        for above in {*file.parents, *((parent,) if parent else ())}:
            self._by_name[above, file.name] = file.id
            self._changed(above)
        if file.id == self.root:
            self.layout = google_root.layout(file.properties)

    def forget(self, id: str) -> None:
        """The file is not what it was."""
        before = self._by_id.pop(id, None)
        if before is not None:
            for above in before.parents:
                if self._by_name.get((above, before.name)) == id:
                    del self._by_name[above, before.name]
                self._changed(above)

    async def reached(self) -> None:
        """Raises StoreUnreachable soon when Drive has never answered yet; later on the client is patient."""
        if self._polled > 0:
            return
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await self.fresh()
        except TimeoutError:
            trouble = self.client.stats.last_trouble.partition(";")[0] or f"nothing in {FIRST_SECONDS:g} s"
            raise StoreUnreachable(
                f"Google Drive does not answer ({trouble}).", hint="Check the network, then try again."
            ) from None

    async def fresh(self) -> None:
        """Bring the cache up to Drive's changes feed unless that was done within the last second."""
        if monotonic() - self._polled < FRESH:
            return
        async with self._polling:
            began = monotonic()
            if began - self._polled < FRESH:
                return
            if not self._token:
                self._load()
            if self._token:
                await self._replay()
            else:
                self._token, self.missed = await self.client.changes_start(), True
            self._polled = began
            if began - self._saved > SAVE_SECONDS:
                self.save()

    async def _replay(self) -> None:
        try:
            changes, self._token = await self.client.changes(self._token)
        except DriveRefused:  # the token is too old, or another account's
            self._by_id.clear()
            self._by_name.clear()
            self._token, self.root, self.missed = await self.client.changes_start(), "", True
            return
        for change in changes:
            known = self._by_id.get(change.id)
            if change.file is None or change.file.trashed:
                self.forget(change.id)
            elif known is not None:
                self.put(change.file)
            for above in change.file.parents if change.file is not None else ():
                self._changed(above)
                if known is None and change.file is not None:  # perhaps a twin: the next look must be a listing
                    self.ambiguous(above, change.file.name)
        self.mirror.noticed({c.id: c.file.sha256 if c.file is not None else "" for c in changes})

    def _load(self) -> None:
        if self._drive.account not in ("user", "service-account"):
            return  # nobody can say whether it is still the same person
        snapshot = self.mirror.load()
        if snapshot is not None and snapshot.root == (self._drive.root_id or snapshot.root):
            self._token, self.root = snapshot.token, snapshot.root
            for file in snapshot.files:
                self.put(file)

    def save(self) -> None:
        """Keep what is known for the next process."""
        if self._token and self.root:
            self._saved = monotonic()
            self.mirror.save(self._token, self.root, self._by_id.values())
