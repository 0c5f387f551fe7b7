"""The fixture ``drive_server``: one server process for the whole test session, empty for each test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drive_bed.serve import DriveServer, start

_RUNNING = pytest.StashKey[tuple["subprocess.Popen[str]", DriveServer]]()


@pytest.fixture
def drive_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DriveServer]:
    """Google Drive on loopback, in a process of its own; nothing is left of the test before. Files lie in tmp_path."""
    stash = request.config.stash
    if _RUNNING not in stash or stash[_RUNNING][0].poll() is not None:
        process, server = start(tmp_path / "drive")
        stash[_RUNNING] = (process, server)
        request.config.add_cleanup(lambda: _stop(process, server))
    server = stash[_RUNNING][1]
    server.reset(tmp_path / "drive")
    yield server
    server.clear()


def _stop(process: subprocess.Popen[str], server: DriveServer) -> None:
    server.close()
    process.terminate()
    process.wait(10)
