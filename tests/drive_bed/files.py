"""files.get, list, update, delete and the rest that is not an upload.

https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import secrets
from typing import Any

from tests.drive_bed import fields, query
from tests.drive_bed.errors import ApiError, invalid, not_found
from tests.drive_bed.items import FOLDER, SHORTCUT, Item, new_id
from tests.drive_bed.media import media
from tests.drive_bed.messages import Answer, Request, as_json
from tests.drive_bed.resources import FILE_FIELDS, View, file_mask, may_edit, moment
from tests.drive_bed.state import State, all_drives, flag, whole

_ORDERS = {
    "createdTime": lambda item: item.created,
    "folder": lambda item: not item.folder,
    "modifiedByMeTime": lambda item: item.modified,
    "modifiedTime": lambda item: item.modified,
    "name": lambda item: item.name.lower(),
    "name_natural": lambda item: item.name.lower(),
    "quotaBytesUsed": lambda item: item.size,
    "recency": lambda item: item.modified,
    "sharedWithMeTime": lambda item: 0,
    "starred": lambda item: not item.starred,
    "viewedByMeTime": lambda item: 0,
}
_LIST_DEFAULT = "kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)"
_LIST_FIELDS = frozenset({"kind", "nextPageToken", "incompleteSearch", "files"})


async def answer_file(view: View, item: Item, request: Request, status: int = 200) -> Answer:
    """An item as the answer."""
    mask = file_mask(request.query.get("fields"))
    await view.prepare([item], mask)
    return as_json(view.file(item, mask), status)


async def get(state: State, request: Request, id: str) -> Answer:
    """files.get: metadata, or with alt=media the bytes."""
    view = state.view(request)
    account = view.token.grant.account
    if request.query.get("alt") == "media":
        state.spend(request, "download", account)
        view.token.require("read")
        return media(state.item(view, id, all_drives(request)), request)
    state.spend(request, "get", account)
    view.token.require("look")
    return await answer_file(view, state.item(view, id, all_drives(request)), request)


async def generate_ids(state: State, request: Request) -> Answer:
    """files.generateIds."""
    view = state.view(request)
    state.spend(request, "get", view.token.grant.account)
    view.token.require("write")
    count = whole(request, "count", 10, 1, 1000)
    if request.query.get("space", "drive") != "drive":
        raise invalid("space")
    ids = [new_id() for _ in range(count)]
    state.items.ids.update(dict.fromkeys(ids, view.me))
    body: dict[str, Any] = {"kind": "drive#generatedIds", "space": "drive", "ids": ids}
    return as_json(fields.cut(body, fields.parse(request.query.get("fields") or "*")))


async def list_files(state: State, request: Request) -> Answer:
    """files.list."""
    view = state.view(request)
    state.spend(request, "list", view.token.grant.account)
    view.token.require("look")
    size = whole(request, "pageSize", 100, 1, 1000)
    mask = fields.parse(
        request.query.get("fields") or "kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)"
    )
    fields.check(mask, _LIST_FIELDS)
    of_files = (mask.get("files") if "files" in mask else mask.get("*")) or {"*": None}
    fields.check(of_files, FILE_FIELDS)
    token = request.query.get("pageToken")
    if token is not None:
        if token not in state.pages:
            raise invalid("pageToken")
        found = [state.items.by_id[id] for id in state.pages[token] if id in state.items.by_id]
    else:
        found = _found(state, view, request)
    page, rest = found[:size], found[size:]
    body: dict[str, Any] = {"kind": "drive#fileList", "incompleteSearch": False}
    if rest:
        following = "~!!~" + secrets.token_urlsafe(48)
        state.pages[following] = [item.id for item in rest]
        body["nextPageToken"] = following
    if "files" in mask or "*" in mask:
        await view.prepare(page, of_files)
        body["files"] = [view.file(item, of_files) for item in page]
    return as_json({name: value for name, value in body.items() if name in mask or "*" in mask})


def _found(state: State, view: View, request: Request) -> list[Item]:
    asked = query.parse(request.query.get("q") or "")
    account = view.token.grant.account
    scene = query.Scene(state.items, view.me, view.client, account.root)
    drive = request.query.get("driveId") or request.query.get("teamDriveId") or ""
    with_drives = flag(request, "includeItemsFromAllDrives", "includeTeamDriveItems") and all_drives(request)
    _check_corpora(state, view, request, drive)
    if asked.parents is None:
        pool = list(state.items.by_id.values())
    else:
        parents = {account.root if id == "root" else id for id in asked.parents}
        pool = [item for parent in sorted(parents) for item in state.items.within(parent)]
    found: dict[str, Item] = {}
    for item in pool if not request.trouble.stale else _as_it_was(state, request, pool):
        if drive and item.drive != drive:
            continue
        if state.visible(view, item, with_drives) and not (item.root and item.drive) and asked.test(scene, item):
            found[item.id] = item
    return _ordered(list(found.values()), request.query.get("orderBy", ""))


def _check_corpora(state: State, view: View, request: Request, drive: str) -> None:
    corpora = request.query.get("corpora", "")
    if corpora not in ("", "user", "drive", "allDrives", "domain"):
        raise invalid("corpora")
    if corpora == "drive" and not drive:
        raise ApiError(400, "required", "Required parameter: driveId", location="driveId")
    if not drive:
        return
    if corpora and corpora != "drive":
        raise ApiError(403, "teamDriveCorpusRequired", "The driveId parameter needs corpora=drive.", location="corpora")
    known = state.items.drives.get(drive)
    if known is None or view.me not in known.members:
        raise ApiError(404, "notFound", f"Shared drive not found: {drive}", location="driveId")


def _as_it_was(state: State, request: Request, pool: list[Item]) -> list[Item]:
    """The items as they were some seconds ago: new ones are missing, deleted and moved ones still there."""
    then = state.items.now() - request.trouble.stale
    everything = [*state.items.by_id.values(), *state.items.gone.values()]
    return [old for item in everything if (old := state.items.at(item, then)) is not None]


def _ordered(found: list[Item], order: str) -> list[Item]:
    if not order:
        return sorted(found, key=lambda item: item.changed, reverse=True)
    for part in reversed(order.split(",")):
        key, _, direction = part.strip().partition(" ")
        if key not in _ORDERS or direction not in ("", "desc"):
            raise ApiError(400, "invalid", f"Invalid Value '{part}' for orderBy", location="orderBy")
        found.sort(key=_ORDERS[key], reverse=direction == "desc")
    return found


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
        check_id(state, view, id)
    item = Item(id or new_id(), "Untitled", "application/octet-stream", [parent.id], app=view.client)
    item.owner, item.drive = view.me, parent.drive
    apply(state, view, item, body)
    return item


def check_id(state: State, view: View, id: str) -> None:
    """Raise ApiError 409 when an id is taken, 400 when generateIds never gave it to this account."""
    if id in state.items.by_id or id in state.items.gone:
        raise ApiError(409, "fileIdInUse", location="file.id", kind="other")
    if state.items.ids.get(id) != view.me:
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


async def create(state: State, request: Request) -> Answer:
    """files.create without content."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    state.creating(view.token.grant.account)
    item = new_item(state, view, await request.json(), request)
    if not item.google:
        item.blob = await state.blobs.put(b"")
    state.items.add(item)
    return await answer_file(view, item, request)


def editable(state: State, view: View, request: Request, id: str) -> Item:
    """An item that is to be changed. Raises ApiError 404 or 403."""
    item = state.item(view, id, all_drives(request))
    if not may_edit(view, item):
        raise ApiError(403, "insufficientFilePermissions")
    return item


def change(state: State, view: View, request: Request, item: Item, body: dict[str, Any]) -> None:
    """Apply an update's body and parameters to an item, after ``touch``. Raises ApiError."""
    add = [state.parent(view, id, all_drives(request)) for id in _ids(request, "addParents")]
    remove = [view.token.grant.account.root if id == "root" else id for id in _ids(request, "removeParents")]
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


def _ids(request: Request, name: str) -> list[str]:
    return [id for id in request.query.get(name, "").split(",") if id]


async def update(state: State, request: Request, id: str) -> Answer:
    """files.update without content."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    item = editable(state, view, request, id)
    body = await request.json()
    content = set(body) - {"trashed", "starred", "properties", "appProperties"}
    change(state, view, request, item, body)
    if content and "modifiedTime" not in body and not _ids(request, "addParents"):
        item.modified = item.changed
    return await answer_file(view, item, request)


async def delete(state: State, request: Request, id: str) -> Answer:
    """files.delete: for good, without the trash."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    item = editable(state, view, request, id)
    organizer = not item.drive or state.items.drives[item.drive].members.get(view.me) == "organizer"
    if item.root or not organizer:
        raise ApiError(403, "insufficientFilePermissions")
    state.items.delete(item)
    return Answer(204)


async def empty_trash(state: State, request: Request) -> Answer:
    """files.emptyTrash."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    if not view.token.see_all():
        raise ApiError(403, "insufficientPermissions")
    drive = request.query.get("driveId", "")
    for item in list(state.items.by_id.values()):
        if item.trashed and item.drive == drive and (drive or item.owner == view.me) and item.id in state.items.by_id:
            state.items.delete(item)
    return Answer(204)


async def copy(state: State, request: Request, id: str) -> Answer:
    """files.copy: a new file with the same bytes."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    source = state.item(view, id, all_drives(request))
    if source.folder:
        raise ApiError(403, "cannotCopyFile", "This file cannot be copied by the user.")
    body = await request.json()
    item = new_item(
        state, view, {"name": source.name, "parents": source.parents, "mimeType": source.mime, **body}, request
    )
    state.room(view.token.grant.account, item.drive, source.size)
    item.blob, item.target = source.blob, source.target
    state.items.add(item)
    return await answer_file(view, item, request)


async def export(state: State, request: Request, id: str) -> Answer:
    """files.export: refused for what is not a Google Doc; Docs here are empty."""
    view = state.view(request)
    state.spend(request, "download", view.token.grant.account)
    view.token.require("read")
    item = state.item(view, id, all_drives(request))
    if not item.google or item.mime in (FOLDER, SHORTCUT):
        raise ApiError(403, "fileNotExportable", "Export only supports Docs Editors files.")
    return Answer(200, {"Content-Type": request.query.get("mimeType", "application/pdf")}, b"an exported document\n")
