"""What is asked of Google's token server while signing in and out. What is sent here never shows in an error."""

from __future__ import annotations

import time
from typing import Any

from services.drive.auth import words
from services.drive.auth.client import OAuthClient
from services.drive.auth.vault import Grant
from services.drive.errors import SignInNeeded
from services.errors import BadInput, HybridError
from services.settings import Drive

Answer = dict[str, Any]
_SECONDS = 20.0


async def post(url: str, form: dict[str, str]) -> tuple[int, Answer]:
    """Status and JSON of the answer ({} when it is none). Raises StoreUnreachable."""
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.post(url, data=form) as response,
        ):
            try:
                answer = await response.json(content_type=None)
            except ValueError:  # a proxy's page
                answer = None
            return response.status, answer if isinstance(answer, dict) else {}
    except (aiohttp.ClientError, TimeoutError):
        raise words.unreachable(url) from None


async def exchange(settings: Drive, client: OAuthClient, scope: str, form: dict[str, str]) -> Grant | str:
    """The grant that a code stands for, or the error's word ("authorization_pending", "invalid_grant").

    ``form`` is what goes with the client's id and secret. Raises SignInNeeded when the person allowed less than
    ``scope``, HybridError when Google gives nothing that lasts.
    """
    sent = time.time()
    status, answer = await post(settings.token_url, {"client_id": client.id, "client_secret": client.secret, **form})
    if status != 200:
        return words.code_of(answer) or f"status {status}"
    token, refresh = answer.get("access_token"), answer.get("refresh_token")
    if not isinstance(token, str) or not token:
        raise words.unreachable(settings.token_url, "answered without a token")
    if not isinstance(refresh, str) or not refresh:
        raise HybridError(
            "Google gave a sign-in for one hour only, not one that lasts.",
            hint="Remove hybrid-tui at https://myaccount.google.com/connections and sign in again.",
        )
    granted = answer.get("scope")
    granted = granted if isinstance(granted, str) else words.full(scope)
    if not words.covers(granted, scope):
        raise SignInNeeded(
            "The sign-in succeeded, but without access to Drive: its box on Google's page was not ticked.",
            hint=words.LOGIN,
        )
    try:
        lifetime = float(answer.get("expires_in") or 0)
    except (TypeError, ValueError):
        lifetime = 0.0
    return Grant(client.id, granted, refresh, token, sent, sent + lifetime)


async def device_code(settings: Drive, client: OAuthClient, scope: str) -> Answer:
    """Ask for a code to be typed on another device. Raises BadInput when the client is of a type that may not.

    https://developers.google.com/identity/protocols/oauth2/limited-input-device
    """
    url = words.beside(settings.token_url, "device/code")
    status, answer = await post(url, {"client_id": client.id, "scope": words.full(scope)})
    if status == 200:
        return answer
    code = words.code_of(answer)
    if code == "invalid_client":
        raise BadInput(
            'This OAuth client can\'t sign in by device: it is not of the type "TVs and Limited Input devices".',
            hint="Make one of that type in Google's console, or use flow=paste.",
        )
    raise words.refused(code, url)


async def revoke(settings: Drive, token: str) -> bool:
    """End the grant at Google; False when it had ended before. Raises StoreUnreachable.

    https://developers.google.com/identity/protocols/oauth2/native-app#tokenrevoke
    """
    url = words.beside(settings.token_url, "revoke")
    status, answer = await post(url, {"token": token})
    if status == 200:
        return True
    if words.code_of(answer) in ("invalid_token", "invalid_grant"):
        return False
    raise words.unreachable(url, f"answered with status {status}")
