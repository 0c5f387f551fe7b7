"""Who holds what: locks that the kernel forgets when their holder dies, and programs that run from a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from services.storage.kinds.rule import Box


def is_locked(path: str, *, shared_too: bool = False) -> bool:
    """Whether another open file holds the lock of ``path`` (flock); false when it may not be opened.

    ``shared_too``: a lock that is held together with others counts as well.
    """
    return _refused(path, lambda fd: fcntl.flock(fd, (fcntl.LOCK_EX if shared_too else fcntl.LOCK_SH) | fcntl.LOCK_NB))


def is_locked_by_process(path: str) -> bool:
    """As ``is_locked`` for the other family of locks (lockf), which apt and dpkg use."""
    return _refused(path, lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB))


def _refused(path: str, lock: Callable[[int], None]) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        lock(fd)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(fd)
    return False


def running_from(box: Box, folder: str) -> tuple[str, ...]:
    """Programs whose executable lies in ``folder``: "node (4711)". Only those of processes we may look at."""
    if "executables" not in box.memo:
        box.memo["executables"] = list(_executables())
    found: list[tuple[str, str]] = box.memo["executables"]  # type: ignore[assignment]
    return tuple(who for path, who in found if path.startswith(folder.rstrip("/") + "/"))


def _executables() -> Iterator[tuple[str, str]]:
    for pid, path in _executables_by_pid():
        yield path, f"{path.rsplit('/', 1)[-1]} ({pid})"


def _executables_by_pid() -> Iterator[tuple[str, str]]:
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return
    for pid in pids:
        try:
            path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
        except OSError:
            continue
        yield pid, path


def reading_from(box: Box, folder: str) -> tuple[str, ...]:
    """Programs that have a file of ``folder`` open or mapped, as a loaded model is: "python3 (4711)"."""
    if "readers" not in box.memo:
        box.memo["readers"] = list(_readers(str(box.workspace.root.resolve())))
    found: list[tuple[str, str]] = box.memo["readers"]  # type: ignore[assignment]
    return tuple(sorted({who for path, who in found if path.startswith(folder.rstrip("/") + "/")}))


def _readers(root: str) -> Iterator[tuple[str, str]]:
    """Each file below ``root`` that a process of ours holds, and which."""
    for pid, path in _executables_by_pid():
        who = f"{path.rsplit('/', 1)[-1]} ({pid})"
        held: set[str] = set()
        with contextlib.suppress(OSError):  # it ended meanwhile
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
                held |= {line.split(maxsplit=5)[5].rstrip("\n") for line in file if root in line}
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    held.add(os.readlink(f"/proc/{pid}/fd/{fd}"))  # noqa: PTH115
        for file_path in held:
            if file_path.startswith(root + "/"):
                yield file_path, who
