"""A workspace at the test server, and what a browser does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hybrid_tui import cli
from services import workspace as workspaces
from services.drive.auth.tokens import in_thread
from services.workspace import Workspace
from tests.drive_bed.serve import DriveServer

CHECKOUT = Path(__file__).resolve().parents[3]


def make_box(root: Path, server: DriveServer, **drive: str) -> Workspace:
    """A workspace whose ``[drive]`` section points at ``server``."""
    drive = {
        "api": server.url,
        "token_url": server.url + "/token",
        "auth_url": server.url + "/o/oauth2/v2/auth",
        **drive,
    }
    root.mkdir(exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in drive.items()]
    (root / "hybrid.toml").write_text("\n".join(["[drive]", *lines]))
    box = workspaces.open_workspace(root)
    assert not box.warnings
    return box


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, *, follow: bool) -> tuple[int, str, str]:
    opener = urllib.request.build_opener(*([] if follow else [_Stay]))
    try:
        with opener.open(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers.get("Location", "")


async def browse(url: str) -> tuple[int, str]:
    """Open an address as a browser does, redirects followed; the last page's status and text."""
    status, page, _ = await in_thread(lambda: _get(url, follow=True))
    return status, page


async def address_line(url: str) -> str:
    """Where a browser that can't reach this machine ends: the address of the error page it shows."""
    status, _, location = await in_thread(lambda: _get(url, follow=False))
    assert status == 302, status
    return location


def command(box: Workspace, *words: str) -> list[str]:
    """``hybrid-tui --run …`` in that workspace, from this checkout."""
    return [sys.executable, "-m", "hybrid_tui", "--workspace", str(box.root), "--run", *words]


def environment() -> dict[str, str]:
    """For such a command."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


def run(box: Workspace, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """The same to its end without a terminal, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(typed)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["--workspace", str(box.root), "--run", *words])
    finally:
        sys.stdin = before
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
