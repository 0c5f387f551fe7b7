"""``make test-live``'s script, on the server of the tests: it works, and says what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.drive.google_bed import SignedIn
from tests.drive_bed.serve import CHECKOUT, DriveServer

MB = 1 << 20


def live(workspace: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.drive.live", "--workspace", str(workspace), *more]
    known = {name: value for name, value in os.environ.items() if name != "HYBRID_LIVE"}
    known |= {"PYTHONPATH": str(CHECKOUT), **environment}
    return subprocess.run(command, cwd=CHECKOUT, env=known, capture_output=True, text=True, input="", timeout=120)


def test_it_does_nothing_unless_asked_for(tmp_path: Path) -> None:
    done = live(tmp_path)
    assert done.returncode == 2 and "HYBRID_LIVE=1 make test-live" in done.stderr and not done.stdout


def test_every_question_is_answered(signed_in: SignedIn, drive_server: DriveServer) -> None:
    box = signed_in("work")
    drive_server.fault(path="upload_id=", rate=6 * MB, times=0)
    done = live(box.root, "--mb", "6", "--files", "4", "--yes", HYBRID_LIVE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "19 questions: 19 as assumed, 0 other than assumed, 0 not to be seen here" in done.stdout
    roots = [f for f in drive_server.files if f.name.startswith("hybrid-tui live test")]
    assert roots and all(f.trashed for f in roots)


def test_what_is_other_than_assumed_is_told(signed_in: SignedIn, drive_server: DriveServer) -> None:
    box = signed_in("work")
    drive_server.fault(path="^/drive/v3/about", status=403, reason="accessNotConfigured", times=0)
    done = live(box.root, "--yes", HYBRID_LIVE="1")
    assert done.returncode == 1
    assert "✗ signing in" in done.stdout and "1 other than assumed" in done.stdout
