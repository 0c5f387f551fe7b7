"""A sweep's folder and its append-only log: written by the driver alone, read by everybody."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from services import atomic
from services.errors import BadInput, HybridError, nearest
from services.sweeps.types import Entry, SweepSpec
from services.workspace import Workspace

LOG, SPEC, LOCK, CANCEL = "log.jsonl", "spec.json", "lock", "control/cancel"
_decoder = msgspec.json.Decoder(Entry)


def top(workspace: Workspace) -> Path:
    """The folder of all sweeps."""
    return workspace.state / "sweeps"


def folders(workspace: Workspace) -> list[Path]:
    """The folders of all sweeps, newest name first."""
    try:
        return sorted((p for p in top(workspace).iterdir() if not p.name.startswith(".")), reverse=True)
    except FileNotFoundError:
        return []


def find(workspace: Workspace, word: str) -> Path:
    """The folder of the sweep called ``word``: its id, its last four letters, or "" for the newest. Raises BadInput."""
    known = folders(workspace)
    if not known:
        raise BadInput("There is no sweep in this workspace yet.", hint="Start one: hybrid-tui --run sweep.start")
    if not word:
        return max(known, key=lambda path: (path.name[:13], (path / SPEC).stat().st_mtime))
    found = [path for path in known if word == path.name or path.name.endswith(f"-{word}")]
    if len(found) == 1:
        return found[0]
    names = [path.name for path in known]
    what = f"Several sweeps end in '{word}'." if found else f"There is no sweep '{word}'{nearest(word, names) or '.'}"
    raise BadInput(what, hint="hybrid-tui --run sweep.list")


def create(workspace: Workspace, spec: SweepSpec) -> Path:
    """Make the sweep's folder, whole. Raises HybridError when it can't be written."""
    workspace.ensure_state()
    new: Path | None = None
    try:
        top(workspace).mkdir(exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=top(workspace)))
        new.chmod(0o755)
        (new / "control").mkdir()
        atomic.write_bytes(new / SPEC, msgspec.json.format(msgspec.json.encode(spec), indent=1) + b"\n")
        return new.rename(top(workspace) / spec.id)
    except OSError as error:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        raise HybridError(f"The sweep can't be written to {top(workspace)}: {error.strerror}.") from error


def read_spec(folder: Path) -> SweepSpec:
    """The sweep's spec. Raises HybridError that names the file when it is missing or damaged."""
    path = folder / SPEC
    try:
        return msgspec.json.decode(path.read_bytes(), type=SweepSpec)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HybridError(f"{path} can't be read: {error}.", hint="Its trials are whole runs all the same.") from error


def read(folder: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """The log's entries, and what in it can't be used, in words. A line in the making is no entry yet.

    Reading stops at a damaged line or a missing number: what follows would not be what was known when it was written.
    """
    try:
        lines = (folder / LOG).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], ()
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return entries, (f"{LOG}:{number}: not an entry ({error}); nothing after it is used",)
        if entry.seq != len(entries) + 1:
            return entries, (f"{LOG}:{number}: entry {len(entries) + 1} is missing; nothing after it is used",)
        entries.append(entry)
    return entries, ()


def is_driven(folder: Path) -> bool:
    """Whether a driver lives: it holds the lock. Process ids play no part."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def take_lock(folder: Path, wait_s: float = 1.0) -> int | None:
    """The descriptor that holds the sweep's lock, or None when another driver has it.

    Tried for a second, because a reader that looks whether we live holds a shared lock for an instant.
    """
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(0.02)


class Writer:
    """Appends to the log. Only for the holder of the lock; a torn end that a killed driver left is cut off first."""

    def __init__(self, folder: Path) -> None:
        self.entries, problems = read(folder)
        if problems:
            raise HybridError(f"{folder / problems[0]}.", hint="The trials are whole runs; start a new sweep.")
        self._fd = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        data = (folder / LOG).read_bytes()
        os.ftruncate(self._fd, data.rfind(b"\n") + 1)

    def add(self, what: str, trial: int = -1, **more: Any) -> Entry:
        """Put one entry on the disk before returning it. Raises OSError; the log is as before then."""
        entry = msgspec.convert(
            {"seq": len(self.entries) + 1, "t": time.time(), "what": what, "trial": trial, **more}, Entry
        )
        size = os.fstat(self._fd).st_size
        rest = memoryview(msgspec.json.encode(entry) + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            raise
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)
