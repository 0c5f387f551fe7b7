"""files.get, list, update, delete and the rest that is not an upload.

https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import secrets
from typing import Any

from tests.drive_bed import fields, query
from tests.drive_bed.editing import change, editable, ids_in, new_item
from tests.drive_bed.errors import ApiError, invalid
from tests.drive_bed.items import FOLDER, SHORTCUT, Item, new_id
from tests.drive_bed.media import media
from tests.drive_bed.messages import Answer, Request, as_json
from tests.drive_bed.resources import FILE_FIELDS, View, file_mask
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
    kind = request.query.get("type", "files")
    if kind not in ("files", "shortcuts"):
        raise invalid("type")
    state.items.ids.update(dict.fromkeys(ids, (view.me, kind)))
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
    if request.trouble.incomplete:
        found = found[::2]
    if request.trouble.page_at_most is not None:
        size = min(size, request.trouble.page_at_most)
    page, rest = found[:size], found[size:]
    body: dict[str, Any] = {"kind": "drive#fileList", "incompleteSearch": request.trouble.incomplete}
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
    if request.trouble.stale:
        pool = state.items.as_of(state.items.now() - request.trouble.stale)
    elif asked.parents is None:
        pool = list(state.items.by_id.values())
    else:
        parents = {account.root if id == "root" else id for id in asked.parents}
        pool = [item for parent in sorted(parents) for item in state.items.within(parent)]
    found: dict[str, Item] = {}
    for item in pool:
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


def _ordered(found: list[Item], order: str) -> list[Item]:
    if not order:
        return sorted(found, key=lambda item: item.changed, reverse=True)
    for part in reversed(order.split(",")):
        key, _, direction = part.strip().partition(" ")
        if key not in _ORDERS or direction not in ("", "desc"):
            raise ApiError(400, "invalid", f"Invalid Value '{part}' for orderBy", location="orderBy")
        found.sort(key=_ORDERS[key], reverse=direction == "desc")
    return found


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


async def update(state: State, request: Request, id: str) -> Answer:
    """files.update without content."""
    view = state.view(request)
    state.spend(request, "edit", view.token.grant.account)
    view.token.require("write")
    item = editable(state, view, request, id)
    body = await request.json()
    content = set(body) - {"trashed", "starred", "properties", "appProperties"}
    change(state, view, request, item, body)
    if content and "modifiedTime" not in body and not ids_in(request, "addParents"):
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
