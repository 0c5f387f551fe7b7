"""Renewing a person's grant with google-auth. Blocking: called in a thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgspec

from services.drive.auth import words
from services.drive.auth.client import OAuthClient
from services.drive.auth.tokens import Lease
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.settings import Drive

SECONDS = 20.0
"""How long one request to the token server may take."""


def stored(vault: Vault, client: OAuthClient, scope: str) -> Grant:
    """The grant that is kept for ``client``. Raises SignInNeeded when there is none, or it allows too little."""
    grant = vault.read()
    if grant is None or grant.client_id != client.id or not grant.refresh_token:
        raise SignInNeeded("Nobody is signed in to Google Drive on this machine.", hint=words.LOGIN)
    if not words.covers(grant.scope, scope):
        raise SignInNeeded(
            f"The sign-in allows {words.short(grant.scope)}, but [drive] scope asks for {scope}.", hint=words.LOGIN
        )
    return grant


class UserGrant:
    """Renews the grant kept for ``client``, together with the other processes that use it."""

    def __init__(
        self, vault: Vault, client: OAuthClient, settings: Drive, clock: Callable[[], float] = time.time
    ) -> None:
        self.vault = vault
        self.client = client
        self.settings = settings
        self.clock = clock
        self.dead = ""  # a refresh token that Google has called invalid: it is not asked about again

    def renew(self, refused: str) -> Lease:
        """A lease that is not due: the one another process has just kept, or a new one from the token server.

        Raises SignInNeeded when the grant is gone, StoreUnreachable when the server does not answer.
        """
        with self.vault.lock():
            grant = stored(self.vault, self.client, self.settings.scope)
            if grant.refresh_token == self.dead:
                raise words.grant_gone()
            lease = Lease(grant.access_token, grant.obtained, grant.expires)
            if not lease.due(self.clock()) and lease.token != refused:
                return lease
            try:
                new = _refreshed(grant, self.client, self.settings, self.clock)
            except GrantGone:
                self.dead = grant.refresh_token
                raise words.grant_gone() from None
            with contextlib.suppress(OSError):  # a full disk: the token is good, and the grant is kept as it was
                self.vault.write(new)
            return Lease(new.access_token, new.obtained, new.expires)


def _refreshed(grant: Grant, client: OAuthClient, settings: Drive, clock: Callable[[], float]) -> Grant:
    from google.oauth2.credentials import Credentials

    credentials = Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token=grant.refresh_token,
        token_uri=settings.token_url,
        client_id=client.id,
        client_secret=client.secret,
    )
    obtained = clock()
    refresh(credentials, settings.token_url)
    return msgspec.structs.replace(
        grant,
        refresh_token=credentials.refresh_token or grant.refresh_token,
        access_token=credentials.token,
        obtained=obtained,
        expires=expiry(credentials, obtained),
    )


class GrantGone(Exception):
    """invalid_grant. What that means to a person depends on whose grant it was."""


def refresh(credentials: Any, token_url: str) -> None:
    """Renew any of google-auth's credentials. Its errors, which may quote the server's answer, become ours.

    Raises GrantGone, SignInNeeded, StoreUnreachable.
    """
    from functools import partial

    from google.auth import exceptions
    from google.auth.transport.requests import Request

    try:
        credentials.refresh(partial(Request(), timeout=SECONDS))
    except exceptions.TransportError:
        raise words.unreachable(token_url) from None
    except exceptions.GoogleAuthError as error:
        raise _trouble(error, token_url) from None
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):  # google-auth on an answer that is no JSON
        raise words.unreachable(token_url, "answered with something that is no token") from None
    if not isinstance(credentials.token, str) or not credentials.token:
        raise words.unreachable(token_url, "answered without a token")


def _trouble(error: Any, token_url: str) -> Exception:
    answer = error.args[1] if len(error.args) > 1 else None
    code = words.code_of(answer)
    if isinstance(answer, dict) and "iat and exp" in str(answer.get("error_description")):
        return SignInNeeded(
            "Google refused the service account's signature because this machine's clock is wrong.",
            hint="Set the clock (timedatectl set-ntp true), then try again.",
        )
    if code == "invalid_grant" or (code == "" and str(error).startswith("Reauthentication")):
        return GrantGone()
    return words.refused(code, token_url)


def expiry(credentials: Any, obtained: float) -> float:
    """When the token of ``credentials`` ends, in Unix seconds; google-auth has it as a naive time in UTC."""
    ends = credentials.expiry
    return ends.replace(tzinfo=UTC).timestamp() if ends is not None else obtained + 3600
