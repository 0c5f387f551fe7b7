"""Where moved things lie: on the mount they come from, since a rename does not leave a mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from services.storage.cleaning import system
from services.storage.cleaning.guards import TRASH_PREFIX


class Places:
    """The trash folders of this box as seen from one workspace, whose own is ``own``."""

    def __init__(self, own: str) -> None:
        self.own = os.path.realpath(own)
        self._table = system.mounts()
        self._found: dict[str, str] = {}

    def of(self, path: str) -> str:
        """The trash for ``path``; made if it is not there. Raises OSError when none can be made on that mount."""
        mount = system.mount_of(path, self._table)
        if mount == system.mount_of(self.own, self._table):
            return self.own
        if mount not in self._found:
            self._found[mount] = self._made(mount, os.path.dirname(path))
        return self._found[mount]

    @staticmethod
    def _made(mount: str, above: str) -> str:
        """At the top of the mount, or else as near to it as we may write on the way to ``above``."""
        failed: OSError | None = None
        for folder in _way_down(mount, above):
            place = f"{folder.rstrip('/')}/{TRASH_PREFIX}{os.geteuid()}"
            try:
                _make_private(place)
                return place
            except OSError as error:
                failed = failed or error
        assert failed is not None  # the way has at least the mount itself
        raise failed


def _way_down(mount: str, above: str) -> Iterator[str]:
    yield mount
    here = mount.rstrip("/")
    for name in above[len(here) :].strip("/").split("/"):
        if name:
            here = f"{here}/{name}"
            yield here


def _make_private(path: str) -> None:
    """Make the folder, or accept it if it is ours alone. Raises OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(13, "another user's, or open to others", path) from None


def free_bytes(folders: set[str]) -> int:
    """The free bytes of all file systems that the folders lie on, each once; those that are gone count nothing."""
    seen: dict[int, int] = {}
    for folder in folders:
        try:
            status = os.statvfs(folder)
            seen[os.stat(folder).st_dev] = status.f_bfree * status.f_frsize
        except OSError:
            continue
    return sum(seen.values())
