"""The API's JSON, field by field, and what it becomes here. Masks ask for these fields and no others."""

from __future__ import annotations

import urllib.parse
from datetime import datetime
from typing import TypeVar

import msgspec

from services.drive.api.trouble import Trouble
from services.drive.api.types import About, Change, DriveFile, SharedDrive

FILES_PATH = "/drive/v3/files"

FILE = (
    "id,name,mimeType,parents,size,md5Checksum,sha256Checksum,modifiedTime,createdTime,trashed,"
    "shortcutDetails(targetId,targetMimeType),properties,driveId,ownedByMe"
)
FILES = f"nextPageToken,incompleteSearch,files({FILE})"
CHANGES = f"nextPageToken,newStartPageToken,changes(changeType,fileId,removed,file({FILE}))"
ABOUT = "user(displayName,emailAddress),storageQuota(limit,usage,usageInDrive,usageInDriveTrash)"
DRIVES = "nextPageToken,drives(id,name)"

T = TypeVar("T")


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """Trees, never cycles: the collector needs not look at thousands of them."""


class _Shortcut(_Wire):
    target_id: str = ""
    target_mime_type: str = ""


class File(_Wire):
    id: str
    name: str = ""
    mime_type: str = ""
    parents: tuple[str, ...] = ()
    size: str | None = None
    md5_checksum: str = msgspec.field(name="md5Checksum", default="")
    sha256_checksum: str = msgspec.field(name="sha256Checksum", default="")
    modified_time: datetime | None = None
    created_time: datetime | None = None
    trashed: bool = False
    shortcut_details: _Shortcut | None = None
    properties: dict[str, str] = {}
    drive_id: str = ""
    owned_by_me: bool = True

    def file(self) -> DriveFile:
        """Google gives its own documents a size too, but they have no bytes that could be fetched."""
        google = self.mime_type.startswith("application/vnd.google-apps.")
        shortcut = self.shortcut_details
        return DriveFile(
            id=self.id,
            name=self.name,
            mime=self.mime_type,
            parents=self.parents,
            size=None if google or self.size is None else int(self.size),
            md5=self.md5_checksum,
            sha256=self.sha256_checksum,
            modified=self.modified_time.timestamp() if self.modified_time else 0.0,
            created=self.created_time.timestamp() if self.created_time else 0.0,
            trashed=self.trashed,
            target=shortcut.target_id if shortcut else "",
            target_mime=shortcut.target_mime_type if shortcut else "",
            properties=self.properties,
            drive_id=self.drive_id,
            owned_by_me=self.owned_by_me,
        )


class FileList(_Wire):
    """One page, its files not read yet: the token of the next page is wanted first."""

    files: msgspec.Raw = msgspec.Raw(b"[]")
    next_page_token: str = ""
    incomplete_search: bool = False

    def found(self) -> list[DriveFile]:
        """The files. Raises Trouble when they are not as the API would write them."""
        return [file.file() for file in decode(self.files, list[File])]


class Ids(_Wire):
    ids: list[str] = []


class _Change(_Wire):
    file_id: str = ""
    change_type: str = "file"
    removed: bool = False
    file: File | None = None


class ChangeList(_Wire):
    changes: list[_Change] = []
    next_page_token: str = ""
    new_start_page_token: str = ""

    def found(self) -> list[Change]:
        """Those of files; a shared drive's own changes (its name, its members) are none of ours."""
        return [
            Change(c.file_id, None if c.removed or c.file is None else c.file.file())
            for c in self.changes
            if c.change_type == "file" and c.file_id
        ]


class StartPageToken(_Wire):
    start_page_token: str


class _User(_Wire):
    display_name: str = ""
    email_address: str = ""


class _Quota(_Wire):
    limit: str | None = None
    usage: str = "0"
    usage_in_drive: str = "0"
    usage_in_drive_trash: str = "0"


class AboutAnswer(_Wire):
    user: _User
    storage_quota: _Quota

    def about(self) -> About:
        quota = self.storage_quota
        return About(
            email=self.user.email_address,
            name=self.user.display_name,
            limit=int(quota.limit) if quota.limit is not None else None,
            used=int(quota.usage),
            in_drive=int(quota.usage_in_drive),
            in_trash=int(quota.usage_in_drive_trash),
        )


class Nothing(_Wire):
    """Of an answer without a body."""


class DriveList(_Wire):
    drives: list[SharedDrive] = []
    next_page_token: str = ""


def decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """``body`` as a ``kind``. Raises Trouble when it is not what the API would answer (cut short, a portal's page)."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Trouble("an answer that is not one of Google Drive's API") from None


def file_path(id: str) -> str:
    """Where a file is looked at, changed and read."""
    return f"{FILES_PATH}/{urllib.parse.quote(id, safe='')}"


def upload_path(id: str = "") -> str:
    """Where bytes are sent: for a new file, or as the content of the file ``id``."""
    return "/upload" + (file_path(id) if id else FILES_PATH)


def quoted(text: str) -> str:
    """``text`` as a value of the query language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
