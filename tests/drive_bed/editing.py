"""What a create or an update may set, and what Drive refuses.

https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

from typing import Any

from tests.drive_bed.errors import ApiError, invalid, not_found
from tests.drive_bed.items import FOLDER, SHORTCUT, Item, new_id
from tests.drive_bed.messages import Request
from tests.drive_bed.resources import View, may_edit, moment
from tests.drive_bed.state import State, all_drives


def new_item(state: State, view: View, body: dict[str, Any], request: Request) -> Item:
    """The item that a create asks for, not added yet. Raises ApiError for what Drive refuses."""
    account = view.token.grant.account
    parents = body.get("parents") or [account.root]
    if not isinstance(parents, list) or len(parents) != 1:
        raise ApiError(400, "invalid", "A file must have exactly one parent.", location="parents")
    parent = state.parent(view, parents[0], all_drives(request))
    if not may_edit(view, parent):
        raise ApiError(403, "insufficientFilePermissions", "Insufficient permissions for the specified parent.")
    id = body.get("id") or ""
    if id:
        check_id(state, view, id, body.get("mimeType") or "")
    item = Item(id or new_id(), "Untitled", "application/octet-stream", [parent.id], app=view.client)
    item.owner, item.drive = view.me, parent.drive
    apply(state, view, item, body)
    return item


def check_id(state: State, view: View, id: str, mime: str) -> None:
    """Raise ApiError 409 when an id is taken, 400 when generateIds never gave it to this account.

    Shortcuts need ids of their own kind; Docs can't have any.
    """
    shortcut = mime == SHORTCUT
    if mime.startswith("application/vnd.google-apps.") and mime != FOLDER and not shortcut:
        message = "Generated IDs are not supported for Docs Editors formats."
        raise ApiError(403, "insufficientFilePermissions", message)
    if id in state.items.by_id or id in state.items.gone:
        raise ApiError(409, "fileIdInUse", location="file.id", kind="other")
    if state.items.ids.get(id) != (view.me, "shortcuts" if shortcut else "files"):
        raise ApiError(400, "invalid", "The provided file ID is not usable.", location="file.id", kind="other")


def apply(state: State, view: View, item: Item, body: dict[str, Any]) -> None:
    """Set what a File in a request's body sets. Raises ApiError 400."""
    if "name" in body:
        if not isinstance(body["name"], str):
            raise invalid("name")
        item.name = body["name"]
    if body.get("mimeType"):
        item.mime = str(body["mimeType"])
    item.description = str(body.get("description", item.description))
    item.starred = bool(body.get("starred", item.starred))
    item.original_name = str(body.get("originalFilename", item.original_name))
    if body.get("createdTime"):
        item.created = moment(body["createdTime"], "createdTime")
    if body.get("modifiedTime"):
        item.modified = moment(body["modifiedTime"])
    _set(item.properties, body.get("properties"))
    if body.get("appProperties"):
        _set(item.app_properties.setdefault(view.client, {}), body["appProperties"])
    if item.mime == SHORTCUT and "shortcutDetails" in body:
        item.target = body["shortcutDetails"].get("targetId", "")
        if item.target not in state.items.by_id:
            raise not_found(item.target)


def _set(held: dict[str, str], given: dict[str, str | None] | None) -> None:
    for key, value in (given or {}).items():
        if value is None:
            held.pop(key, None)
        elif len(key.encode()) + len(str(value).encode()) > 124:
            raise ApiError(400, "propertyTooLarge", "A property is longer than 124 bytes.", location="properties")
        else:
            held[key] = str(value)


def editable(state: State, view: View, request: Request, id: str) -> Item:
    """An item that is to be changed. Raises ApiError 404 or 403."""
    item = state.item(view, id, all_drives(request))
    if not may_edit(view, item):
        raise ApiError(403, "insufficientFilePermissions")
    return item


def change(state: State, view: View, request: Request, item: Item, body: dict[str, Any]) -> None:
    """Apply an update's body and parameters to an item, after ``touch``. Raises ApiError."""
    add = [state.parent(view, id, all_drives(request)) for id in ids_in(request, "addParents")]
    remove = [view.token.grant.account.root if id == "root" else id for id in ids_in(request, "removeParents")]
    if "parents" in body:
        raise ApiError(
            403, "fieldNotWritable", "The parents field is not directly writable in update requests. "
            "Use the addParents and removeParents parameters instead.",
        )  # fmt: skip
    left = [id for id in item.parents if id not in remove] + [parent.id for parent in add]
    if add and len(set(left)) > 1:
        raise ApiError(
            403, "multipleParentsNotSupported" if not item.drive else "teamDrivesParentLimit",
            "Increasing the number of parents is not allowed",
        )  # fmt: skip
    if item.folder and any(parent.drive and parent.drive != item.drive for parent in add):
        raise ApiError(403, "teamDrivesFolderMoveInNotSupported", "Moving folders into shared drives is not supported.")
    if any(parent is item or parent in list(state.items.below(item)) for parent in add):
        raise ApiError(403, "invalidParent", "A folder can't be moved into itself.")
    if "trashed" in body and item.root:
        raise ApiError(403, "insufficientFilePermissions")
    state.items.touch(item)
    if add or remove:
        state.items.move(item, [parent.id for parent in add], remove)
    apply(state, view, item, body)
    if "trashed" in body:
        item.trashed = bool(body["trashed"])
        item.trashed_at = item.changed if item.trashed else 0.0


def ids_in(request: Request, name: str) -> list[str]:
    """A parameter that lists ids."""
    return [id for id in request.query.get(name, "").split(",") if id]
