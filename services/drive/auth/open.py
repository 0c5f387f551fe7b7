"""Where the workspace's access tokens come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.drive.api.types import Tokens
from services.drive.auth.tokens import Lease, SharedTokens
from services.workspace import Workspace

if TYPE_CHECKING:
    from services.drive.auth.user import UserGrant


def tokens_for(workspace: Workspace) -> Tokens:
    """The tokens of the account that ``[drive] account`` names. Nothing is read or imported before the first is asked.

    ``token()`` raises SignInNeeded (no grant, or gone), BadInput (a client or key that can't be used),
    StoreUnreachable (the token server does not answer).
    """
    settings = workspace.settings.drive
    if settings.account == "user":
        return SharedTokens(_Users(workspace))
    from services.drive.auth import machine

    if settings.account == "service-account":
        from pathlib import Path

        key = workspace.root / Path(settings.key).expanduser()
        return SharedTokens(machine.renewer(lambda: machine.service_account(key, settings), settings))
    load = machine.colab if settings.account == "colab" else machine.application_default
    return SharedTokens(machine.renewer(lambda: load(settings), settings))


class _Users:
    """A person's grant; the client's file is read when the first token is asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.grant: UserGrant | None = None

    def __call__(self, refused: str) -> Lease:
        if self.grant is None:
            from services.drive.auth.client import client_path, read_client
            from services.drive.auth.user import UserGrant
            from services.drive.auth.vault import Vault

            client = read_client(client_path(self.workspace))
            self.grant = UserGrant(Vault(client.id), client, self.workspace.settings.drive)
        return self.grant.renew(refused)
