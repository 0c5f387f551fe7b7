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
from tests.drive_bed.errors import ApiError
from tests.drive_bed.growing import STEP, Growing
from tests.drive_bed.items import Item
from tests.drive_bed.messages import Answer, Line, Request, parse_object
from tests.drive_bed.resources import View, file_mask, sums_in
from tests.drive_bed.state import State, all_drives

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")


@dataclass(slots=True)
class Job:
    """What an upload is to become: ``target`` is the id of the file that gets new content, "" for a new file.

    ``first`` is the request that has the parameters, ``body`` the metadata.
    """

    first: Request
    view: View
    target: str
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """A resumable upload. ``finished`` is the id of what it has become, ``line`` that of the latest request."""

    job: Job
    growing: Growing
    total: int | None
    finished: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    line: Line | None = None

    @property
    def view(self) -> View:
        """Whose upload it is."""
        return self.job.view


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
    job = Job(request, view, target)
    match request.query.get("uploadType"):
        case "multipart":
            return await _multipart(state, job)
        case "media":
            return await _simple(state, job)
        case "resumable":
            return await _begin(state, job)
    raise ApiError(400, "badRequest", "Bad Request: uploadType", location="uploadType")


async def _simple(state: State, job: Job) -> Answer:
    _check(state, job)
    job.body["mimeType"] = job.first.headers.get("content-type", "application/octet-stream")
    growing = Growing(state.blobs.new_path())
    await growing.take(job.first.chunks())
    return await _small(state, job, growing)


async def _multipart(state: State, job: Job) -> Answer:
    head, data, mime = _parts(await job.first.read(64 << 20), job.first.headers.get("content-type", ""))
    job.body = parse_object(head)
    _check(state, job)
    if mime and not job.target:
        job.body["mimeType"] = job.body.get("mimeType") or mime
    growing = Growing(state.blobs.new_path())
    growing.add(data)
    return await _small(state, job, growing)


async def _small(state: State, job: Job, growing: Growing) -> Answer:
    if job.first.trouble.corrupt_stored is not None:
        growing.spoil(job.first.trouble.corrupt_stored)
    return await files.answer_file(job.view, await _commit(state, job, growing), job.first)


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


async def _begin(state: State, job: Job) -> Answer:
    request = job.first
    job.body = await request.json()
    length = request.headers.get("x-upload-content-length")
    total = int(length) if length else None
    if "x-upload-content-type" in request.headers and not job.target:
        job.body["mimeType"] = job.body.get("mimeType") or request.headers["x-upload-content-type"]
    _check(state, job)
    _room(state, job, total or 0)
    sums = sums_in(file_mask(request.query.get("fields")))
    growing = Growing(state.blobs.new_path(), frozenset() if state.blobs.knows(total) else sums)
    id = "A" + secrets.token_urlsafe(90)
    state.sessions[id] = Session(job, growing, total)
    address = f"{request.address}{request.path}?{request.raw_query}&upload_id={id}"
    return Answer(200, {"Location": address, "X-GUploader-UploadID": id, "Content-Type": "text/plain; charset=utf-8"})


def _check(state: State, job: Job) -> None:
    """Refuse before the bytes come what would be refused after."""
    if not job.target:
        editing.new_item(state, job.view, job.body, job.first)
    elif editing.editable(state, job.view, job.first, job.target).google:
        raise ApiError(400, "badRequest", "Bad Request")


def _room(state: State, job: Job, size: int) -> None:
    """Raise ApiError 403 when ``size`` bytes don't fit."""
    account = job.view.token.grant.account
    if job.target:
        item = editing.editable(state, job.view, job.first, job.target)
        state.room(account, item.drive, size, instead=item.size)
        return
    parent = state.parent(job.view, (job.body.get("parents") or ["root"])[0], all_drives(job.first))
    state.room(account, parent.drive, size)


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
        session.finished = (await _commit(state, session.job, session.growing)).id
        return await _again(state, session)
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
        if request.has_body:
            return 0, request.length if "content-length" in request.headers else None
        return (0, 0) if session.total == 0 else (None, None)
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


async def _commit(state: State, job: Job, growing: Growing) -> Item:
    """Make the uploaded bytes a file's content."""
    _room(state, job, growing.size)
    blob = await growing.blob()
    await state.blobs.recognise(blob)
    if not job.target:
        item = editing.new_item(state, job.view, job.body, job.first)
        item.blob = blob
        return state.items.add(item)
    item = editing.editable(state, job.view, job.first, job.target)
    editing.change(state, job.view, job.first, item, job.body)
    state.items.touch(item, content=blob)
    if "modifiedTime" not in job.body:
        item.modified = item.changed
    return item


async def _again(state: State, session: Session) -> Answer:
    """A finished upload answers with its file, as long as the file is there."""
    item = state.items.by_id.get(session.finished)
    if item is None:
        return Answer(404, {"Content-Type": "text/html; charset=UTF-8"}, b"Not Found")
    return await files.answer_file(session.view, item, session.job.first)
