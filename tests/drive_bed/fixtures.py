"""The fixture ``drive_server``: one server process for the whole test session, empty for each test."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drive_bed import leaks
from tests.drive_bed.serve import DriveServer, start

_RUNNING = pytest.StashKey[tuple["subprocess.Popen[str]", DriveServer, leaks.Processes]]()


@pytest.fixture
def drive_server(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[DriveServer]:
    """Google Drive on loopback, in a process of its own; nothing is left of the test before. Files lie in tmp_path.

    A test that lets a token or an upload session's address get anywhere but where it is kept fails (``leaks``).
    """
    stash = request.config.stash
    if _RUNNING not in stash or stash[_RUNNING][0].poll() is not None:
        process, server = start(tmp_path / "drive")
        watching = stash[_RUNNING][2] if _RUNNING in stash else leaks.Processes()
        if not watching.is_alive():
            watching.start()
        stash[_RUNNING] = (process, server, watching)
        request.config.add_cleanup(lambda: _stop(process, server))
    server, processes = stash[_RUNNING][1:]
    server.reset(tmp_path / "drive")
    caplog.set_level(logging.DEBUG)
    yield server
    server.clear()
    secrets = request.node.stash[leaks.KNOWN] = leaks.known(server)
    if secrets is not None:
        found = [*leaks.in_files(tmp_path, secrets, tmp_path / "drive"), *processes.telling(secrets)]
        assert not found, "\n".join(found)


def _stop(process: subprocess.Popen[str], server: DriveServer) -> None:
    server.close()
    process.terminate()
    process.wait(10)
