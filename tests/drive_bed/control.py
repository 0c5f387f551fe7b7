"""The test bed's own calls, POST /testbed/NAME with a JSON body: as `serve.DriveServer` speaks them."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tests.drive_bed import oauth
from tests.drive_bed.accounts import SCOPES
from tests.drive_bed.errors import ApiError
from tests.drive_bed.faults import Fault
from tests.drive_bed.items import FOLDER, Item, SharedDrive, new_id, new_root_id
from tests.drive_bed.messages import Request
from tests.drive_bed.resources import moment
from tests.drive_bed.state import State

if TYPE_CHECKING:
    from tests.drive_bed.app import App


async def command(app: App, request: Request) -> Any:
    """Do what one call asks for. Raises ApiError 400 for a call that can't be understood."""
    body = await request.json()
    name = request.path.removeprefix("/testbed/")
    if name == "reset":
        return reset(app, body)
    if name not in _COMMANDS:
        raise ApiError(404, "notFound", f"The test bed has no call {name!r}.")
    try:
        return await _COMMANDS[name](app.state, body)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ApiError(400, "badRequest", f"/testbed/{name}: {error!r}") from error


def reset(app: App, body: dict[str, Any]) -> Any:
    """Forget everything; new bytes go below ``folder``."""
    app.state.wipe()
    app.state = State(Path(body.get("folder") or app.state.folder))
    return {}


async def _account(state: State, body: dict[str, Any]) -> Any:
    account = state.account(body["email"], body.get("name", ""), service=bool(body.get("service")))
    for name in ("limit", "units_per_minute", "creates_per_second"):
        if name in body:
            setattr(account, name, body[name])
    return {"email": account.email, "root": account.root}


async def _client(state: State, body: dict[str, Any]) -> Any:
    client = state.client(body["id"], body.get("secret", ""), body.get("kind", "installed"))
    return {"id": client.id, "secret": client.secret, "kind": client.kind}


async def _grant(state: State, body: dict[str, Any]) -> Any:
    scopes = frozenset(scope if "/" in scope else SCOPES + scope for scope in body["scopes"])
    state.client(body["client"])
    return {"refresh_token": state.accounts.grant(state.account(body["email"]), body["client"], scopes).refresh}


async def _token(state: State, body: dict[str, Any]) -> Any:
    return {"access_token": state.accounts.token(state.accounts.grants[body["refresh_token"]]).value}


async def _expire(state: State, body: dict[str, Any]) -> Any:
    """All access tokens, or an account's, are expired from now on."""
    for token in state.accounts.tokens.values():
        if not body.get("email") or token.grant.account.email == body["email"]:
            token.expires = time.time() - 1
    return {}


async def _revoke(state: State, body: dict[str, Any]) -> Any:
    """All grants, or an account's, are gone."""
    for grant in state.accounts.grants.values():
        if not body.get("email") or grant.account.email == body["email"]:
            grant.revoked = True
    return {}


async def _key(state: State, body: dict[str, Any]) -> Any:
    state.account(body["email"], limit=0, service=True)
    state.accounts.keys[body["email"]] = body["public_key"]
    return {}


async def _settings(state: State, body: dict[str, Any]) -> Any:
    """``lifetime`` of access tokens in seconds, ``device_interval``; ``deny``: a client's next consent is denied;
    ``withhold``: scopes that are not granted although they are asked for."""
    state.withheld.update(body.get("withhold", ()))
    state.accounts.lifetime = float(body.get("lifetime", state.accounts.lifetime))
    state.device_interval = float(body.get("device_interval", state.device_interval))
    if body.get("deny"):
        state.deny.add(body["deny"])
    return {}


async def _device(state: State, body: dict[str, Any]) -> Any:
    account = state.account(body["email"]) if body.get("email") else None
    return {"known": oauth.decide(state, body["user_code"], account)}


async def _drive(state: State, body: dict[str, Any]) -> Any:
    id = new_root_id()
    state.items.drives[id] = SharedDrive(id, body["name"], dict(body["members"]), time.time())
    owner = next(iter(body["members"]))
    state.items.add(Item(id, "Drive", FOLDER, [], owner=owner, drive=id, root=True))
    return {"id": id}


async def _put(state: State, body: dict[str, Any]) -> Any:
    """Place something as if by hand or by another client. Content: ``text``, ``base64`` or ``path``; else a folder."""
    account = state.account(body["email"])
    parent = state.items.by_id[body.get("parent") or account.root]
    content = _content(body)
    mime = body.get("mime") or (FOLDER if content is None else "application/octet-stream")
    item = Item(body.get("id") or new_id(), body["name"], mime, [parent.id], owner=account.email, drive=parent.drive)
    item.app = body.get("client", "")
    item.abusive, item.read_only = bool(body.get("abusive")), bool(body.get("read_only"))
    item.target = body.get("target", "")
    item.properties = dict(body.get("properties") or {})
    if body.get("modified"):
        item.modified = moment(body["modified"])
    if content is not None:
        item.blob = await state.blobs.put(content)
    state.items.add(item)
    return {"id": item.id}


def _content(body: dict[str, Any]) -> bytes | None:
    if "text" in body:
        return str(body["text"]).encode()
    if "base64" in body:
        return base64.b64decode(body["base64"])
    if "path" in body:
        return Path(body["path"]).read_bytes()
    return None


async def _edit(state: State, body: dict[str, Any]) -> Any:
    """Change an item behind the clients' backs: name, trashed, abusive, read_only; ``open_with`` shows it to one."""
    item = state.items.by_id[body["id"]]
    state.items.touch(item)
    if "open_with" in body:
        item.opened_by.add(body["open_with"])
    for name in ("name", "trashed", "abusive", "read_only"):
        if name in body:
            setattr(item, name, body[name])
    return {}


async def _remove(state: State, body: dict[str, Any]) -> Any:
    state.items.delete(state.items.by_id[body["id"]])
    return {}


async def _fault(state: State, body: dict[str, Any]) -> Any:
    return {"id": state.faults.add(msgspec.convert(body, Fault))}


async def _clear(state: State, body: dict[str, Any]) -> Any:
    state.faults.remove(body.get("id"))
    return {}


async def _hits(state: State, body: dict[str, Any]) -> Any:
    return {str(id): hits for id, hits in state.faults.hits().items()}


async def _requests(state: State, body: dict[str, Any]) -> Any:
    return state.log[int(body.get("since", 0)) :]


async def _files(state: State, body: dict[str, Any]) -> Any:
    return [
        {
            "id": item.id, "name": item.name, "mime": item.mime, "parents": item.parents, "owner": item.owner,
            "drive": item.drive, "size": item.blob.size if item.blob else None,
            "path": str(item.blob.path) if item.blob else "", "trashed": state.items.in_trash(item),
            "properties": item.properties, "client": item.app, "modified": item.modified, "root": item.root,
        }
        for item in state.items.by_id.values()
    ]  # fmt: skip


async def _know(state: State, body: dict[str, Any]) -> Any:
    await state.blobs.know(Path(body["path"]))
    return {}


async def _sessions(state: State, body: dict[str, Any]) -> Any:
    """How far each upload session is; with ``forget`` they are gone, as after a week."""
    told = [{"size": one.growing.size, "total": one.total, "finished": one.finished} for one in state.sessions.values()]
    if body.get("forget"):
        state.sessions.clear()
    return told


async def _wait(state: State, body: dict[str, Any]) -> Any:
    """Come back when a rule has struck (``rule``), uploads have stored ``uploaded`` bytes or ``finished`` requests
    whose "METHOD path?query" matches ``of`` are over; at the latest after ``timeout`` seconds."""
    until = time.monotonic() + float(body.get("timeout", 10))
    of = re.compile(body.get("of", ""))
    while time.monotonic() < until:
        stored = sum(session.growing.size for session in state.sessions.values())
        done = sum(bool(of.search(f"{one.method} {one.path}?{one.query}")) for one in state.log)
        struck = "rule" not in body or state.faults.hits().get(body["rule"], 0) > 0
        if struck and stored >= body.get("uploaded", 0) and done >= body.get("finished", 0):
            return {"waited": True}
        await asyncio.sleep(0.005)
    return {"waited": False}


async def _pages(state: State, body: dict[str, Any]) -> Any:
    """Forget the tokens of listings that were begun."""
    state.pages.clear()
    return {}


async def _secrets(state: State, body: dict[str, Any]) -> Any:
    """All that was given out so far and must not get into anything that a person or another program reads."""
    sessions = {id for one in state.log for id in re.findall(r"upload_id=([^&]+)", one.query)} | state.sessions.keys()
    return [*state.accounts.grants, *state.accounts.tokens, *sessions]


_COMMANDS: dict[str, Callable[[State, dict[str, Any]], Awaitable[Any]]] = {
    "account": _account, "client": _client, "grant": _grant, "token": _token, "expire": _expire, "revoke": _revoke,
    "key": _key, "settings": _settings, "device": _device, "drive": _drive, "put": _put, "edit": _edit,
    "remove": _remove, "fault": _fault, "clear": _clear, "hits": _hits, "requests": _requests, "files": _files,
    "know": _know, "sessions": _sessions, "pages": _pages, "wait": _wait,
    "secrets": _secrets,
}  # fmt: skip
