"""Google's OAuth endpoints: the token address with its four grants, the consent page, the device flow, revocation.

https://developers.google.com/identity/protocols/oauth2/native-app
https://developers.google.com/identity/protocols/oauth2/limited-input-device
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

from tests.drive_bed.accounts import DRIVE_FILE, SCOPES, Account, Client, Grant
from tests.drive_bed.messages import Answer, Request, as_json
from tests.drive_bed.state import State

_DEVICE_SCOPES = {DRIVE_FILE, SCOPES + "drive.appdata", "openid", "email", "profile"}
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Refusal(Exception):
    """An OAuth error: ``error`` is its word."""

    def __init__(self, status: int, error: str, description: str = "") -> None:
        super().__init__(description)
        self.status, self.error, self.description = status, error, description

    def answer(self) -> Answer:
        body = {"error": self.error}
        if self.description:
            body["error_description"] = self.description
        return as_json(body, self.status)


@dataclass(slots=True)
class Code:
    """An authorization code on its way from the consent page to the token address."""

    account: Account
    client: str
    scopes: frozenset[str]
    redirect: str
    challenge: str
    method: str
    offline: bool


@dataclass(slots=True)
class Device:
    """A device that waits for its person. ``allowed``: None while nobody has decided."""

    client: str
    scopes: frozenset[str]
    user_code: str
    expires: float
    interval: float
    asked: float = 0.0
    allowed: Account | None = None
    denied: bool = False


async def token(state: State, request: Request) -> Answer:
    """POST /token."""
    form = await _form(request)
    try:
        match form.get("grant_type", ""):
            case "refresh_token":
                return _refresh(state, form)
            case "authorization_code":
                return _code(state, form)
            case grant if grant == _DEVICE_GRANT:
                return _device_token(state, form)
            case grant if grant == _JWT_GRANT:
                return _assertion(state, form)
            case other:
                raise Refusal(400, "unsupported_grant_type", f"Invalid grant_type: {other}")
    except Refusal as refusal:
        return refusal.answer()


async def _form(request: Request) -> dict[str, str]:
    body = await request.read(1 << 20)
    if "json" in request.headers.get("content-type", ""):
        return {name: str(value) for name, value in msgspec.json.decode(body).items()}
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    scheme, _, basic = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":  # what Go's oauth2 tries first
        name, _, secret = base64.b64decode(basic).decode().partition(":")
        form = {"client_id": unquote(name), "client_secret": unquote(secret)} | form
    return form


def _client(state: State, form: dict[str, str]) -> Client:
    client = state.accounts.clients.get(form.get("client_id", ""))
    if client is None:
        raise Refusal(401, "invalid_client", "The OAuth client was not found.")
    if client.secret and form.get("client_secret") != client.secret:
        raise Refusal(401, "invalid_client", "The provided client secret is invalid.")
    return client


def _tokens(state: State, grant: Grant, *, with_refresh: bool) -> Answer:
    body: dict[str, Any] = {
        "access_token": state.accounts.token(grant).value,
        "expires_in": int(state.accounts.lifetime),
        "scope": " ".join(sorted(grant.scopes)),
        "token_type": "Bearer",
    }
    if with_refresh:
        body["refresh_token"] = grant.refresh
    return as_json(body)


def _refresh(state: State, form: dict[str, str]) -> Answer:
    client = _client(state, form)
    grant = state.accounts.grants.get(form.get("refresh_token", ""))
    if grant is None or grant.revoked or grant.client != client.id:
        raise Refusal(400, "invalid_grant", "Token has been expired or revoked.")
    return _tokens(state, grant, with_refresh=False)


def _code(state: State, form: dict[str, str]) -> Answer:
    client = _client(state, form)
    code = state.codes.pop(form.get("code", ""), None)
    if not isinstance(code, Code) or code.client != client.id:
        raise Refusal(400, "invalid_grant", "Malformed auth code.")
    if form.get("redirect_uri") != code.redirect:
        raise Refusal(400, "redirect_uri_mismatch", "Bad Request")
    verifier = form.get("code_verifier", "")
    if code.challenge:
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if code.challenge != (digest if code.method == "S256" else verifier):
            raise Refusal(400, "invalid_grant", "Invalid code verifier." if verifier else "Missing code verifier.")
    grant = state.accounts.grant(code.account, client.id, code.scopes)
    return _tokens(state, grant, with_refresh=code.offline or client.kind == "installed")


async def consent(state: State, request: Request) -> Answer:
    """The page where a person allows or denies; here the answer is ready. ``login_hint`` picks the account."""
    query = request.query
    client = state.accounts.clients.get(query.get("client_id", ""))
    redirect = query.get("redirect_uri", "")
    if client is None:
        return _page(401, "Error 401: invalid_client")
    if client.kind == "installed" and urlsplit(redirect).hostname not in ("127.0.0.1", "localhost", "::1"):
        return _page(400, "Error 400: redirect_uri_mismatch")
    if query.get("response_type") != "code" or not query.get("scope"):
        return _page(400, "Error 400: invalid_request")
    back = {"state": query["state"]} if "state" in query else {}
    if client.id in state.deny:
        state.deny.discard(client.id)
        return _redirect(redirect, back | {"error": "access_denied"})
    accounts = [account for account in state.accounts.by_email.values() if not account.service]
    hinted = state.accounts.by_email.get(query.get("login_hint", ""))
    if not accounts:
        return _page(400, "There is no account to sign in with.")
    scopes = frozenset(query["scope"].split()) - state.withheld
    code = "4/0A" + secrets.token_urlsafe(48)
    state.codes[code] = Code(
        hinted or accounts[-1], client.id, scopes, redirect, query.get("code_challenge", ""),
        query.get("code_challenge_method", "plain"), query.get("access_type") == "offline",
    )  # fmt: skip
    return _redirect(redirect, back | {"code": code, "scope": " ".join(sorted(scopes))})


def _redirect(address: str, query: dict[str, str]) -> Answer:
    return Answer(302, {"Location": address + ("&" if "?" in address else "?") + urlencode(query)})


def _page(status: int, text: str) -> Answer:
    return Answer(status, {"Content-Type": "text/html; charset=utf-8"}, f"<html><body>{text}</body></html>".encode())


async def device_code(state: State, request: Request) -> Answer:
    """POST /device/code: only narrow scopes are allowed on devices, drive.file among them."""
    form = await _form(request)
    client = state.accounts.clients.get(form.get("client_id", ""))
    scopes = frozenset(form.get("scope", "").split())
    if client is None:
        return Refusal(401, "invalid_client", "The OAuth client was not found.").answer()
    if client.kind != "tv":
        return Refusal(401, "invalid_client", "Invalid client type.").answer()
    if not scopes or scopes - _DEVICE_SCOPES:
        return Refusal(400, "invalid_scope", "Invalid device flow scope: " + " ".join(sorted(scopes))).answer()
    code = "AH-1Ng" + secrets.token_urlsafe(48)
    user_code = "-".join(secrets.token_hex(2).upper() for _ in range(2))
    state.codes[code] = Device(client.id, scopes, user_code, time.time() + 1800, state.device_interval)
    body = {
        "device_code": code,
        "user_code": user_code,
        "expires_in": 1800,
        "interval": int(state.device_interval) or 1,
        "verification_url": request.address + "/device",
    }
    return as_json(body)


def decide(state: State, user_code: str, account: Account | None) -> bool:
    """A person at the device page: allow as ``account``, or deny with None. False when there is no such code."""
    for device in state.codes.values():
        if isinstance(device, Device) and device.user_code == user_code:
            device.allowed, device.denied = account, account is None
            return True
    return False


def _device_token(state: State, form: dict[str, str]) -> Answer:
    client = _client(state, form)
    device = state.codes.get(form.get("device_code", ""))
    if not isinstance(device, Device) or device.client != client.id:
        raise Refusal(400, "invalid_grant", "Malformed device code.")
    now = time.time()
    too_soon = now - device.asked < device.interval * 0.9
    device.asked = now
    if device.expires < now:
        raise Refusal(400, "expired_token", "The device code has expired.")
    if device.denied:
        raise Refusal(403, "access_denied", "Forbidden")
    if device.allowed is None:
        if too_soon:
            raise Refusal(403, "slow_down", "Forbidden")
        raise Refusal(428, "authorization_pending", "Precondition Required")
    del state.codes[form["device_code"]]
    return _tokens(state, state.accounts.grant(device.allowed, client.id, device.scopes), with_refresh=True)


def _assertion(state: State, form: dict[str, str]) -> Answer:
    """A service account's signed claim (RFC 7523), checked with the public key that the test bed was given."""
    from google.auth import jwt

    decode: Callable[..., dict[str, Any]] = jwt.decode
    try:
        claims = decode(form.get("assertion", ""), certs=None, verify=False)
        key = state.accounts.keys[claims["iss"]]
        claims = decode(form["assertion"], certs=key, verify=True, clock_skew_in_seconds=10)
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(400, "invalid_grant", "Invalid JWT Signature.") from error
    if urlsplit(claims.get("aud", "")).path != "/token":
        raise Refusal(400, "invalid_grant", "Invalid JWT: wrong audience.")
    account = state.accounts.by_email.get(claims.get("sub") or claims["iss"])
    if account is None:
        raise Refusal(400, "invalid_grant", "Invalid grant: account not found")
    grant = Grant(account, claims["iss"], frozenset(str(claims.get("scope", "")).split()))
    return _tokens(state, grant, with_refresh=False)


async def revoke(state: State, request: Request) -> Answer:
    """POST /revoke: a refresh or an access token; either ends the whole grant."""
    value = ({**request.query, **await _form(request)}).get("token", "")
    grant = state.accounts.grants.get(value)
    if grant is None and (known := state.accounts.tokens.get(value)) is not None:
        grant = known.grant
    if grant is None or grant.revoked:
        return Refusal(400, "invalid_token", "Token expired or revoked").answer()
    grant.revoked = True
    return as_json({})


async def token_info(state: State, request: Request) -> Answer:
    """What an access token is for, and how long."""
    found = state.accounts.tokens.get(request.query.get("access_token", ""))
    if found is None or found.grant.revoked or found.expires < time.time():
        return Refusal(400, "invalid_token", "Invalid Value").answer()
    grant = found.grant
    body = {
        "azp": grant.client,
        "aud": grant.client,
        "scope": " ".join(sorted(grant.scopes)),
        "exp": str(int(found.expires)),
        "expires_in": str(int(found.expires - time.time())),
        "access_type": "offline",
    }
    return as_json(body)
