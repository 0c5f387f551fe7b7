"""Who there is: accounts, OAuth clients, grants, access tokens, and what a token lets one see and do."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from tests.drive_bed.errors import ApiError

SCOPES = "https://www.googleapis.com/auth/"
DRIVE = SCOPES + "drive"
DRIVE_FILE = SCOPES + "drive.file"
DRIVE_READONLY = SCOPES + "drive.readonly"
METADATA = SCOPES + "drive.metadata"
METADATA_READONLY = SCOPES + "drive.metadata.readonly"
_SEE_ALL = {DRIVE, DRIVE_READONLY, METADATA, METADATA_READONLY}
_WRITE = {DRIVE, DRIVE_FILE}
_READ = {DRIVE, DRIVE_READONLY, DRIVE_FILE}


@dataclass(slots=True)
class Account:
    """A person or a service account. ``limit`` is its storage in bytes, None for none; a service account has 0."""

    email: str
    name: str
    root: str
    limit: int | None = 15 * 2**30
    service: bool = False
    units_per_minute: int = 0
    creates_per_second: float = 0.0


@dataclass(slots=True)
class Client:
    """An OAuth client as made in the console: ``kind`` is "installed", "web" or "tv" (limited input)."""

    id: str
    secret: str
    kind: str = "installed"


@dataclass(slots=True)
class Grant:
    """What an account has allowed a client; the refresh token stands for it."""

    account: Account
    client: str
    scopes: frozenset[str]
    refresh: str = ""
    revoked: bool = False


@dataclass(slots=True)
class Token:
    """An access token."""

    value: str
    grant: Grant
    expires: float

    def see_all(self) -> bool:
        """Not only what this client made."""
        return bool(self.grant.scopes & _SEE_ALL)

    def require(self, what: str) -> None:
        """Raise ApiError 403 unless the scopes allow "read" (bytes), "write" or "look" (metadata)."""
        allowed = {"write": _WRITE, "read": _READ, "look": _WRITE | _SEE_ALL}[what]
        if not self.grant.scopes & allowed:
            raise ApiError(403, "insufficientPermissions")


@dataclass(slots=True)
class Accounts:
    """All of them. ``lifetime`` of access tokens in seconds."""

    by_email: dict[str, Account] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # a service account's e-mail → its public key, PEM
    lifetime: float = 3599.0

    def grant(self, account: Account, client: str, scopes: frozenset[str]) -> Grant:
        """A new grant with a refresh token."""
        grant = Grant(account, client, scopes, "1//" + secrets.token_urlsafe(64))
        self.grants[grant.refresh] = grant
        return grant

    def token(self, grant: Grant) -> Token:
        """A new access token of a grant."""
        token = Token("ya29." + secrets.token_urlsafe(96), grant, time.time() + self.lifetime)
        self.tokens[token.value] = token
        return token

    def of(self, authorization: str) -> Token:
        """The token in an Authorization header. Raises ApiError 401."""
        kind, _, value = authorization.partition(" ")
        if not value:
            raise ApiError(401, "required", "Login Required.", location="Authorization", kind="header")
        token = self.tokens.get(value.strip()) if kind.lower() == "bearer" else None
        if token is None or token.expires < time.time() or token.grant.revoked:
            raise ApiError(401, "authError", location="Authorization", kind="header")
        return token
