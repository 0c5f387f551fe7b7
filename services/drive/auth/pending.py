"""A sign-in that a second command ends: the first prints the address, the person brings back the answer.

What is kept between the two (the state and PKCE's verifier) lies beside the grant, 0600, and is of no use without the
code, nor the code without it.
"""

from __future__ import annotations

import time

import msgspec

from services import atomic
from services.drive.auth.browser import WAIT_SECONDS, Attempt, SignIn
from services.drive.auth.client import client_path, read_client
from services.drive.auth.vault import Vault
from services.errors import BadInput
from services.workspace import Workspace


def leave(sign_in: SignIn) -> None:
    """Keep what ``resume`` needs. Raises OSError."""
    sign_in.vault.make_folder()
    atomic.write_bytes(sign_in.vault.pending, msgspec.json.encode(sign_in.attempt), mode=0o600)


def resume(workspace: Workspace) -> SignIn:
    """The sign-in that was begun last. Raises BadInput when there is none, or it is older than 15 minutes."""
    client = read_client(client_path(workspace))
    pending = Vault(client.id).pending
    try:
        attempt = msgspec.json.decode(pending.read_bytes(), type=Attempt)
    except (OSError, msgspec.DecodeError):
        attempt = None
    if attempt is None or not attempt.made <= time.time() < attempt.made + WAIT_SECONDS:
        pending.unlink(missing_ok=True)
        raise BadInput(
            "No sign-in is waiting for a code; one waits for 15 minutes.",
            hint="Begin again with: hybrid-tui --run drive.login flow=paste",
        )
    return SignIn(workspace, client, attempt)


def forget(workspace: Workspace) -> None:
    """Nothing waits any more."""
    Vault(read_client(client_path(workspace)).id).pending.unlink(missing_ok=True)
