"""Grants that the machine brings: Application Default Credentials, service accounts, Colab."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from google.auth.exceptions import RefreshError

from services.context import Context
from services.drive.auth.actions import LoginParams, LoginResult, LogoutParams, login, logout
from services.drive.auth.open import tokens_for
from services.drive.auth.user import _trouble
from services.drive.errors import SignInNeeded
from services.errors import BadInput
from services.workspace import Workspace
from tests.drive.auth.helpers import make_box
from tests.drive_bed.serve import Account, DriveServer


def adc_file(path: Path, account: Account) -> Path:
    """What gcloud auth application-default login leaves."""
    grant = {"client_id": account.client, "client_secret": account.secret, "refresh_token": account.refresh_token}
    path.write_text(json.dumps({"type": "authorized_user", **grant}))
    return path


@pytest.fixture
def adc_box(drive_server: DriveServer, tmp_path: Path) -> Workspace:
    return make_box(tmp_path / "work", drive_server, account="adc")


@pytest.mark.parametrize("where", ["variable", "gcloud's folder"])
async def test_application_default_credentials_from_a_file(
    adc_box: Workspace, account: Account, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = home / ".config" / "gcloud"
    folder.mkdir(parents=True)
    file = adc_file(folder / "application_default_credentials.json", account)
    if where == "variable":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file.rename(home / "adc.json")))
    tokens = tokens_for(adc_box)
    token = await tokens.token()
    assert token.startswith("ya29.") and await tokens.token() == token
    assert await tokens.token(refused=token) != token
    assert not (home / ".config" / "hybrid-tui").exists()  # nothing of it is kept by us


async def test_no_or_dead_default_credentials(
    adc_box: Workspace, account: Account, home: Path, monkeypatch: pytest.MonkeyPatch, drive_server: DriveServer
) -> None:
    with pytest.raises(SignInNeeded, match="has no Application Default Credentials") as raised:
        await tokens_for(adc_box).token()
    assert "gcloud auth application-default login" in raised.value.hint
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(adc_file(home / "adc.json", account)))
    drive_server.call("revoke")
    with pytest.raises(SignInNeeded, match="does not accept this machine's sign-in") as raised:
        await tokens_for(adc_box).token()
    assert "gcloud auth application-default login" in raised.value.hint
    assert account.refresh_token not in str(raised.value)


async def test_a_service_account_signs_for_a_shared_drive(drive_server: DriveServer, tmp_path: Path) -> None:
    key = drive_server.service_account(path=tmp_path / "key.json")
    drive = drive_server.shared_drive("team", {"robot@project.iam.gserviceaccount.com": "fileOrganizer"})
    box = make_box(
        tmp_path / "work", drive_server, account="service-account", key=str(key), shared_drive=drive, scope="drive"
    )
    tokens = tokens_for(box)
    assert (await tokens.token()).startswith("ya29.")
    result = await login(Context(box), LoginParams())
    assert isinstance(result, LoginResult) and (result.account, result.scope) == ("service-account", "drive")
    with pytest.raises(BadInput, match="did not sign in"):
        await logout(Context(box), LogoutParams())
    drive_server.reset()  # the key is unknown now, as after it was deleted
    with pytest.raises(SignInNeeded, match="service account's key any more"):
        await tokens.token(refused=await tokens.token())


async def test_a_service_account_without_a_shared_drive_is_told_why(
    drive_server: DriveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = drive_server.service_account(path=tmp_path / "key.json")
    box = make_box(tmp_path / "work", drive_server, account="service-account", key=str(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    for own in (box, make_box(tmp_path / "adc", drive_server, account="adc")):
        with pytest.raises(BadInput, match="no storage of its own") as raised:
            await tokens_for(own).token()
        assert "shared_drive" in raised.value.hint


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"type": "service_account", "private_key": "-----BEGIN SECRET"}', None]
)
async def test_a_broken_key(drive_server: DriveServer, tmp_path: Path, content: str | None) -> None:
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
    box = make_box(tmp_path / "work", drive_server, account="service-account", key=str(key), shared_drive="0A")
    with pytest.raises(BadInput, match=r"is not a service account's key|can't be read") as raised:
        await tokens_for(box).token()
    assert "SECRET" not in f"{raised.value} {raised.value.hint}"


def test_a_wrong_clock_is_called_that() -> None:
    text = "Invalid JWT: Token must be a short-lived token. Check your iat and exp values in the JWT claim."
    error = _trouble(RefreshError(text, {"error": "invalid_grant", "error_description": text}), "http://x/token")
    assert isinstance(error, SignInNeeded) and "clock is wrong" in str(error)


async def test_colab_outside_of_colab(drive_server: DriveServer, tmp_path: Path) -> None:
    box = make_box(tmp_path / "work", drive_server, account="colab")
    with pytest.raises(SignInNeeded, match="inside a Colab notebook only") as raised:
        await login(Context(box), LoginParams())
    assert "auth.authenticate_user()" in raised.value.hint
    with pytest.raises(SignInNeeded, match="no sign-in yet"):
        await tokens_for(box).token()


async def test_colab_inside(
    drive_server: DriveServer, account: Account, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colab's own module puts default credentials in place; that is all we know of it."""
    colab, auth = types.ModuleType("google.colab"), types.ModuleType("google.colab.auth")

    def authenticate_user() -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(adc_file(home / "adc.json", account)))

    auth.authenticate_user = authenticate_user  # type: ignore[attr-defined]
    colab.auth = auth  # type: ignore[attr-defined]
    for name, module in (("google.colab", colab), ("google.colab.auth", auth), ("ipykernel", types.ModuleType("k"))):
        monkeypatch.setitem(sys.modules, name, module)
    box = make_box(tmp_path / "work", drive_server, account="colab")
    result = await login(Context(box), LoginParams())
    assert isinstance(result, LoginResult) and result.account == "colab"
    assert (await tokens_for(box).token()).startswith("ya29.")
