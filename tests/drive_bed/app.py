"""From a request to its answer: faults first, then the route, errors as Google writes them."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

from tests.drive_bed import control, feeds, files, oauth, uploads
from tests.drive_bed.errors import ApiError
from tests.drive_bed.messages import Answer, Broken, Request, as_json
from tests.drive_bed.state import Logged, State

Handler = Callable[..., Awaitable[Answer]]
_ID = r"([\w-]+)"
_UPLOAD = "/(?:upload|resumable/upload)/drive/v3/files"
_TABLE: list[tuple[str, str, Handler]] = [
    ("POST", "/token", oauth.token),
    ("POST", "/oauth2/v4/token", oauth.token),
    ("GET", "/o/oauth2/(?:v2/)?auth", oauth.consent),
    ("POST", "/device/code", oauth.device_code),
    ("POST", "/(?:o/oauth2/)?revoke", oauth.revoke),
    ("GET", "/oauth2/v[123]/tokeninfo|/tokeninfo", oauth.token_info),
    ("GET", "/drive/v3/about", feeds.about),
    ("GET", "/drive/v3/changes/startPageToken", feeds.start_token),
    ("GET", "/drive/v3/changes", feeds.changes),
    ("GET", "/drive/v3/drives", feeds.drives),
    ("GET", "/drive/v3/drives/" + _ID, feeds.drive),
    ("GET", "/drive/v3/files/generateIds", files.generate_ids),
    ("DELETE", "/drive/v3/files/trash", files.empty_trash),
    ("GET", "/drive/v3/files", files.list_files),
    ("POST", "/drive/v3/files", files.create),
    ("GET", "/drive/v3/files/" + _ID, files.get),
    ("PATCH", "/drive/v3/files/" + _ID, files.update),
    ("DELETE", "/drive/v3/files/" + _ID, files.delete),
    ("POST", "/drive/v3/files/" + _ID + "/copy", files.copy),
    ("GET", "/drive/v3/files/" + _ID + "/export", files.export),
    ("POST", _UPLOAD, uploads.upload),
    ("PUT", _UPLOAD, uploads.upload),
    ("DELETE", _UPLOAD, uploads.upload),
    ("POST", _UPLOAD + "/" + _ID, uploads.upload),
    ("PUT", _UPLOAD + "/" + _ID, uploads.upload),
    ("PATCH", _UPLOAD + "/" + _ID, uploads.upload),
    ("DELETE", _UPLOAD + "/" + _ID, uploads.upload),
]
_SIGN_IN = {"/token", "/oauth2/v4/token", "/device/code", "/revoke", "/o/oauth2/revoke"}
_PAGE = b"<!DOCTYPE html>\n<html lang=en>\n<title>Error %d (Server Error)!!1</title>\n"
_ROUTES = [(method, re.compile(f"(?:{pattern})$"), handler) for method, pattern, handler in _TABLE]


class App:
    """What answers requests. ``state`` changes as a whole when the test bed is reset."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def __call__(self, request: Request) -> Answer:
        try:
            if request.path.startswith("/testbed/"):
                return as_json(await control.command(self, request))
            self._who(request)
            request.trouble = self.state.faults.on(request)
            if request.trouble.latency:
                await asyncio.sleep(request.trouble.latency)
            if request.trouble.drop_request_at is not None and not request.has_body:
                raise Broken("dropped as asked", reset=request.trouble.reset)
            if request.trouble.status:
                return _planned(request)
            return await self._route(request)
        except ApiError as error:
            return _error(error)
        except (Broken, asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # a flaw of the server: say so where a test can see it
            traceback.print_exc(file=sys.stderr)
            return _error(ApiError(500, "internalError", f"the test server failed: {error!r}"))

    def _who(self, request: Request) -> None:
        """Note whose request this is, for rules that name an account. Nothing is refused yet."""
        value = request.headers.get("authorization", "").partition(" ")[2].strip()
        if (token := self.state.accounts.tokens.get(value)) is not None:
            request.account, request.client = token.grant.account.email, token.grant.client
        elif (session := self.state.sessions.get(request.query.get("upload_id", ""))) is not None:
            request.account, request.client = session.view.me, session.view.client

    async def _route(self, request: Request) -> Answer:
        known = False
        for method, pattern, handler in _ROUTES:
            if (match := pattern.match(request.path)) is None:
                continue
            known = True
            if method == request.method:
                return await handler(self.state, request, *(group for group in match.groups() if group))
        raise ApiError(405 if known else 404, "methodNotAllowed" if known else "notFound", "Not Found")

    def done(self, request: Request, status: int, bytes_out: int) -> None:
        """Write down a request that is over."""
        if request.path.startswith("/testbed/"):
            return
        log = self.state.log
        log.append(
            Logged(
                len(log),
                time.time(),
                request.method,
                request.path,
                request.raw_query,
                status,
                request.bytes_in,
                bytes_out,
                request.units,
                request.account,
                tuple(request.trouble.names),
            )
        )


def _planned(request: Request) -> Answer:
    status, reason = request.trouble.status, request.trouble.reason
    if request.path in _SIGN_IN:
        answer = oauth.Refusal(status, reason or "internal_failure", "Backend Error").answer()
    elif status in (502, 504) and not reason:
        answer = Answer(status, {"Content-Type": "text/html; charset=UTF-8"}, _PAGE % status)
    else:
        answer = _error(ApiError(status, reason))
    if request.trouble.retry_after is not None:
        answer.headers["Retry-After"] = f"{request.trouble.retry_after:g}"
    return answer


def _error(error: ApiError) -> Answer:
    answer = as_json(error.body(), error.status)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
    return answer
