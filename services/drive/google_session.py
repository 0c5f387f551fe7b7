"""One client, one cache for all actions of a process on one store, as long as their event loop lives.

An action opens the store and drops it; nobody closes it. The client lives in an asynchronous generator, which the
loop itself closes at its end (``asyncio.run`` and the panel alike), so no connection is left open, and two actions of
the panel share connections, tokens and what they know of Drive.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from services.drive.api.client import DriveClient
from services.drive.auth.open import tokens_for
from services.drive.google_mirror import Mirror
from services.drive.google_slots import Slots
from services.drive.google_tree import Tree
from services.errors import BadInput
from services.workspace import Workspace


class Session:
    """What is open: the client, and what this process knows of the store."""

    def __init__(self, workspace: Workspace) -> None:
        drive, name = workspace.settings.drive, workspace.settings.store.root
        self.client = DriveClient(tokens_for(workspace), drive, workspace.state / "drive")
        self.tree = Tree(self.client, Mirror(mirror_path(workspace)), drive, name)
        self.slots = Slots(self.tree)

    async def close(self) -> None:
        """Keep what is known, close all connections."""
        try:
            self.tree.save()
            self.tree.mirror.close()
        finally:
            await self.client.close()


_Key = tuple[Path, bytes]
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, tuple[Session, AsyncGenerator[None, None]]]]
_open = WeakKeyDictionary()


async def session(workspace: Workspace) -> Session:
    """The running loop's session for the workspace's store. Nothing is sent yet."""
    here = _open.setdefault(asyncio.get_running_loop(), {})
    key = (workspace.root, msgspec.json.encode((workspace.settings.drive, workspace.settings.store)))
    if key not in here:
        with contextlib.suppress(BadInput):  # a workspace that can't be written still has a store to read
            workspace.ensure_state()
        opened = Session(workspace)
        keeper = _keep(opened, here, key)
        here[key] = opened, keeper
        await anext(keeper)
    return here[key][0]


async def close(workspace: Workspace) -> None:
    """Close the running loop's sessions of the workspace, whatever its settings were; the next call opens anew."""
    here = _open.get(asyncio.get_running_loop(), {})
    for key in [key for key in here if key[0] == workspace.root]:
        await here[key][1].aclose()


def mirror_path(workspace: Workspace) -> Path:
    """The file of what is remembered about this store, another one for each root, account kind and address."""
    drive, root = workspace.settings.drive, workspace.settings.store.root
    which = msgspec.json.encode(
        (drive.api, drive.account, drive.client, drive.key, drive.shared_drive, drive.root_id, root)
    )
    return workspace.state / "drive" / f"mirror-{hashlib.sha256(which).hexdigest()[:12]}.sqlite"


async def _keep(
    opened: Session, here: dict[_Key, tuple[Session, AsyncGenerator[None, None]]], key: _Key
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        here.pop(key, None)
        await opened.close()
