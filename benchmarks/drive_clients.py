"""One client of ``benchmarks.drive`` in a process of its own: ours, or google-api-python-client.

``python -m benchmarks.drive_clients ours|google JSON`` prints one JSON object: seconds, the processor's seconds, and
the memory above idle in bytes. Time begins when the client has made its first small request: neither imports nor
sign-in are in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services import settings
from services.drive.api.placing import flushed


class Tokens:
    """Renews like any client does."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._value = ""

    async def token(self, *, refused: str = "") -> str:
        """See services.drive.api.types.Tokens."""
        if not self._value:
            self._value = await asyncio.to_thread(renew, self._told)
        return self._value


def renew(told: dict[str, Any]) -> str:
    """An access token."""
    import requests

    form = {
        "grant_type": "refresh_token",
        "refresh_token": told["refresh"],
        "client_id": told["id_"],
        "client_secret": told["secret"],
    }
    return str(requests.post(told["url"] + "/token", data=form, timeout=30).json()["access_token"])


def idle() -> int:
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ours


async def ours(told: dict[str, Any]) -> dict[str, Any]:
    """With its defaults."""
    from services.drive.api.client import DriveClient

    with tempfile.TemporaryDirectory() as state:
        chosen = settings.Drive(api=told["url"], token_url=told["url"] + "/token")
        async with DriveClient(Tokens(told), chosen, Path(state)) as client:
            await client.about()
            return await measured(client, told, chosen.transfers)


async def measured(client: Any, told: dict[str, Any], at_once: int) -> dict[str, Any]:
    """Do the work; files travel as many at once as the settings say."""
    before, begun, cpu = idle(), time.perf_counter(), time.process_time()
    result: dict[str, Any] = {}
    match told["work"]:
        case "up":
            paths = iter([Path(path) for path in told["paths"]])

            async def up() -> None:
                for path in paths:
                    made = await client.upload(path, path.name, told.get("folder") or "root", lambda n: None)
                    result["id"] = made.id

            await asyncio.gather(*(up() for _ in range(at_once)))
        case "down":
            file = await client.get(told["id"])
            await client.download(file, Path(told["target"]), lambda n: None)
        case "down-all":
            listed = await client.children(told["folder"])
            files = iter(listed)

            async def down() -> None:
                for file in files:  # as services/drive/google_files.py does it: all are flushed at the end
                    await client.download(file, Path(told["target"], file.name), lambda n: None, flush_name=False)

            await asyncio.gather(*(down() for _ in range(at_once)))
            await asyncio.to_thread(flushed, [Path(told["target"], file.name) for file in listed])
        case "list":
            result["count"] = len(await client.children(told["folder"]))
    spent = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    return {**spent, "memory": idle() - before, **result}


# google-api-python-client


def google(told: dict[str, Any]) -> dict[str, Any]:
    """As its documentation has it: resumable uploads and chunked downloads, one file after the other."""
    import googleapiclient
    from google.oauth2.credentials import Credentials
    from googleapiclient.discovery import build_from_document

    document = json.loads(
        (Path(googleapiclient.__file__).parent / "discovery_cache/documents/drive.v3.json").read_text()
    )
    document["rootUrl"] = told["url"] + "/"
    credentials = Credentials(
        None,
        refresh_token=told["refresh"],
        client_id=told["id_"],
        client_secret=told["secret"],
        token_uri=told["url"] + "/token",
    )
    drive = build_from_document(document, credentials=credentials)
    drive.about().get(fields="user").execute()
    before, begun, cpu = idle(), time.perf_counter(), time.process_time()
    result: dict[str, Any] = {}
    match told["work"]:
        case "up":
            for path in told["paths"]:
                result["id"] = google_up(drive, Path(path), told)
        case "down":
            google_down(drive, told["id"], Path(told["target"]), told["chunk"])
            if told.get("check"):
                with Path(told["target"]).open("rb") as file:
                    result["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        case "down-all":
            Path(told["target"]).mkdir()
            query = f"'{told['folder']}' in parents"
            for file in drive.files().list(q=query, pageSize=1000, fields="files(id,name)").execute()["files"]:
                google_down(drive, file["id"], Path(told["target"], file["name"]), 100 << 20)
    spent = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    return {**spent, "memory": idle() - before, **result}


def google_up(drive: Any, path: Path, told: dict[str, Any]) -> str:
    """A small file in one request, a large one in chunks."""
    from googleapiclient.http import MediaFileUpload

    body = {"name": path.name, "parents": [told.get("folder") or "root"]}
    if "chunk" not in told:
        media = MediaFileUpload(path, mimetype="application/octet-stream")
        return str(drive.files().create(body=body, media_body=media, fields="id").execute()["id"])
    media = MediaFileUpload(path, mimetype="application/octet-stream", chunksize=told["chunk"], resumable=True)
    request, answer = drive.files().create(body=body, media_body=media, fields="id"), None
    while answer is None:
        _, answer = request.next_chunk()
    return str(answer["id"])


def google_down(drive: Any, id: str, target: Path, chunk: int) -> None:
    """In chunks of this size; -1: all at once."""
    from googleapiclient.http import MediaIoBaseDownload

    with target.open("wb") as file:
        loader = MediaIoBaseDownload(
            file, drive.files().get_media(fileId=id), chunksize=chunk if chunk > 0 else 1 << 40
        )
        done = False
        while not done:
            _, done = loader.next_chunk()


def main() -> None:
    """Do what the JSON says."""
    told = json.loads(sys.argv[2])
    print(json.dumps(asyncio.run(ours(told)) if sys.argv[1] == "ours" else google(told)))


if __name__ == "__main__":
    main()
