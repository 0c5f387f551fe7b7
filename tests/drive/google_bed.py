"""Workspaces signed in to the Drive server of the tests, for tests of the store and of what lies on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services import workspace as workspaces
from services.drive.auth.vault import Grant, Vault
from services.workspace import Workspace
from tests.drive_bed.serve import Account, DriveServer

SCOPES = {"drive.file": "https://www.googleapis.com/auth/drive.file", "drive": "https://www.googleapis.com/auth/drive"}
SignedIn = Callable[..., Workspace]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's own configuration folder, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("services.drive.auth.vault.real_keyring", lambda: None)
    return tmp_path / "config" / "hybrid-tui"


@pytest.fixture
def signed_in(drive_server: DriveServer, config: Path, tmp_path: Path) -> SignedIn:
    """Makes workspaces whose store is the server: ``signed_in("work", account)``; hybrid.toml says so."""

    def make(name: str = "work", account: Account | None = None, **more: str) -> Workspace:
        who = account or drive_server.account()
        config.mkdir(parents=True, exist_ok=True)
        client = who.client_json(config / "client.json")
        scope = SCOPES[who.scope]
        Vault(who.client, config).write(Grant(who.client, scope, who.refresh_token))
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        about = {
            "client": str(client),
            "scope": who.scope,
            "api": drive_server.url,
            "token_url": f"{drive_server.url}/token",
            **more,
        }
        lines = [
            "# mine",
            "[store]",
            'kind = "drive"  # not a folder',
            "[drive]",
            *(f'{k} = "{v}"' for k, v in about.items()),
        ]
        (root / "hybrid.toml").write_text("\n".join(lines) + "\n")
        return workspaces.open_workspace(root)

    return make


def again(workspace: Workspace, **drive: str) -> Workspace:
    """The workspace as another process would open it; ``drive`` are settings to change."""
    fresh = workspaces.open_workspace(workspace.root)
    changed = msgspec.structs.replace(fresh.settings.drive, **drive)
    return dataclasses.replace(fresh, settings=msgspec.structs.replace(fresh.settings, drive=changed))
