"""What the API's answers become. Field names and meanings: https://developers.google.com/workspace/drive/api/reference/rest/v3/files"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"

OnBytes = Callable[[int], None]
"""Hears of bytes as they are sent or received; a negative number takes back what has to be sent again."""


class DriveFile(msgspec.Struct, frozen=True, gc=False):
    """One file, folder or shortcut.

    ``size`` in bytes is None for what has no bytes of its own (folders, shortcuts, Google Docs). ``md5`` and ``sha256``
    are hex, "" when Drive gives none. ``modified`` and ``created`` are Unix time in seconds. ``target`` is
    what a shortcut leads to, ``target_mime`` its type. ``properties`` are visible to every client. ``drive_id`` names a
    shared drive, "" for My Drive.
    """

    id: str
    name: str
    mime: str
    parents: tuple[str, ...] = ()
    size: int | None = None
    md5: str = ""
    sha256: str = ""
    modified: float = 0.0
    created: float = 0.0
    trashed: bool = False
    target: str = ""
    target_mime: str = ""
    properties: dict[str, str] = {}
    drive_id: str = ""
    owned_by_me: bool = True

    @property
    def folder(self) -> bool:
        return self.mime == FOLDER

    @property
    def google_doc(self) -> bool:
        """A Doc, Sheet, Form …: it has no bytes and can't be downloaded as it is."""
        return self.mime.startswith("application/vnd.google-apps.") and self.mime not in (FOLDER, SHORTCUT)


class About(msgspec.Struct, frozen=True):
    """The account and its room. Bytes; ``limit`` is None for unlimited storage."""

    email: str
    name: str
    limit: int | None
    used: int
    in_drive: int
    in_trash: int


class Change(msgspec.Struct, frozen=True):
    """One entry of the changes feed: ``file`` is None when it was removed or is out of reach now."""

    id: str
    file: DriveFile | None


class SharedDrive(msgspec.Struct, frozen=True):
    """A shared drive that the account can see."""

    id: str
    name: str


class Stats(msgspec.Struct):
    """What a client has done so far. ``units`` are the API's quota units."""

    requests: int = 0
    retries: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    units: int = 0
    waited_seconds: float = 0.0
    last_trouble: str = ""


class Tokens(Protocol):
    """Where the client gets its access token from."""

    async def token(self, *, refused: str = "") -> str:
        """A valid access token, refreshed in time. ``refused`` is one that the API answered 401 to: get another.

        Raises SignInNeeded when the grant is gone, StoreUnreachable when the token server does not answer.
        """
