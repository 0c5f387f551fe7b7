"""The check for secrets that runs after every test here finds what it should."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drive_bed import leaks
from tests.drive_bed.raw import raw
from tests.drive_bed.serve import DriveServer


async def test_secrets_are_found_in_files_arguments_and_reports(drive_server: DriveServer, tmp_path: Path) -> None:
    account = drive_server.account()
    async with raw(account) as call:
        address = await call.session("x", 1 << 20)
    token = account.access_token()
    secrets = leaks.known(drive_server)
    assert secrets is not None
    place = tmp_path / "place"
    place.mkdir()
    server = tmp_path / "drive"
    for name, text in (("events.jsonl", token), ("worker.log", address), ("spec.json", account.refresh_token)):
        (place / name).write_text(f"before {text} after")
        assert leaks.in_files(place, secrets, server) == [f"{place / name} holds a secret"]
        (place / name).unlink()
    processes = leaks.Processes()
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", "", token], check=True)
    [told] = processes.telling(secrets)
    assert token not in told and "***" in told and not processes.telling(secrets)
    report = pytest.TestReport("x", ("x", 0, "x"), {}, "passed", None, "call", [("Captured log call", address)])
    assert leaks.in_report(report, secrets) == ["Captured log call holds a secret"]
    drive_server.reset(server)  # these secrets are none any more when this test is itself looked at


def test_the_modes_of_what_is_kept_are_looked_at(drive_server: DriveServer, tmp_path: Path) -> None:
    drive_server.account()
    secrets = leaks.known(drive_server)
    assert secrets is not None
    place = tmp_path / "place"
    (place / "uploads").mkdir(parents=True, mode=0o700)
    entry = place / "uploads/1.json"
    entry.write_text("{}")
    entry.chmod(0o600)
    assert not leaks.in_files(place, secrets, tmp_path / "drive")
    entry.chmod(0o640)
    assert leaks.in_files(place, secrets, tmp_path / "drive") == [f"{entry} has the mode 640"]
    entry.chmod(0o600)
    entry.parent.chmod(0o755)
    assert leaks.in_files(place, secrets, tmp_path / "drive") == [f"{entry.parent} may be looked into by others"]
    entry.parent.chmod(0o700)
