"""google-api-python-client, unmodified, works against the test server: only its document's rootUrl is another."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.drive_bed.serve import DriveServer

googleapiclient = pytest.importorskip("googleapiclient", reason="google-api-python-client is not installed")
from google.auth.exceptions import RefreshError  # noqa: E402
from google.oauth2 import service_account  # noqa: E402
from google.oauth2.credentials import Credentials  # noqa: E402
from googleapiclient.discovery import build_from_document  # noqa: E402
from googleapiclient.errors import HttpError  # noqa: E402
from googleapiclient.http import MediaFileUpload, MediaIoBaseDownload  # noqa: E402

DOCUMENT = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "drive.v3.json"


def service(server: DriveServer, credentials: Any) -> Any:
    document = json.loads(DOCUMENT.read_text())
    document["rootUrl"] = server.url + "/"
    return build_from_document(document, credentials=credentials)


@pytest.fixture
def drive(drive_server: DriveServer) -> Any:
    ann = drive_server.account()
    return service(
        drive_server,
        Credentials(
            None,
            refresh_token=ann.refresh_token,
            client_id=ann.client,
            client_secret=ann.secret,
            token_uri=drive_server.url + "/token",
        ),
    )


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom((2 << 20) + 5))
    return path


def upload(drive: Any, path: Path, **metadata: Any) -> dict[str, str]:
    media = MediaFileUpload(path, chunksize=1 << 20, resumable=True)
    request = drive.files().create(body={"name": path.name, **metadata}, media_body=media, fields="id,md5Checksum")
    answer = None
    while answer is None:
        try:
            _, answer = request.next_chunk()
        except HttpError as error:  # its own num_retries sends an empty body after the first try, and then waits
            if error.resp.status < 500:
                raise
    return answer


def download(drive: Any, id: str) -> bytes:
    out, done = io.BytesIO(), False
    loader = MediaIoBaseDownload(out, drive.files().get_media(fileId=id), chunksize=1 << 20)
    while not done:
        _, done = loader.next_chunk()
    return out.getvalue()


def test_upload_list_and_download(drive: Any, big: Path) -> None:
    folder = drive.files().create(body={"name": "F", "mimeType": "application/vnd.google-apps.folder"}).execute()
    made = upload(drive, big, parents=[folder["id"]])
    assert made["md5Checksum"] == hashlib.md5(big.read_bytes()).hexdigest()
    page = drive.files().list(q=f"'{folder['id']}' in parents and trashed = false", fields="files(id,name)").execute()
    assert page == {"files": [{"id": made["id"], "name": "big.bin"}]}
    assert download(drive, made["id"]) == big.read_bytes()


def test_small_ways(drive: Any, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"one")
    id = drive.files().generateIds(count=1).execute()["ids"][0]
    media = MediaFileUpload(small, mimetype="text/plain")
    assert drive.files().create(body={"id": id, "name": "n"}, media_body=media).execute()["id"] == id
    with pytest.raises(HttpError) as taken:
        drive.files().create(body={"id": id, "name": "n"}, media_body=media).execute()
    assert taken.value.resp.status == 409
    small.write_bytes(b"two")
    drive.files().update(fileId=id, media_body=MediaFileUpload(small)).execute()
    assert drive.files().get_media(fileId=id).execute() == b"two"
    token = drive.changes().getStartPageToken().execute()["startPageToken"]
    drive.files().update(fileId=id, body={"trashed": True}).execute()
    changes = drive.changes().list(pageToken=token, fields="changes(fileId,file/trashed)").execute()["changes"]
    assert changes == [{"fileId": id, "file": {"trashed": True}}]
    drive.files().delete(fileId=id).execute()
    assert drive.files().list().execute()["files"] == []
    assert drive.about().get(fields="user").execute()["user"]["emailAddress"] == "ann@example.org"


def test_resumes_within_the_process(drive: Any, big: Path, drive_server: DriveServer) -> None:
    drive_server.fault(path="upload_id", after=1, status=503)
    drive_server.fault(path="upload_id", commit_at_most=300_000)
    made = upload(drive, big)
    assert made["md5Checksum"] == hashlib.md5(big.read_bytes()).hexdigest()


def test_errors_are_read_as_googles(drive: Any, drive_server: DriveServer) -> None:
    drive_server.fault(path="/files", status=403, reason="storageQuotaExceeded")
    with pytest.raises(HttpError) as full:
        drive.files().list().execute()
    assert full.value.error_details[0]["reason"] == "storageQuotaExceeded"
    assert "storage quota" in full.value.reason


def test_refresh_and_revocation(drive: Any, drive_server: DriveServer) -> None:
    drive.files().list().execute()
    drive_server.call("expire")
    drive.files().list().execute()  # 401, refreshed, repeated
    assert [one.status for one in drive_server.requests if one.path == "/drive/v3/files"] == [200, 401, 200]
    drive_server.call("revoke")
    with pytest.raises(RefreshError, match="invalid_grant"):
        drive.files().list().execute()


def test_service_account_on_a_shared_drive(drive_server: DriveServer, tmp_path: Path, big: Path) -> None:
    pytest.importorskip("cryptography")
    robot = "robot@project.iam.gserviceaccount.com"
    key = drive_server.service_account(robot, path=tmp_path / "key.json")
    shared = drive_server.shared_drive("Team", {"ann@example.org": "organizer", robot: "writer"})
    scopes = ["https://www.googleapis.com/auth/drive"]
    drive = service(drive_server, service_account.Credentials.from_service_account_file(str(key), scopes=scopes))
    with pytest.raises(HttpError, match="storageQuotaExceeded"):
        upload(drive, big)  # it has no room of its own
    media = MediaFileUpload(big)
    made = drive.files().create(body={"name": "b", "parents": [shared]}, media_body=media, supportsAllDrives=True)
    assert made.execute()["name"] == "b"
    assert [one["name"] for one in drive.drives().list().execute()["drives"]] == ["Team"]
