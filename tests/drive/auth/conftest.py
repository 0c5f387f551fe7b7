"""A home of its own for each test, so that no sign-in of the person's is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.drive.auth import words
from services.drive.auth.vault import Grant, Vault
from services.workspace import Workspace
from tests.drive.auth.helpers import make_box
from tests.drive_bed.fixtures import drive_server
from tests.drive_bed.serve import Account, DriveServer

__all__ = ["drive_server"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder; config below it. No browser, no credentials of the machine's."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in (
        "XDG_CONFIG_HOME", "CLOUDSDK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def account(drive_server: DriveServer) -> Account:
    """Ann, who has agreed to nothing that this machine knows of."""
    return drive_server.account()


@pytest.fixture
def box(drive_server: DriveServer, account: Account, tmp_path: Path) -> Workspace:
    """A workspace that signs in at the test server, as Ann's OAuth client."""
    client = account.client_json(tmp_path / "client.json")
    return make_box(tmp_path / "work", drive_server, client=str(client))


@pytest.fixture
def signed_in(box: Workspace, account: Account) -> Workspace:
    """The same, signed in: the grant is kept, without an access token."""
    Vault(account.client).write(Grant(account.client, words.full("drive.file"), account.refresh_token))
    return box
