"""An item as the API's File resource, and the other resources that are more than a line.

https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from tests.drive_bed import fields
from tests.drive_bed.accounts import Account, Token
from tests.drive_bed.errors import ApiError
from tests.drive_bed.items import FOLDER, SHORTCUT, Item, Items, SharedDrive

DEFAULT_FIELDS: fields.Mask = {"kind": None, "id": None, "name": None, "mimeType": None}
_SUMS = {"md5Checksum": "md5", "sha1Checksum": "sha1", "sha256Checksum": "sha256"}
_EXPORTS = {
    "application/vnd.google-apps.document": "application/pdf",
    "application/vnd.google-apps.spreadsheet": "text/csv",
    "application/vnd.google-apps.presentation": "application/pdf",
}


def sums_in(mask: fields.Mask) -> frozenset[str]:
    """The checksums that a mask asks for."""
    return frozenset(algorithm for name, algorithm in _SUMS.items() if name in mask or "*" in mask)


def stamp(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds, as Drive writes times."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(moment * 1000) % 1000:03d}Z"


def moment(text: str, parameter: str = "modifiedTime") -> float:
    """Unix seconds of an RFC 3339 time (UTC when it names no zone). Raises ApiError 400."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise ApiError(400, "invalid", f"Invalid value for: Invalid format: {text!r}", location=parameter) from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def user(account: Account, me: str) -> dict[str, Any]:
    """A User resource."""
    return {
        "kind": "drive#user",
        "displayName": account.name,
        "me": account.email == me,
        "permissionId": str(zlib.crc32(account.email.encode())).zfill(20),
        "emailAddress": account.email,
    }


class View:
    """The resources as one token's holder sees them."""

    def __init__(self, items: Items, accounts: dict[str, Account], token: Token) -> None:
        self.items, self.accounts, self.token = items, accounts, token
        self.me = token.grant.account.email
        self.client = token.grant.client

    async def prepare(self, items: Iterable[Item], mask: fields.Mask) -> None:
        """Compute the checksums that ``mask`` asks for; ``file`` is plain after that."""
        if wanted := sums_in(mask):
            for item in items:
                if item.blob:
                    await item.blob.need(wanted)

    def file(self, item: Item, mask: fields.Mask) -> dict[str, Any]:
        """A File resource with the fields of ``mask`` that this item has."""
        names = _FILE if "*" in mask else mask
        out: dict[str, Any] = {}
        for name in names:
            value = _FILE[name](self, item)
            if value is not None:
                below = mask.get(name)
                out[name] = value if below is None else fields.cut(value, below)
        return out

    def drive(self, drive: SharedDrive) -> dict[str, Any]:
        """A Drive resource."""
        role = drive.members.get(self.me, "reader")
        return {
            "kind": "drive#drive",
            "id": drive.id,
            "name": drive.name,
            "createdTime": stamp(drive.created),
            "hidden": False,
            "capabilities": {
                "canAddChildren": role != "reader",
                "canEdit": role != "reader",
                "canListChildren": True,
                "canDeleteChildren": role == "organizer",
                "canTrashChildren": role in ("organizer", "fileOrganizer"),
            },
        }


def may_edit(view: View, item: Item) -> bool:
    """The account may change this item."""
    if item.read_only:
        return False
    if item.drive:
        return view.items.drives[item.drive].members.get(view.me, "reader") != "reader"
    return item.owner == view.me


def _owners(view: View, item: Item) -> list[dict[str, Any]] | None:
    return None if item.drive else [user(view.accounts[item.owner], view.me)]


def _shortcut(view: View, item: Item) -> dict[str, Any] | None:
    if item.mime != SHORTCUT:
        return None
    target = view.items.by_id.get(item.target)
    details = {"targetId": item.target}
    if target is not None:
        details["targetMimeType"] = target.mime
    return details


def _capabilities(view: View, item: Item) -> dict[str, Any]:
    edit = may_edit(view, item)
    return {
        "canEdit": edit,
        "canRename": edit,
        "canTrash": edit and not item.root,
        "canDelete": edit and not item.root,
        "canDownload": item.blob is not None,
        "canAddChildren": edit and item.folder,
        "canListChildren": item.folder,
        "canCopy": not item.folder,
    }


def _sum(algorithm: str) -> Callable[[View, Item], str | None]:
    return lambda view, item: item.blob.sums.get(algorithm) if item.blob else None


def _extension(view: View, item: Item) -> str | None:
    if item.blob is None:
        return None
    return item.name.rpartition(".")[2] if "." in item.name else ""


def _size(view: View, item: Item) -> str | None:
    """Drive tells a size of Google Docs too, one byte for a new one, although no bytes can be fetched."""
    if item.google:
        return None if item.mime in (FOLDER, SHORTCUT) else "1"
    return str(item.size)


def _link(view: View, item: Item) -> str:
    if item.folder:
        return f"https://drive.google.com/drive/folders/{item.id}"
    return f"https://drive.google.com/file/d/{item.id}/view?usp=drivesdk"


def _exports(view: View, item: Item) -> dict[str, str] | None:
    mime = _EXPORTS.get(item.mime)
    return {mime: f"https://docs.google.com/feeds/download/documents/export?id={item.id}"} if mime else None


_FILE: dict[str, Callable[[View, Item], Any]] = {
    "kind": lambda view, item: "drive#file",
    "id": lambda view, item: item.id,
    "name": lambda view, item: item.name,
    "mimeType": lambda view, item: item.mime,
    "description": lambda view, item: item.description or None,
    "starred": lambda view, item: item.starred,
    "trashed": lambda view, item: view.items.in_trash(item),
    "explicitlyTrashed": lambda view, item: item.trashed,
    "trashedTime": lambda view, item: stamp(item.trashed_at) if item.trashed and item.drive else None,
    "parents": lambda view, item: list(item.parents) or None,
    "properties": lambda view, item: dict(item.properties) or None,
    "appProperties": lambda view, item: dict(item.app_properties.get(view.client, {})) or None,
    "spaces": lambda view, item: ["drive"],
    "version": lambda view, item: str(item.version),
    "webContentLink": lambda view, item: (
        f"https://drive.google.com/uc?id={item.id}&export=download" if item.blob else None
    ),
    "webViewLink": _link,
    "iconLink": lambda view, item: f"https://drive-thirdparty.googleusercontent.com/16/type/{item.mime}",
    "hasThumbnail": lambda view, item: False,
    "thumbnailVersion": lambda view, item: "0",
    "viewedByMe": lambda view, item: item.owner == view.me,
    "createdTime": lambda view, item: stamp(item.created),
    "modifiedTime": lambda view, item: stamp(item.modified),
    "modifiedByMe": lambda view, item: item.owner == view.me,
    "modifiedByMeTime": lambda view, item: stamp(item.modified) if item.owner == view.me else None,
    "owners": _owners,
    "lastModifyingUser": lambda view, item: user(view.accounts[item.owner], view.me),
    "shared": lambda view, item: bool(item.drive),
    "ownedByMe": lambda view, item: None if item.drive else item.owner == view.me,
    "driveId": lambda view, item: item.drive or None,
    "teamDriveId": lambda view, item: item.drive or None,
    "capabilities": _capabilities,
    "viewersCanCopyContent": lambda view, item: True,
    "copyRequiresWriterPermission": lambda view, item: False,
    "writersCanShare": lambda view, item: True,
    "originalFilename": lambda view, item: (item.original_name or item.name) if item.blob else None,
    "fullFileExtension": _extension,
    "fileExtension": _extension,
    "md5Checksum": _sum("md5"),
    "sha1Checksum": _sum("sha1"),
    "sha256Checksum": _sum("sha256"),
    "size": _size,
    "quotaBytesUsed": lambda view, item: "0" if item.drive else str(item.size),
    "headRevisionId": lambda view, item: item.revision or None,
    "isAppAuthorized": lambda view, item: view.client in item.opened_by or item.app == view.client,
    "shortcutDetails": _shortcut,
    "exportLinks": _exports,
    "folderColorRgb": lambda view, item: "#8f8f8f" if item.mime == FOLDER else None,
}
_ABSENT = (
    "resourceKey", "permissions", "permissionIds", "sharedWithMeTime", "sharingUser", "viewedByMeTime",
    "thumbnailLink", "contentHints", "imageMediaMetadata", "videoMediaMetadata", "contentRestrictions",
    "hasAugmentedPermissions", "linkShareMetadata", "labelInfo", "trashingUser", "downloadRestrictions",
    "inheritedPermissionsDisabled", "clientEncryptionDetails",
)  # fmt: skip
for _name in _ABSENT:
    _FILE[_name] = lambda view, item: None

FILE_FIELDS = frozenset(_FILE)


def file_mask(text: str | None) -> fields.Mask:
    """The mask for a single file. Raises ApiError 400 for an unknown field."""
    if not text:
        return DEFAULT_FIELDS
    mask = fields.parse(text)
    fields.check(mask, FILE_FIELDS)
    return mask
