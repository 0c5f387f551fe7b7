"""The client of Google Drive's API v3: the calls this project needs. One per process and account.

https://developers.google.com/workspace/drive/api/reference/rest/v3
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from services import settings
from services.drive.api import wire
from services.drive.api.downloads import Downloads
from services.drive.api.http import Http, Retry
from services.drive.api.journal import Journal, private_folder, sweep_downloads
from services.drive.api.pacing import EDIT, GET, LIST, Pace
from services.drive.api.reading import Threads
from services.drive.api.small import Small
from services.drive.api.trouble import Trouble
from services.drive.api.types import FOLDER, About, Change, DriveFile, OnBytes, SharedDrive, Stats, Tokens
from services.drive.api.uploads import Uploads
from services.drive.errors import DriveRefused
from services.errors import StoreUnreachable

_ALL = {"supportsAllDrives": "true"}
_EVERYWHERE = {"supportsAllDrives": "true", "includeItemsFromAllDrives": "true"}
_IDS = 100  # ids fetched ahead
_AGAIN = 4  # how often a listing that Drive calls incomplete is asked for again


class DriveClient:
    """Everything raises StoreUnreachable (no answer after many tries), SignInNeeded, or a DriveRefused.

    ``state`` is the folder of the journals of uploads and downloads, e.g. ``workspace.drive_state``. ``stats``
    is what was done so far.
    """

    def __init__(
        self,
        tokens: Tokens,
        settings: settings.Drive,
        state: Path,
        *,
        retry: Retry | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.stats = Stats()
        self._http = Http(settings.api, tokens, self.stats, pace or Pace(), retry or Retry())
        self._shared_drive = settings.shared_drive
        self._state = state
        self._lines = max(4, settings.transfers)
        threads = 8 + settings.transfers  # some wait for the disk while others read, write and hash
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="drive")
        self._ids: list[str] = []
        self._ids_lock = asyncio.Lock()
        self._small = Small(self._http, self.get)
        self._ups: Uploads | None = None
        self._downs: Downloads | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Transfers under way must have ended or been cancelled."""
        await self._http.close()
        self._pool.shutdown(wait=False)

    # the account

    async def about(self) -> About:
        """Whose account this is, and its room."""
        answer = await self._http.call(
            "GET",
            "/drive/v3/about",
            wire.AboutAnswer,
            what="asking for the account",
            units=GET,
            params={"fields": wire.ABOUT},
        )
        return answer.about()

    async def shared_drives(self) -> list[SharedDrive]:
        """The shared drives that the account can see."""
        found: list[SharedDrive] = []
        params = {"pageSize": "100", "fields": wire.DRIVES}
        while True:
            page = await self._http.call(
                "GET", "/drive/v3/drives", wire.DriveList, what="listing the shared drives", units=LIST, params=params
            )
            found += page.drives
            if not page.next_page_token:
                return found
            params["pageToken"] = page.next_page_token

    async def new_ids(self, count: int = 1) -> list[str]:
        """Ids that no file has; nothing is created. Fetched ahead, so that most calls cost no request."""
        async with self._ids_lock:
            while len(self._ids) < count:
                params = {"count": str(min(1000, max(_IDS, count - len(self._ids)))), "space": "drive", "fields": "ids"}
                answer = await self._http.call(
                    "GET",
                    f"{wire.FILES_PATH}/generateIds",
                    wire.Ids,
                    what="asking for new ids",
                    units=GET,
                    params=params,
                )
                self._ids += answer.ids
            taken, self._ids = self._ids[:count], self._ids[count:]
            return taken

    # looking

    async def get(self, id: str) -> DriveFile | None:
        """A file by its id, None when there is none or the account may not see it. A trashed file is found."""
        try:
            answer = await self._http.call(
                "GET",
                wire.file_path(id),
                wire.File,
                what="looking at a file",
                units=GET,
                params={"fields": wire.FILE, **_ALL},
            )
        except DriveRefused as refusal:
            if refusal.status == 404:
                return None
            raise
        return answer.file()

    async def children(
        self, folder: str, *, name: str | None = None, properties: dict[str, str] | None = None
    ) -> list[DriveFile]:
        """What lies in a folder and is not trashed: all of it, or what has this name or these properties.

        Several files may have one name. A listing may lag behind the last changes by seconds; only ``get`` does not.
        Raises StoreUnreachable when Drive can't search all of it.
        """
        terms = [f"{wire.quoted(folder)} in parents", "trashed = false"]
        if name is not None:
            terms.append(f"name = {wire.quoted(name)}")
        for key, value in (properties or {}).items():
            terms.append(f"properties has {{ key={wire.quoted(key)} and value={wire.quoted(value)} }}")
        params = {"q": " and ".join(terms), "fields": wire.FILES, "pageSize": "1000", "spaces": "drive", **_EVERYWHERE}
        if self._shared_drive:
            params |= {"corpora": "drive", "driveId": self._shared_drive}
        for attempt in range(_AGAIN):
            found = await self._listed(params)
            if found is not None:
                return found
            self.stats.last_trouble = "listing a folder: not all of it came"
            await asyncio.sleep(self._http.retry.first * 2**attempt)
        raise StoreUnreachable(
            "Google Drive can't list a folder completely at the moment.", hint="Try again in a few minutes."
        )

    async def _listed(self, params: Mapping[str, str]) -> list[DriveFile] | None:
        """All pages; the next one is asked for while this one is read. None when not all of it is there."""
        found: list[DriveFile] = []
        following: asyncio.Task[wire.FileList] | None = asyncio.create_task(self._page(params))
        try:
            while following is not None:
                page = await following
                if page.incomplete_search:
                    return None
                token = page.next_page_token
                following = asyncio.create_task(self._page({**params, "pageToken": token})) if token else None
                await asyncio.sleep(0)  # the request goes out first
                found += page.found()
        except Trouble:
            return None
        finally:
            if following is not None:
                following.cancel()
        return found

    async def _page(self, params: Mapping[str, str]) -> wire.FileList:
        return await self._http.call(
            "GET", wire.FILES_PATH, wire.FileList, what="listing a folder", units=LIST, params=params
        )

    async def changes_start(self) -> str:
        """A token from which ``changes`` tells what is changed from now on."""
        params = {**_ALL, **({"driveId": self._shared_drive} if self._shared_drive else {})}
        answer = await self._http.call(
            "GET",
            "/drive/v3/changes/startPageToken",
            wire.StartPageToken,
            what="asking for changes",
            units=GET,
            params=params,
        )
        return answer.start_page_token

    async def changes(self, token: str) -> tuple[list[Change], str]:
        """What has changed since ``token``, and the token for the next time."""
        found: list[Change] = []
        params = {"pageToken": token, "fields": wire.CHANGES, "pageSize": "1000", "spaces": "drive", **_EVERYWHERE}
        if self._shared_drive:
            params["driveId"] = self._shared_drive
        while True:
            page = await self._http.call(
                "GET", "/drive/v3/changes", wire.ChangeList, what="asking for changes", units=LIST, params=params
            )
            found += page.found()
            if not page.next_page_token:
                return found, page.new_start_page_token or token
            params["pageToken"] = page.next_page_token

    # folders and small files

    async def create_folder(
        self, name: str, parent: str, *, id: str = "", properties: dict[str, str] | None = None
    ) -> DriveFile:
        """Make a folder. One whose ``id`` is taken is the one that was made before: it is returned as it is."""
        id = id or await self._new_id()
        metadata = {"id": id, "name": name, "mimeType": FOLDER, "parents": [parent], "properties": properties or {}}
        try:
            answer = await self._http.call(
                "POST",
                wire.FILES_PATH,
                wire.File,
                what=f"making the folder {name}",
                units=EDIT,
                params={"fields": wire.FILE, **_ALL},
                json=metadata,
                create=True,
            )
        except DriveRefused as refusal:
            if refusal.status == 409 and (file := await self.get(id)) is not None:
                return file
            raise
        return answer.file()

    async def create(
        self, name: str, parent: str, data: bytes, *, id: str = "", properties: dict[str, str] | None = None
    ) -> bool:
        """Create a small file with this content: True when it lies there, by this call or an equal earlier one.

        False when ``id`` is taken by other content. Of two writers with one id exactly one gets True, unless both
        wrote the same bytes.
        """
        id = id or await self._new_id()
        metadata = {"id": id, "name": name, "parents": [parent], "properties": properties or {}}
        return await self._small.create(id, metadata, data)

    async def replace(self, id: str, data: bytes) -> DriveFile:
        """Give a small file new content. Raises Corrupted when it does not arrive as it is."""
        return await self._small.replace(id, data)

    async def read(self, id: str) -> bytes | None:
        """A small file's bytes, compared with its checksum; None when there is no such file. Raises Corrupted."""
        return await self._small.read(id)

    # transfers

    async def upload(self, local: Path, name: str, parent: str, on_bytes: OnBytes, *, replace: str = "") -> DriveFile:
        """Send a file of any size; ``replace`` is the id of a file that gets its content. Verified by checksum.

        Journalled: after a crash another process that sends the same unchanged file to the same place goes on where it
        was, and one that had arrived is not sent again. Raises BadInput when ``local`` can't be read, HybridError
        when it changes meanwhile, Refused when it is being sent already, Corrupted when it does not arrive as it is.
        """
        if self._ups is None:
            journal = Journal(private_folder(self._state / "uploads"))
            self._ups = Uploads(self._http, journal, self._threads, self.get, self._new_id, self.delete, self.trash)
            await asyncio.to_thread(journal.sweep)
        return await self._ups.upload(local, name, parent, on_bytes, replace)

    async def download(
        self, file: DriveFile, local: Path, on_bytes: OnBytes, *, abuse: bool = False, flush_name: bool = True
    ) -> str:
        """Fetch a file; the sha256 (hex) of what lies at ``local`` then. Verified before it gets its name.

        What came lies in ``NAME.part`` and is gone on from, also by another process. A file that is there and right is
        not fetched again. ``abuse`` acknowledges that Drive takes it for malware. The disk has it then, its name too,
        unless ``flush_name`` is False: who fetches many files lets ``placing.flushed`` wait for all of them at once.
        Raises BadInput for what has no bytes, HybridError when the disk is full, Refused when it is being fetched
        already, Corrupted.
        """
        if self._downs is None:
            folder = private_folder(self._state / "downloads")
            self._downs = Downloads(self._http, folder, self._threads, self._lines)
            await asyncio.to_thread(sweep_downloads, folder)
        if file.target:
            file = await self.get(file.target) or file
        return await self._downs.download(file, local, on_bytes, abuse, flush_name)

    def _threads(self) -> Threads:
        return Threads(self._pool)

    async def _new_id(self) -> str:
        return (await self.new_ids())[0]

    # changing

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        add_parent: str = "",
        remove_parent: str = "",
        properties: dict[str, str] | None = None,
    ) -> DriveFile:
        """Rename, move, set properties (those not named stay)."""
        params = {"fields": wire.FILE, **_ALL}
        if add_parent:
            params["addParents"] = add_parent
        if remove_parent:
            params["removeParents"] = remove_parent
        body: dict[str, object] = {}
        if name is not None:
            body["name"] = name
        if properties is not None:
            body["properties"] = properties
        answer = await self._http.call(
            "PATCH", wire.file_path(id), wire.File, what="changing a file", units=EDIT, params=params, json=body
        )
        return answer.file()

    async def trash(self, id: str) -> None:
        """Move a file to Drive's trash, from where a person can bring it back for thirty days."""
        await self._http.call(
            "PATCH",
            wire.file_path(id),
            wire.File,
            what="moving a file to the trash",
            units=EDIT,
            params={"fields": "id", **_ALL},
            json={"trashed": True},
        )

    async def delete(self, id: str) -> None:
        """Delete for good; absent is fine. Only for our own unfinished things."""
        try:
            await self._http.call(
                "DELETE", wire.file_path(id), wire.Nothing, what="deleting a file", units=EDIT, params=_ALL
            )
        except DriveRefused as refusal:
            if refusal.status != 404:
                raise
