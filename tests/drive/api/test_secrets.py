"""Tokens and session addresses: in no log, no error, no process argument; journals are the owner's alone."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import subprocess
import sys
import time
import traceback
import urllib.parse
from pathlib import Path

import pytest

from services.drive.api import session
from services.drive.api.journal import _WEEK, Journal, Upload
from services.drive.api.reading import Identity
from services.drive.errors import DriveRefused
from services.errors import HybridError, StoreUnreachable
from tests.drive.api.conftest import Bench
from tests.drive_bed import authority
from tests.drive_bed.serve import CHECKOUT

KB, MB = 1 << 10, 1 << 20
IDENTITY = Identity(10, 20, 30, "ab")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_nothing_tells_a_token_or_a_session(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Every fault, with all loggers at their loudest and every error printed with its whole history."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    secrets: set[str] = set()
    told: list[str] = []
    local = bench.file("model.bin", 4 * MB)
    token = bench.account.access_token()

    class Tokens:
        async def token(self, *, refused: str = "") -> str:
            return token

    secrets.add(token)
    faults: list[dict[str, object]] = [
        {"status": 503}, {"drop_request_at": 500 * KB}, {"drop_request_at": 500 * KB, "reset": True},
        {"lose_reply": True}, {"status": 403, "reason": "storageQuotaExceeded"}, {"truncate_at": 5},
        {"status": 400, "reason": "invalid"}, {"drop_response_at": 3}, {"status": 401, "reason": "authError"},
        {"latency": 60},
    ]  # fmt: skip
    for number, fault in enumerate(faults):
        client = bench.client()
        client._http.retry = type(client._http.retry)(first=0.001, most=0.01, tries=2, stall=0.3)
        client._http._tokens = Tokens()
        bench.server.fault(path="upload_id=", times=0, **fault)
        try:
            await client.upload(local, f"model{number}", bench.folder, bench.on_bytes)
        except HybridError as error:
            told += [str(error), error.hint, "".join(traceback.format_exception(error))]
        told.append(client.stats.last_trouble)
        bench.server.clear()
        for path in (bench.place / "state/uploads").iterdir():
            address = path.read_bytes().partition(b'"address":"')[2].partition(b'"')[0].decode()
            if address:
                secrets |= {address, urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)["upload_id"][0]}
        await client.close()
    said = "\n".join([*told, caplog.text, *(record.getMessage() for record in caplog.records)])
    assert len(secrets) > 5
    assert len(said) > 1000
    assert not [secret for secret in secrets if secret in said]


async def test_journals_are_the_owners_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_FIRST", 1 * MB)
    monkeypatch.setattr(session, "_MOST", 1 * MB)
    before = os.umask(0)
    id, _ = bench.remote("down.bin", 9 * MB)
    bench.server.fault(path="upload_id=|alt=media", status=503, times=0, after=1)
    client = bench.client()
    with pytest.raises(StoreUnreachable):
        await client.upload(bench.file("model.bin", 3 * MB), "model.bin", bench.folder, bench.on_bytes)
    file = await client.get(id)
    assert file is not None
    with pytest.raises(StoreUnreachable):
        await client.download(file, bench.place / "down.bin", bench.on_bytes)
    os.umask(before)
    for kind in ("uploads", "downloads"):
        folder = bench.place / "state" / kind
        (entry,) = folder.iterdir()
        assert (mode(folder), mode(entry)) == (0o700, 0o600)


async def test_a_state_folder_that_can_not_be_written_is_said(bench: Bench) -> None:
    (bench.place / "state").write_text("a file")
    id, _ = bench.remote("down.bin", 10)
    client = bench.client()
    file = await client.get(id)
    assert file is not None
    with pytest.raises(HybridError, match="can't be written"):
        await client.upload(bench.file("model.bin", 10), "model.bin", bench.folder, bench.on_bytes)
    with pytest.raises(HybridError, match="can't be written"):
        await client.download(file, bench.place / "down.bin", bench.on_bytes)


async def test_a_finished_upload_keeps_no_address(bench: Bench) -> None:
    await bench.client().upload(bench.file("model.bin", 3 * MB), "model.bin", bench.folder, bench.on_bytes)
    (entry,) = (bench.place / "state/uploads").iterdir()
    assert b"upload_id" not in entry.read_bytes()


def test_an_entry_is_kept_for_the_same_file_and_not_longer_than_the_session(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.entry(Path("a"), "parent") as entry:
        entry.save(Upload(IDENTITY, "id", "https://secret", time.time()), flush=True)
        noted = entry.load(IDENTITY)
        assert noted is not None
        assert noted.address == "https://secret"
        assert entry.load(Identity(10, 21, 30, "ab")) is None
        entry.save(Upload(IDENTITY, "id", "https://secret", time.time() - _WEEK - 1), flush=True)
        assert entry.load(IDENTITY) is None
    with journal.entry(Path("a"), "other parent") as entry:
        assert entry.load(IDENTITY) is None


def test_a_torn_entry_is_no_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.entry(Path("a")) as entry:
        entry.save(Upload(IDENTITY, "id", "x", time.time()), flush=False)
        (path,) = tmp_path.iterdir()
        for cut in (0, 1, 20, 60):
            path.write_bytes(path.read_bytes()[:cut])
            assert entry.load(IDENTITY) is None


def test_old_entries_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in ("old", "used", "new"):
        with journal.entry(Path(name)) as entry:
            entry.save(Upload(IDENTITY, name, "x", time.time()), flush=False)
    ages = {name: path for path in tmp_path.iterdir() for name in ("old", "used", "new") if name in path.read_text()}
    for name in ("old", "used"):
        os.utime(ages[name], (1, 1))
    with journal.entry(Path("used")):
        journal.sweep()
    assert set(tmp_path.iterdir()) == {ages["used"], ages["new"]}


_OVER_TLS = """
import asyncio, sys
from pathlib import Path
from services.drive.api.client import DriveClient
from services.settings import Drive

class Tokens:
    async def token(self, *, refused=""):
        return sys.stdin.readline().strip()

async def main():
    place, folder = Path(sys.argv[1]), sys.argv[2]
    async with DriveClient(Tokens(), Drive(), place / "state") as client:
        token = await client._http._tokens.token()
        client._http._tokens.token = lambda refused="": asyncio.sleep(0, token)
        file = await client.upload(place / "model.bin", "model.bin", folder, lambda n: None)
        await client.download(file, place / "down.bin", lambda n: None)
        print(client.stats)

asyncio.run(main())
"""


async def test_over_tls_through_a_proxy(bench: Bench) -> None:
    """Google's own address, a proxy from the environment, a certificate that is checked: up and down."""
    pytest.importorskip("cryptography")
    local = bench.file("model.bin", 5 * MB)
    ca = authority.make(bench.server.folder)
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HTTPS_PROXY": bench.server.url, "PYTHONPATH": str(CHECKOUT)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _OVER_TLS, str(bench.place), bench.folder],
            input=bench.account.access_token() + "\n", env=environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    environment["SSL_CERT_FILE"] = str(ca)
    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    assert bench.stored("model.bin") == local.read_bytes() == (bench.place / "down.bin").read_bytes()


async def test_a_refusal_is_one_sentence(bench: Bench) -> None:
    with pytest.raises(DriveRefused) as caught:
        await bench.client().trash("none")
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
