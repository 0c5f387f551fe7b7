"""about, changes and drives.

https://developers.google.com/workspace/drive/api/reference/rest/v3/changes
"""

from __future__ import annotations

from typing import Any

from tests.drive_bed import fields
from tests.drive_bed.accounts import DRIVE, DRIVE_READONLY
from tests.drive_bed.errors import ApiError, invalid
from tests.drive_bed.items import Changed
from tests.drive_bed.messages import Answer, Request, as_json
from tests.drive_bed.resources import DEFAULT_FIELDS, FILE_FIELDS, View, stamp, user
from tests.drive_bed.state import State, flag, whole

_CHANGE = {
    "kind": None, "type": None, "changeType": None, "time": None, "removed": None, "fileId": None,
    "file": DEFAULT_FIELDS, "driveId": None,
}  # fmt: skip
_DEFAULT: fields.Mask = {"kind": None, "nextPageToken": None, "newStartPageToken": None, "changes": _CHANGE}


async def about(state: State, request: Request) -> Answer:
    """about.get. Drive insists on ``fields`` here."""
    view = state.view(request)
    account = view.token.grant.account
    state.spend(request, "get", account)
    view.token.require("look")
    if not request.query.get("fields"):
        message = "The 'fields' parameter is required for this method."
        raise ApiError(400, "required", message, location="fields")
    used, trash = state.items.usage.get(account.email, 0), state.items.used_by_trash(account.email)
    quota = {"usage": str(used), "usageInDrive": str(used), "usageInDriveTrash": str(trash)}
    if account.limit is not None:
        quota["limit"] = str(account.limit)
    body: dict[str, Any] = {
        "kind": "drive#about",
        "user": user(account, view.me),
        "storageQuota": quota,
        "importFormats": {},
        "exportFormats": {"application/vnd.google-apps.document": ["application/pdf"]},
        "maxImportSizes": {},
        "maxUploadSize": str(5 * 2**40),
        "appInstalled": False,
        "folderColorPalette": ["#8f8f8f"],
        "driveThemes": [],
        "canCreateDrives": not account.service,
        "canCreateTeamDrives": not account.service,
        "teamDriveThemes": [],
    }
    mask = fields.parse(request.query["fields"])
    fields.check(mask, frozenset(body))
    return as_json(fields.cut(body, mask))


async def start_token(state: State, request: Request) -> Answer:
    """changes.getStartPageToken."""
    view = state.view(request)
    state.spend(request, "get", view.token.grant.account)
    view.token.require("look")
    body = {"kind": "drive#startPageToken", "startPageToken": str(_end(state))}
    return as_json(fields.cut(body, fields.parse(request.query.get("fields") or "*")))


def _end(state: State) -> int:
    return state.items.log[-1].seq + 1 if state.items.log else 1


async def changes(state: State, request: Request) -> Answer:
    """changes.list: the last change of each item since the token."""
    view = state.view(request)
    state.spend(request, "list", view.token.grant.account)
    view.token.require("look")
    text = request.query.get("pageToken", "")
    if not text:
        raise ApiError(400, "required", "Required parameter: pageToken", location="pageToken")
    if not text.isdigit() or not 1 <= int(text) <= _end(state):
        raise invalid("pageToken")
    size = whole(request, "pageSize", 100, 1, 1000)
    mask = fields.parse(request.query["fields"]) if request.query.get("fields") else _DEFAULT
    fields.check(mask, frozenset(_DEFAULT))
    found, following = _since(state, view, request, int(text), size)
    body: dict[str, Any] = {"kind": "drive#changeList"}
    of_change = (mask.get("changes") if "changes" in mask else mask.get("*")) or {"*": None}
    body["changes"] = [await _change(state, view, change, of_change, request) for change in found]
    if following is not None:
        body["nextPageToken"] = str(following)
    else:
        body["newStartPageToken"] = str(_end(state))
    return as_json({name: value for name, value in body.items() if name in mask or "*" in mask})


def _since(state: State, view: View, request: Request, first: int, size: int) -> tuple[list[Changed], int | None]:
    """Up to ``size`` changes from ``first`` on, and where the next page begins."""
    log = state.items.log
    last = {change.id: change.seq for change in log[first - 1 :]}
    found: list[Changed] = []
    then = state.items.now() - request.trouble.stale
    for change in log[first - 1 :]:
        if last[change.id] != change.seq or change.at > then or not _concerns(state, view, change, request):
            continue
        if len(found) == size:
            return found, change.seq
        found.append(change)
    return found, None


def _concerns(state: State, view: View, change: Changed, request: Request) -> bool:
    drive = request.query.get("driveId", "")
    with_drives = flag(request, "includeItemsFromAllDrives") and flag(request, "supportsAllDrives")
    if drive and change.drive != drive:
        return False
    item = state.items.by_id.get(change.id) or state.items.gone.get(change.id)
    return item is not None and not item.root and state.visible(view, item, with_drives)


async def _change(state: State, view: View, change: Changed, mask: fields.Mask, request: Request) -> dict[str, Any]:
    item = None if change.removed else state.items.by_id.get(change.id)
    out: dict[str, Any] = {
        "kind": "drive#change",
        "type": "file",
        "changeType": "file",
        "time": stamp(change.at),
        "removed": item is None,
        "fileId": change.id,
    }
    if change.drive:
        out["driveId"] = change.drive
    if item is not None and ("file" in mask or "*" in mask):
        of_file = mask.get("file") or {"*": None}
        fields.check(of_file, FILE_FIELDS)
        await view.prepare([item], of_file)
        out["file"] = view.file(item, of_file)
    return {name: value for name, value in out.items() if name in mask or "*" in mask}


def _may_see_drives(view: View) -> None:
    if not view.token.grant.scopes & {DRIVE, DRIVE_READONLY}:
        raise ApiError(403, "insufficientPermissions")


async def drives(state: State, request: Request) -> Answer:
    """drives.list."""
    view = state.view(request)
    state.spend(request, "list", view.token.grant.account)
    _may_see_drives(view)
    size = whole(request, "pageSize", 10, 1, 100)
    mine = [drive for drive in state.items.drives.values() if view.me in drive.members]
    start = whole(request, "pageToken", 0, 0, max(len(mine), 0))
    body: dict[str, Any] = {"kind": "drive#driveList"}
    if start + size < len(mine):
        body["nextPageToken"] = str(start + size)
    body["drives"] = [view.drive(drive) for drive in mine[start : start + size]]
    return as_json(fields.cut(body, fields.parse(request.query.get("fields") or _DRIVES)))


_DRIVES = "kind,nextPageToken,drives(kind,id,name)"


async def drive(state: State, request: Request, id: str) -> Answer:
    """drives.get."""
    view = state.view(request)
    state.spend(request, "get", view.token.grant.account)
    _may_see_drives(view)
    found = state.items.drives.get(id)
    if found is None or view.me not in found.members:
        raise ApiError(404, "notFound", f"Shared drive not found: {id}", location="driveId")
    return as_json(fields.cut(view.drive(found), fields.parse(request.query.get("fields") or "kind,id,name")))
