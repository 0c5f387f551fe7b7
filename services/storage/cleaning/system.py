"""What the standard library lacks: renaming that never replaces, the mount table, who has which file open."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable

from services.storage.cleaning.records import Key

_NOREPLACE = 1  # RENAME_NOREPLACE of renameat2(2)
_OCTAL = re.compile(rb"\\([0-7]{3})")
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def _bound() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # macOS, old C libraries
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call


_renameat2 = _bound()


def rename_new(old: str, new: str, *, old_fd: int, new_fd: int) -> None:
    """Rename relative to descriptors. Raises FileExistsError when ``new`` exists: nothing is ever replaced."""
    if _renameat2 is not None:
        if _renameat2(old_fd, os.fsencode(old), new_fd, os.fsencode(new), _NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number), new)
    _rename_new_plainly(old, new, old_fd, new_fd)


def _rename_new_plainly(old: str, new: str, old_fd: int, new_fd: int) -> None:
    """The same where the file system has no such rename: a folder over a fresh empty one, a file by a second name."""
    if stat.S_ISDIR(os.stat(old, dir_fd=old_fd, follow_symlinks=False).st_mode):
        os.mkdir(new, 0o700, dir_fd=new_fd)
        try:
            os.rename(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)
        except OSError:
            os.rmdir(new, dir_fd=new_fd)
            raise
        return
    try:
        os.link(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # No hard links either (exFAT, some network file systems): the best left is to look first.
        try:
            os.stat(new, dir_fd=new_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
    os.unlink(old, dir_fd=old_fd)


def mounts() -> tuple[str, ...]:
    """Where file systems are mounted, as this process sees it (proc_pid_mountinfo(5)); () where that is not told."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    return tuple(os.fsdecode(_OCTAL.sub(lambda m: bytes([int(m[1], 8)]), line.split(b" ", 5)[4])) for line in lines)


def below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both absolute."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def mount_of(path: str, table: tuple[str, ...]) -> str:
    """The mount point that holds ``path``."""
    holding = [point for point in table if below(path, point)]
    if holding:
        return max(holding, key=len)
    while path != "/" and not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


class InUse:
    """What processes hold open, have mapped, run, or stand in. ``hidden`` processes of others could not be read."""

    def __init__(self) -> None:
        self.holders: dict[Key, str] = {}
        self.inodes: set[int] = set()
        self.hidden = 0

    def note(self, key: Key, holder: str) -> None:
        self.holders.setdefault(key, holder)
        self.inodes.add(key[1])


def in_use() -> InUse:
    """Look at every process in /proc (proc(5)): fd, maps, cwd, exe, root. Empty where there is no /proc.

    Folders that this process itself has open are left out: its own scans read them.
    """
    found = InUse()
    own = str(os.getpid())
    statuses: dict[bytes, Key | None] = {}
    try:
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    for pid in processes:
        _look_at(pid, found, own=pid == own, statuses=statuses)
    return found


def _look_at(pid: str, found: InUse, *, own: bool, statuses: dict[bytes, Key | None]) -> None:
    base = f"/proc/{pid}"
    try:
        descriptors = os.listdir(f"{base}/fd")
    except PermissionError:
        found.hidden += 1
        return
    except OSError:
        return  # it has ended
    holder = f"{_name(base)} ({pid})"
    for link in ("cwd", "exe", "root", *(f"fd/{n}" for n in descriptors)):
        try:
            status = os.stat(f"{base}/{link}")
        except OSError:
            continue
        if own and link.startswith("fd/") and stat.S_ISDIR(status.st_mode):
            continue
        found.note((status.st_dev, status.st_ino), holder)
    try:
        with open(f"{base}/maps", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != b"0":
            _note_mapped(fields, found, holder, statuses)


def _note_mapped(fields: list[bytes], found: InUse, holder: str, statuses: dict[bytes, Key | None]) -> None:
    """By the device and inode that the table names, and by its path: on btrfs and overlays the two devices differ."""
    major, _, minor = fields[3].partition(b":")
    found.note((os.makedev(int(major, 16), int(minor, 16)), int(fields[4])), holder)
    path = fields[5]
    if path not in statuses:
        try:
            status = os.stat(path)
            statuses[path] = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            statuses[path] = None
    if (key := statuses[path]) is not None:
        found.note(key, holder)


def _name(base: str) -> str:
    try:
        with open(f"{base}/comm", "rb") as file:
            return file.read().strip().decode("utf-8", "replace")
    except OSError:
        return "a process"
