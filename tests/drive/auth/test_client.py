"""The OAuth client's file: what is taken, and one clear sentence for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.drive.auth.browser import _redirect
from services.drive.auth.client import read_client
from services.drive.errors import SignInNeeded
from services.errors import BadInput

SECRET = "GOCSPX-very-secret"


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_desktop_and_a_web_client(tmp_path: Path) -> None:
    desktop = read_client(write(tmp_path / "a", {"installed": {"client_id": "me", "client_secret": SECRET}}))
    web = read_client(
        write(tmp_path / "b", {"web": {"client_id": "me", "redirect_uris": ["https://x/", "http://localhost:8765/in"]}})
    )
    assert (desktop.id, desktop.secret, desktop.kind) == ("me", SECRET, "installed")
    assert SECRET not in repr(desktop)
    assert _redirect(desktop, 0) == ("", 0) and _redirect(desktop, 99) == ("", 99)
    assert _redirect(web, 0) == ("http://localhost:8765/in", 8765)
    with pytest.raises(BadInput, match=r"no redirect address on 127\.0\.0\.1 with port 9"):
        _redirect(web, 9)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"type": "service_account", "private_key": SECRET}, "service account's key"),
        ({"type": "authorized_user", "refresh_token": SECRET}, "a grant that gcloud made"),
        ({"installed": {"client_secret": SECRET}}, "neither"),
        ({"other": SECRET}, "neither"),
        ([SECRET], "not an OAuth client's JSON"),
        (f'{{"installed": {SECRET}', "not JSON"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises(BadInput, match=says) as raised:
        read_client(write(tmp_path / "client.json", document))
    assert raised.value.hint
    assert SECRET not in f"{raised.value} {raised.value.hint} {raised.value.__context__}"


def test_no_file_is_a_sign_in_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SignInNeeded, match="There is no OAuth client") as raised:
        read_client(tmp_path / "client.json")
    assert "docs/drive-setup.md" in raised.value.hint
