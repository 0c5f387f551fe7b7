"""Nothing tells a token or an upload session's address: checked after every test that uses the Drive server.

The server knows all secrets that it gave out. They are looked for in every file that the test left (logs, events,
errors, journals, specs, databases), in what it printed and logged, and in the arguments of every process that ran
meanwhile. A secret may lie only where it is kept on purpose, and only its owner may read that.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import threading
from pathlib import Path

import pytest

from tests.drive_bed.serve import DriveServer

KNOWN = pytest.StashKey["re.Pattern[bytes] | None"]()
_LARGEST = 4 << 20  # bytes of a file that is read; only weights are larger
_LOOK = 0.2  # seconds between two looks at the processes
_OTHERS = {"rclone.conf", "adc.json", "application_default_credentials.json"}  # what others keep where they like


def known(server: DriveServer) -> re.Pattern[bytes] | None:
    """What finds any of the server's secrets: refresh and access tokens, addresses of upload sessions."""
    secrets = [secret.encode() for secret in server.call("secrets")]
    return re.compile(b"|".join(re.escape(secret) for secret in secrets)) if secrets else None


def in_files(place: Path, secrets: re.Pattern[bytes], server: Path) -> list[str]:
    """Files below ``place`` that hold a secret and should not, or that others than their owner may read."""
    wrong = []
    for folder, inner, names in os.walk(place):
        if Path(folder) == server:
            inner.clear()
            continue
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST and name not in _OTHERS:
                    wrong += _judged(path, status.st_mode, secrets.search(path.read_bytes()) is not None)
    return wrong


def _judged(path: Path, mode: int, secret: bool) -> list[str]:
    vault = path.name.startswith("google-") and path.parent.name == "hybrid-tui"
    journal = path.parent.name == "uploads" and path.suffix == ".json"
    if (vault or journal) and stat.S_IMODE(mode) & 0o077:
        return [f"{path} has the mode {stat.S_IMODE(mode):o}"]
    if journal and stat.S_IMODE(path.parent.stat().st_mode) & 0o077:
        return [f"{path.parent} may be looked into by others"]
    return [f"{path} holds a secret"] if secret and not vault and not journal else []


class Processes(threading.Thread):
    """The arguments of every process that runs: those this one starts, and whatever else shows up meanwhile."""

    def __init__(self) -> None:
        super().__init__(name="processes", daemon=True)
        self._lock = threading.Lock()
        self._seen: set[bytes] = set()
        sys.addaudithook(self._hear)

    def run(self) -> None:
        new: set[str] = set()
        old: set[str] = set()
        while True:
            pids = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
            young = pids - old
            for pid in young | new:  # twice: it may be what it will be only after its exec
                with contextlib.suppress(OSError):
                    self._note(Path(f"/proc/{pid}/cmdline").read_bytes())
            old, new = pids, young
            threading.Event().wait(_LOOK)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            self._note(repr(arguments[1]).encode())

    def _note(self, arguments: bytes) -> None:
        with self._lock:
            self._seen.add(arguments)

    def telling(self, secrets: re.Pattern[bytes]) -> list[str]:
        """Those that held a secret, without it; what was seen is forgotten."""
        with self._lock:
            seen, self._seen = self._seen, set()
        return [
            f"a process had a secret in its arguments: {secrets.sub(b'***', s)!r}" for s in seen if secrets.search(s)
        ]


def in_report(report: pytest.TestReport, secrets: re.Pattern[bytes]) -> list[str]:
    """What a test printed and logged that holds a secret."""
    return [f"{title} holds a secret" for title, text in report.sections if secrets.search(text.encode())]
