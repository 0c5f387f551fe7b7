"""Uploads: media, multipart and resumable.

https://developers.google.com/workspace/drive/api/guides/manage-uploads
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from typing import Any

from tests.drive_bed import editing, files
from tests.drive_bed.blobs import Blob
from tests.drive_bed.errors import ApiError
from tests.drive_bed.growing import STEP, Growing
from tests.drive_bed.messages import Answer, Line, Request, parse_object
from tests.drive_bed.resources import View, file_mask, sums_in
from tests.drive_bed.state import State, all_drives

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")


@dataclass(slots=True)
class Session:
    """A resumable upload: ``target`` is the id of the file that gets new content, "" for a new file."""

    first: Request
    view: View
    body: dict[str, Any]
    target: str
    growing: Growing
    total: int | None
    finished: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    line: Line | None = None


async def upload(state: State, request: Request, target: str = "") -> Answer:
    """files.create or files.update with content, by any of the three ways."""
    if "upload_id" in request.query:
        return await resume(state, request)
    view = state.view(request)
    account = view.token.grant.account
    state.spend(request, "edit", account)
    view.token.require("write")
    if not target:
        state.creating(account)
    match request.query.get("uploadType"):
        case "multipart":
            return await _multipart(state, view, request, target)
        case "media":
            return await _simple(state, view, request, target)
        case "resumable":
            return await _begin(state, view, request, target)
    raise ApiError(400, "badRequest", "Bad Request: uploadType", location="uploadType")


async def _simple(state: State, view: View, request: Request, target: str) -> Answer:
    _check(state, view, request, target, {})
    growing = Growing(state.blobs.new_path())
    await growing.take(request.chunks())
    body = {"mimeType": request.headers.get("content-type", "application/octet-stream")}
    return await _commit(state, view, request, request, target, body, growing)


async def _multipart(state: State, view: View, request: Request, target: str) -> Answer:
    head, data, mime = _parts(await request.read(64 << 20), request.headers.get("content-type", ""))
    body = parse_object(head)
    _check(state, view, request, target, body)
    if not body.get("mimeType") and mime and not target:
        body["mimeType"] = mime
    growing = Growing(state.blobs.new_path())
    growing.add(data)
    return await _commit(state, view, request, request, target, body, growing)


def _parts(body: bytes, kind: str) -> tuple[bytes, bytes, str]:
    """Metadata, content and the content's type of a multipart/related body. Raises ApiError 400.

    Lines end as the first one does: google-api-python-client writes bare line feeds.
    """
    match = re.search(r'boundary="?([^";]+)"?', kind)
    if match is None or not kind.lower().startswith("multipart/"):
        raise ApiError(400, "badContent", "Unsupported content with type: " + kind)
    mark = b"--" + match.group(1).encode()
    end = b"\n" if body.lstrip().startswith(mark + b"\n") else b"\r\n"
    pieces = (end + body.lstrip()).split(end + mark)
    if len(pieces) != 4 or not pieces[3].startswith(b"--"):
        raise ApiError(400, "badRequest", "Malformed multipart body.")
    parsed = []
    for piece in pieces[1:3]:
        head, _, content = piece.partition(end + end)
        parsed.append((BytesHeaderParser().parsebytes(head.lstrip() + end + end), content))
    return parsed[0][1], parsed[1][1], parsed[1][0].get("Content-Type", "")


async def _begin(state: State, view: View, request: Request, target: str) -> Answer:
    body = await request.json()
    length = request.headers.get("x-upload-content-length")
    total = int(length) if length else None
    if not body.get("mimeType") and "x-upload-content-type" in request.headers and not target:
        body["mimeType"] = request.headers["x-upload-content-type"]
    _check(state, view, request, target, body)
    _room(state, view, request, target, body, total or 0)
    mask = file_mask(request.query.get("fields"))
    growing = Growing(state.blobs.new_path(), frozenset() if state.blobs.knows(total) else sums_in(mask))
    id = "A" + secrets.token_urlsafe(90)
    state.sessions[id] = Session(request, view, body, target, growing, total)
    address = f"{request.address}{request.path}?{request.raw_query}&upload_id={id}"
    return Answer(200, {"Location": address, "X-GUploader-UploadID": id, "Content-Type": "text/plain; charset=utf-8"})


def _check(state: State, view: View, request: Request, target: str, body: dict[str, Any]) -> None:
    """Refuse before the bytes come what would be refused after."""
    if target:
        editing.editable(state, view, request, target)
    else:
        editing.new_item(state, view, body, request)


def _room(state: State, view: View, request: Request, target: str, body: dict[str, Any], size: int) -> None:
    if target:
        item = editing.editable(state, view, request, target)
        state.room(view.token.grant.account, item.drive, size, instead=item.size)
        return
    parent = state.parent(view, (body.get("parents") or ["root"])[0], all_drives(request))
    state.room(view.token.grant.account, parent.drive, size)


async def resume(state: State, request: Request) -> Answer:
    """A request to an upload session's address: bytes, a question how far it is, or its end."""
    if "authorization" in request.headers:
        state.view(request)
    id = request.query["upload_id"]
    if request.trouble.forget_session and (lost := state.sessions.pop(id, None)) is not None:
        lost.growing.drop()
    session = state.sessions.get(id)
    if session is None:
        return Answer(404, {"Content-Type": "text/html; charset=UTF-8"}, b"Not Found")
    request.account, request.client = session.view.me, session.view.client
    if session.lock.locked() and session.line is not None:
        session.line.abort()  # the newest request counts; an older one, cut off half-way, may not know it yet
    async with session.lock:
        session.line = request.line
        if request.method == "DELETE":
            state.sessions.pop(id, None)
            session.growing.drop()
            return Answer(499)
        return await _continue(state, session, request)


async def _continue(state: State, session: Session, request: Request) -> Answer:
    if session.finished:
        return await _again(state, session)
    first, total = _position(session, request)
    if total is not None:
        if session.total is not None and total != session.total:
            raise ApiError(400, "badRequest", f"The upload has {session.total} bytes, not {total}.")
        session.total = total
    if first is not None:
        have = session.growing.size
        if first > have:
            text = f"the upload offset is {first} byte(s), which exceeds already uploaded size of {have} byte(s)."
            text = "Invalid request.  According to the Content-Range header, " + text
            return Answer(503, {"Content-Type": "text/plain; charset=utf-8"}, text.encode())  # sic: 503
        await _take(session, request, first)
    if session.total is not None and session.growing.size == session.total and request.trouble.commit_at_most is None:
        return await _commit(
            state, session.view, session.first, request, session.target, session.body, session.growing, session
        )
    headers = {"X-GUploader-UploadID": request.query["upload_id"]}
    if session.growing.size:
        headers["Range"] = f"bytes=0-{session.growing.size - 1}"
    if "x-guploader-no-308" in request.headers:
        return Answer(200, headers | {"X-Http-Status-Code-Override": "308"})
    return Answer(308, headers)


def _position(session: Session, request: Request) -> tuple[int | None, int | None]:
    """Where the request's bytes begin (None: it brings none) and the total, if it says so."""
    text = request.headers.get("content-range")
    if text is None:
        return (
            (0, request.length if "content-length" in request.headers else None)
            if request.has_body
            else ((0, 0) if session.total == 0 else (None, None))
        )
    match = _CONTENT_RANGE.match(text)
    if match is None:
        raise ApiError(400, "badRequest", "Failed to parse Content-Range header.")
    first, last, total = match.groups()
    told = "content-length" in request.headers and request.has_body and first is not None
    if told and int(last) - int(first) + 1 != request.length:
        raise ApiError(400, "badRequest", "Content-Range and Content-Length differ.")
    return (int(first) if first is not None else None), (int(total) if total != "*" else None)


async def _take(session: Session, request: Request, first: int) -> None:
    """Store the bytes, in whole steps unless they are the last ones. What came before a break stays."""
    growing = session.growing
    before = growing.size
    most = request.trouble.commit_at_most
    try:
        await growing.take(request.chunks(), skip=before - first, most=most)
        if "content-range" not in request.headers and session.total is None:
            session.total = growing.size
    finally:
        if request.trouble.corrupt_stored is not None and growing.size > before:
            growing.spoil(before + request.trouble.corrupt_stored)
        if session.total is None or growing.size < session.total:
            growing.cut(growing.size // STEP * STEP)
        elif growing.size > session.total:
            growing.cut(session.total)


async def _commit(
    state: State,
    view: View,
    first: Request,
    last: Request,
    target: str,
    body: dict[str, Any],
    growing: Growing,
    session: Session | None = None,
) -> Answer:
    """Make the uploaded bytes a file's content. ``first`` is the request with the parameters, ``last`` the bytes'."""
    if session is None and last.trouble.corrupt_stored is not None:
        growing.spoil(last.trouble.corrupt_stored)
    _room(state, view, first, target, body, growing.size)
    blob = await growing.blob()
    await state.blobs.recognise(blob)
    if target:
        item = _replace(state, view, first, target, body, blob)
    else:
        item = editing.new_item(state, view, body, first)
        item.blob = blob
        state.items.add(item)
    if session is not None:
        session.finished = item.id
    return await files.answer_file(view, item, first)


def _replace(state: State, view: View, first: Request, target: str, body: dict[str, Any], blob: Blob) -> Any:
    item = editing.editable(state, view, first, target)
    editing.change(state, view, first, item, body)
    state.items.touch(item, content=blob)
    if "modifiedTime" not in body:
        item.modified = item.changed
    if not body.get("mimeType") and item.google:
        raise ApiError(400, "badRequest", "Bad Request")
    return item


async def _again(state: State, session: Session) -> Answer:
    """A finished upload answers with its file, as long as the file is there."""
    item = state.items.by_id.get(session.finished)
    if item is None:
        return Answer(404, {"Content-Type": "text/html; charset=UTF-8"}, b"Not Found")
    return await files.answer_file(session.view, item, session.first)
