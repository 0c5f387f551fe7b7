"""Runs on this box, each under a supervisor that outlives whoever started it.

Everything here blocks for some milliseconds; call it in a thread. A run's state is only in its folder: following it is
reading (``view.read``), reattaching is reading again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from services.errors import HybridError, Refused
from services.runs import spec as specs
from services.runs.types import FINISHED, RunSpec
from services.runs.view import is_alive, newest_attempt, read, read_all
from services.workspace import Workspace

SUPERVISOR = Path(__file__).with_name("supervisor.py")
_END_S = 3.0  # between its end event and its last breath a supervisor needs far less


def submit(workspace: Workspace, run: RunSpec) -> Path:
    """Make the run's folder and start its first attempt in the background; the folder.

    The folder appears whole, with its spec and a locked attempt. Raises HybridError when the supervisor can't be
    started (the folder is removed again) or the disk is full.
    """
    workspace.ensure_state()
    run_dir = workspace.runs / run.id
    made: Path | None = None
    try:
        workspace.runs.mkdir(parents=True, exist_ok=True)
        made = new = Path(tempfile.mkdtemp(prefix=".new-", dir=workspace.runs))
        new.chmod(0o755)
        for name in ("control", "checkpoints", "attempts"):
            (new / name).mkdir()
        specs.write(new, run)
        lock = _make_attempt(new, 1)
        try:
            made = new.rename(run_dir)
            _spawn(run_dir, lock)
        finally:
            os.close(lock)
    except (OSError, HybridError) as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise _not_started(run_dir, error) from error
    return run_dir


def resume(run_dir: Path, *, follow_only: bool = False) -> int:
    """Start the next attempt of a run that failed, was cancelled or was lost; its number.

    ``follow_only``: of a run elsewhere, only if its machine is still there; no new one is got.
    Raises Refused when it still runs, has succeeded, or somebody else resumes it in this moment.
    """
    _wait_for_last_breath(run_dir)
    before = newest_attempt(run_dir)  # looked at once: whoever resumes it meanwhile has made the next one then
    seen = read(run_dir)
    if is_alive(run_dir, before):
        raise Refused(
            f"Run {seen.id} is {seen.phase}; only a run that ended can be resumed.", hint="train.cancel first."
        )
    if seen.phase == "succeeded":
        raise Refused(
            f"Run {seen.id} has succeeded; there is nothing to resume.", hint="train.start starts another one."
        )
    number = before + 1
    try:
        for name in ("control", "checkpoints", "attempts"):
            (run_dir / name).mkdir(exist_ok=True)
        lock = _make_attempt(run_dir, number)
    except OSError as error:
        raise _not_started(run_dir, error) from error
    try:
        for request in ("cancel", "checkpoint", "consent", "follow"):  # asked of the attempt before
            (run_dir / "control" / request).unlink(missing_ok=True)
        if follow_only:
            (run_dir / "control" / "follow").touch()
        _spawn(run_dir, lock)
    except (OSError, HybridError) as error:
        shutil.rmtree(run_dir / "attempts" / str(number), ignore_errors=True)
        raise _not_started(run_dir, error) from error
    finally:
        os.close(lock)
    return number


def follow(run_dir: Path) -> None:
    """Follow again a run that goes on elsewhere; one that somebody else follows by now is left alone.

    Raises HybridError when it can't be followed.
    """
    try:
        resume(run_dir, follow_only=True)
    except Refused:
        if read(run_dir).unattached:
            raise


def cancel(run_dir: Path) -> None:
    """Ask the run to write a checkpoint and stop. Raises Refused when it does not run.

    One that runs elsewhere and that nothing here follows is reattached first, for somebody must tell it.
    """
    _require_live(run_dir, "cancel")
    if read(run_dir).unattached:
        resume(run_dir, follow_only=True)
    (run_dir / "control" / "cancel").touch()


def request_checkpoint(run_dir: Path) -> None:
    """Ask the run to write a checkpoint now and go on. Raises Refused when it does not run."""
    _require_live(run_dir, "checkpoint")
    (run_dir / "control" / "checkpoint").touch()


def consent(run_dir: Path) -> None:
    """Tell the run that what it asked for was agreed to. Raises Refused when it asks for nothing."""
    if not read(run_dir).wants:
        raise Refused(f"Run {run_dir.name} is not waiting for a consent.")
    (run_dir / "control" / "consent").touch()


def unattached(workspace: Workspace) -> list[Path]:
    """The folders of runs that may go on elsewhere while nothing here follows them: they may cost. Resume them."""
    return [Path(seen.path) for seen in read_all(workspace) if seen.unattached]


def fetch(run_dir: Path) -> Path:
    """The folder with the finished adapter. Raises HybridError when the run has not succeeded."""
    seen = read(run_dir)
    if seen.phase != "succeeded":
        raise HybridError(f"Run {seen.id} is {seen.phase} and has no finished adapter.", hint=seen.hint)
    return run_dir / "output"


def delete(run_dir: Path) -> None:
    """Remove the folder of a run that is not live: it vanishes at once, then its files go. Raises Refused, OSError."""
    _wait_for_last_breath(run_dir)
    if read(run_dir).unattached:
        raise Refused(
            f"Run {run_dir.name} may still have its machine, and this folder is all that knows of it.",
            hint="train.cancel stops it and frees the machine.",
        )
    if is_alive(run_dir, newest_attempt(run_dir)):
        raise Refused(f"Run {run_dir.name} is running and can't be deleted.", hint="train.cancel first.")
    doomed = run_dir.with_name(f".deleted-{run_dir.name}")
    run_dir.rename(doomed)
    shutil.rmtree(doomed)


def _make_attempt(run_dir: Path, number: int) -> int:
    """Create ``attempts/<number>/`` with its lock already held; the lock's file descriptor.

    The folder is renamed into place, so that of two who make the same attempt one fails, and no reader ever sees it
    unlocked. Raises Refused for the loser.
    """
    attempts = run_dir / "attempts"
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=attempts))
    new.chmod(0o755)
    lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(attempts / str(number))
    except OSError as error:
        os.close(lock)
        shutil.rmtree(new, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Refused(f"Run {run_dir.name} has just been resumed by somebody else.") from None
        raise
    return lock


def _spawn(run_dir: Path, lock: int) -> None:
    """Start the supervisor, which inherits the attempt's lock and detaches. Raises as it complains."""
    command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(run_dir), "--detach"]
    child = subprocess.Popen(
        command, pass_fds=(lock,), start_new_session=True, env={**os.environ, "HYBRID_LOCK_FD": str(lock)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, complaint = child.communicate()  # it answers when the trainer has been started
    if child.returncode != 0:
        said = complaint.decode("utf-8", "replace").strip().splitlines()
        if said and f"[Errno {errno.ENOSPC}]" in said[-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise HybridError(f"The supervisor could not start: {said[-1] if said else f'code {child.returncode}'}.")


def _not_started(run_dir: Path, error: OSError | HybridError) -> HybridError:
    if isinstance(error, HybridError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HybridError(
            f"The disk is full: {run_dir} can't be written.", hint="Free some space: storage.scan shows it."
        )
    return HybridError(f"{run_dir} can't be written: {error.strerror}.")


def _require_live(run_dir: Path, what: str) -> None:
    seen = read(run_dir)
    if seen.phase in FINISHED:
        raise Refused(f"Run {seen.id} is {seen.phase}; there is nothing to {what}.", hint=seen.hint)


def _wait_for_last_breath(run_dir: Path) -> None:
    """A run that has ended may hold its lock for an instant longer: wait for that, not for one that goes on."""
    until = time.monotonic() + _END_S
    attempt = newest_attempt(run_dir)
    while is_alive(run_dir, attempt) and time.monotonic() < until and read(run_dir).phase in FINISHED:
        time.sleep(0.02)
