"""Signing in on another device: this one shows a short code, a phone or laptop types it at Google.

Google allows it for the scope drive.file only, and for clients of the type "TVs and Limited Input devices".
https://developers.google.com/identity/protocols/oauth2/limited-input-device
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from services.drive.auth import endpoints, words
from services.drive.auth.browser import keep
from services.drive.auth.client import OAuthClient, client_path, read_client
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput, StoreUnreachable
from services.settings import Drive
from services.workspace import Workspace

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER = 5.0  # seconds more between two questions after each "slow_down": RFC 8628, section 3.5


class DeviceSignIn:
    """One sign-in under way: show ``address`` and ``user_code``, then await ``result()``."""

    def __init__(
        self,
        settings: Drive,
        client: OAuthClient,
        scope: str,
        answer: endpoints.Answer,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.client = client
        self.scope = scope
        self.vault = Vault(client.id)
        self.user_code = str(answer.get("user_code", ""))
        self.address = str(answer.get("verification_url") or answer.get("verification_uri") or "")
        self.ends = time.time() + float(answer.get("expires_in") or 1800)
        self._device_code = str(answer.get("device_code", ""))
        self._interval = float(answer.get("interval") or 5)
        self._sleep = sleep

    @classmethod
    async def begin(cls, workspace: Workspace, *, scope: str = "") -> DeviceSignIn:
        """Ask Google for a code. Raises BadInput (scope or client may not), SignInNeeded (no client),
        StoreUnreachable."""
        settings = workspace.settings.drive
        scope = scope or settings.scope
        if scope != "drive.file":
            raise BadInput(
                f"Google lets nobody sign in by device for the scope {scope}, only for drive.file.",
                hint="Use flow=paste, which needs no browser on this machine either.",
            )
        client = read_client(client_path(workspace))
        return cls(settings, client, scope, await endpoints.device_code(settings, client, scope))

    async def result(self) -> Grant:
        """Ask until the person has agreed. Raises SignInNeeded (said no, or too late), StoreUnreachable."""
        form = {"grant_type": _GRANT, "device_code": self._device_code}
        while time.time() < self.ends:
            await self._sleep(self._interval)
            try:
                grant = await endpoints.exchange(self.settings, self.client, self.scope, form)
            except StoreUnreachable as error:
                if isinstance(error, SignInNeeded):
                    raise
                continue  # a line that broke for a moment: the code is still good
            if isinstance(grant, Grant):
                await keep(self.vault, grant)
                return grant
            if grant == "slow_down":
                self._interval += _SLOWER
            elif grant == "access_denied":
                raise SignInNeeded("Google was told no, so nothing has changed.", hint=words.LOGIN)
            elif grant in ("expired_token", "invalid_grant"):
                break
            elif grant != "authorization_pending" and not grant.startswith("status 5"):
                raise words.refused(grant, self.settings.token_url)
        raise SignInNeeded("The code was not typed at Google in time.", hint=words.LOGIN)
