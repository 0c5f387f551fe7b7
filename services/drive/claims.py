"""Who is still working on an unfinished folder: a lock that the operating system releases when its holder dies.

The lock file lies beside the folder and names its machine, since a lock says nothing across machines.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path


def claim(folder: Path) -> Callable[[], None]:
    """Mark ``folder`` (not made yet) as worked on by this process; returns what ends that.

    Where the file system has no locks nothing is marked, and nothing will ever be taken for abandoned.
    """
    lock = _lock(folder)
    lock.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, socket.gethostname().encode())  # only now may another process take it for a lock
    except OSError:
        os.close(fd)
        lock.unlink(missing_ok=True)
        return lambda: None

    def release() -> None:
        lock.unlink(missing_ok=True)
        os.close(fd)

    return release


def abandoned(parent: Path) -> list[str]:
    """Names of the folders in ``parent`` whose process, on this machine, is gone. It never comes back."""
    return [lock.name.removesuffix(".lock") for lock in parent.glob("*.lock") if _free(lock)]


def forget(folder: Path) -> None:
    """Remove the lock file of a folder that is gone."""
    _lock(folder).unlink(missing_ok=True)


def _lock(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _free(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            if file.read() != socket.gethostname().encode():
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a living process, or gone meanwhile
        return False
    return True
