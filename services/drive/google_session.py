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
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from services.drive.api.client import DriveClient
from services.drive.auth.client import client_path, read_client
from services.drive.auth.open import tokens_for
from services.drive.auth.vault import Vault
from services.drive.google_mirror import Mirror
from services.drive.google_tree import Tree
from services.errors import BadInput, HybridError
from services.workspace import Workspace


class Session:
    """What is open: the client, and what this process knows of the store."""

    def __init__(self, workspace: Workspace, memory: Path) -> None:
        self.memory = memory
        self.looked = asyncio.get_running_loop().time()
        drive, name = workspace.settings.drive, workspace.settings.store.root
        self.client = DriveClient(tokens_for(workspace), drive, workspace.state / "drive")
        self.tree = Tree(self.client, Mirror(memory), drive, name)
        self.slots = self.tree.slots

    async def close(self) -> None:
        """Keep what is known, close all connections."""
        try:
            self.tree.cache.save()
            self.tree.mirror.close()
        finally:
            await self.client.close()


_LOOK_SECONDS = 5.0  # between two looks at who is signed in
_Key = tuple[Path, bytes]
_Keeper = AsyncGenerator[Session, None]


@dataclass
class _Loop:
    """The sessions of one event loop, each with the generator that closes it."""

    sessions: dict[_Key, tuple[Session, _Keeper]] = field(default_factory=dict)
    retired: list[_Keeper] = field(default_factory=list)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


async def session(workspace: Workspace) -> Session:
    """The running loop's session for the workspace's store; another one after another sign-in. Nothing is sent yet."""
    loop = asyncio.get_running_loop()
    here = _loops.setdefault(loop, _Loop())
    key = _key(workspace)
    async with here.opening:
        known = here.sessions.get(key)
        if known is not None and loop.time() - known[0].looked < _LOOK_SECONDS:
            return known[0]
        memory = await asyncio.to_thread(_memory, workspace)
        if known is not None and known[0].memory == memory:
            known[0].looked = loop.time()
            return known[0]
        if known is not None:  # who still uses it goes on; the loop closes it at its end
            here.retired.append(here.sessions.pop(key)[1])
        keeper = _keep(workspace, memory, here, key)
        opened = await anext(keeper)
        here.sessions[key] = opened, keeper
        return opened


def opened(workspace: Workspace) -> Session | None:
    """The running loop's session for the workspace's store, if it was asked for before."""
    here = _loops.get(asyncio.get_running_loop())
    found = here.sessions.get(_key(workspace)) if here else None
    return found[0] if found else None


def _key(workspace: Workspace) -> _Key:
    return workspace.root, msgspec.json.encode((workspace.settings.drive, workspace.settings.store.root))


async def close(workspace: Workspace) -> None:
    """Close the running loop's sessions of the workspace, as after another sign-in; the next call opens anew."""
    here = _loops.get(asyncio.get_running_loop(), _Loop())
    for key in [key for key in here.sessions if key[0] == workspace.root]:
        await here.sessions[key][1].aclose()


def open_sessions() -> int:
    """How many sessions all loops of this process hold."""
    return sum(len(here.sessions) for here in _loops.values())


async def _keep(workspace: Workspace, memory: Path, here: _Loop, key: _Key) -> _Keeper:
    opened = Session(workspace, memory)
    try:
        yield opened
    finally:
        if key in here.sessions and here.sessions[key][0] is opened:
            del here.sessions[key]
        await opened.close()


def _memory(workspace: Workspace) -> Path:
    """The file of what is remembered: another one for each address, root and sign-in, since what one account sees of
    Drive, and where its changes feed stands, says nothing about another's."""
    with contextlib.suppress(BadInput):  # a workspace that can't be written still has a store to read
        workspace.ensure_state()
    drive = workspace.settings.drive
    who = drive.key
    if drive.account == "user":
        with contextlib.suppress(HybridError):
            grant = Vault(read_client(client_path(workspace)).id).read()
            who = grant.refresh_token if grant is not None else ""
    about = (drive.api, drive.account, drive.shared_drive, workspace.settings.store.root, who)
    name = hashlib.sha256(msgspec.json.encode(about)).hexdigest()[:12]
    return workspace.state / "drive" / f"mirror-{name}.sqlite"
