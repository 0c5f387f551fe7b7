"""The folders of queued transfers: made whole, found by name, told what to do by files in ``control/``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from services import atomic
from services.errors import BadInput, HybridError, nearest
from services.runs.spec import make_run_id
from services.settings import Settings
from services.transfers.types import Spec
from services.workspace import Workspace

LOCK = "worker.lock"
LOG = "worker.log"
_PACKAGES = Path(__file__).resolve().parents[2]  # from here "services" is ours, whatever lies in the user's folder
_LOG_BYTES = 256_000
_started: list[subprocess.Popen[bytes]] = []  # those of this process, until they are seen to have ended


def queue(workspace: Workspace) -> Path:
    """The folder of all transfers."""
    return workspace.state / "transfers"


def folders(workspace: Workspace) -> list[Path]:
    """The folders of the transfers, oldest name first."""
    try:
        return sorted(p for p in queue(workspace).iterdir() if p.is_dir() and not p.name.startswith("."))
    except FileNotFoundError:
        return []


def add(workspace: Workspace, spec: Spec) -> Path:
    """Put a transfer into the queue: its folder appears whole. Raises HybridError when it can't be written."""
    return _add(workspace, spec, "")[0]


def add_held(workspace: Workspace, spec: Spec, session: str) -> tuple[Path, int]:
    """``add`` for a transfer that this process moves itself: the descriptor holds its lock until it is closed.

    The lock is there before the folder is, so that at no moment does it look left alone.
    """
    return _add(workspace, spec, session)


def _add(workspace: Workspace, spec: Spec, session: str) -> tuple[Path, int]:
    workspace.ensure_state()
    top = queue(workspace)
    new, lock = None, -1
    try:
        top.mkdir(mode=0o700, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=top))
        (new / "control").mkdir()
        atomic.write_bytes(
            new / "spec.json", msgspec.json.format(msgspec.json.encode(spec), indent=1) + b"\n", mode=0o600
        )
        if session:
            lock = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(lock, session.encode())
        return new.rename(top / spec.id), lock
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        raise HybridError(
            f"The transfer can't be queued in {top}: {(error.strerror or str(error)).lower()}."
        ) from error


def new_id() -> str:
    """A new name such as "20261123-1405-k3v9"."""
    return make_run_id()


def read_spec(folder: Path) -> Spec:
    """The transfer's spec. Raises HybridError that names the file when it is missing or damaged."""
    path = folder / "spec.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Spec)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HybridError(f"{path} can't be read: {error}.", hint="drive.clear removes it; queue it again.") from error


def find(workspace: Workspace, word: str) -> Path:
    """The folder of the transfer called ``word``: its id or its last four letters. Raises BadInput."""
    all_of_them = folders(workspace)
    found = [p for p in all_of_them if word and (p.name == word or p.name.endswith(f"-{word}"))]
    if len(found) == 1:
        return found[0]
    known = nearest(word, [p.name for p in all_of_them])
    what = f"Several transfers end in '{word}'" if found else f"There is no transfer '{word}'{known}"
    raise BadInput(f"{what.rstrip('.')}.", hint="drive.transfers lists them.")


def place(settings: Settings) -> str:
    """Which store the settings mean: a transfer queued for one must not run on another."""
    store = settings.store
    where = {"folder": store.path, "bucket": store.url}.get(store.kind, settings.drive.root_id)
    return f"{store.kind}:{where}:{store.root}"


# What a transfer is asked to do


def ask(folder: Path, name: str, text: str = "") -> None:
    """Write a request into the transfer's control folder."""
    (folder / "control").mkdir(exist_ok=True)
    atomic.write_text(folder / "control" / name, text)


def forget(folder: Path, *names: str) -> None:
    """Take requests back."""
    for name in names:
        (folder / "control" / name).unlink(missing_ok=True)


def asked(folder: Path, name: str) -> bool:
    """Whether there is such a request."""
    return (folder / "control" / name).exists()


def number(folder: Path, name: str) -> int:
    """The number in a request, 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "control" / name).read_text())
    return 0


# The worker


def living(workspace: Workspace) -> str:
    """The session of the worker that lives now, "" when none does: its lock says so, process ids play no part."""
    return holder(queue(workspace))


def holder(folder: Path) -> str:
    """Who holds the lock in ``folder``: of the queue's, the worker; of a transfer's, the command that moves it."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(fd, 100).decode(errors="replace").strip() or "?"
    finally:
        os.close(fd)
    return ""


def start_worker(workspace: Workspace) -> None:
    """Start the background process that works the queue off; where one lives already, the new one ends at once.

    It is a process group of its own, which outlives the panel. Raises HybridError when it can't be started.
    """
    top = queue(workspace)
    log = top / LOG
    try:
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.unlink()
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "services.transfers.worker", str(workspace.root)], cwd=_PACKAGES,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        _started[:] = [child, *(other for other in _started if other.poll() is None)]
    except OSError as error:
        raise HybridError(f"The transfers' worker can't be started: {error.strerror or error}.") from error
