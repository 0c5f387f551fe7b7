"""Opening the folders of a tree by their path below its root, never through a symbolic link, at any depth.

A scan that goes on in several branches in turn can't keep a descriptor open for each folder on its way, so folders are
opened by path, relative to the root's descriptor. The kernel forbids a symbolic link only in the last part of such a
path (O_NOFOLLOW, open(2)); that the parts above were not swapped for one meanwhile is known from the inode number that
the parent's listing gave: a folder with that number is the one that was listed, however it was reached. When it differs
(a mount point, an overlay file system, a swap), the path is walked part by part.
"""

from __future__ import annotations

import os
from collections import deque

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LONG = 900
"""Characters after which a path starts anew at a folder kept open: the system takes 4096 bytes at once, a character
has at most four of them, a name 255."""

MAX_OPEN = 32
"""Such folders kept open at a time; the others are opened again, through those above them, when needed."""


class Place:
    """A folder that paths are relative to: the root (``above`` None) or one far below it."""

    __slots__ = ("above", "device", "fd", "inode", "path")

    def __init__(self, above: Place | None, path: str, status: os.stat_result, fd: int = -1) -> None:
        self.above = above
        self.path = path  # below ``above``
        self.device = status.st_dev
        self.inode = status.st_ino
        self.fd = fd  # -1 while closed


class Opener:
    """Opens folders below one root; ``close`` closes what it keeps open. All raise OSError as open(2) does."""

    def __init__(self, fd: int) -> None:
        self.root = Place(None, "", os.fstat(fd), fd)
        self._kept: deque[Place] = deque()

    def open_by_parts(self, place: Place, path: str) -> tuple[int, os.stat_result]:
        """The folder ``path`` below ``place``, through no symbolic link whatever happens meanwhile, and its status."""
        fd = _open_by_parts(self.descriptor(place), path)
        return fd, os.fstat(fd)

    def descriptor(self, place: Place) -> int:
        """The open descriptor of ``place``, which stays this object's."""
        closed = []
        here = place
        while here.fd < 0 and here.above is not None:
            closed.append(here)
            here = here.above
        for below in reversed(closed):
            assert below.above is not None
            fd = _open_by_parts(below.above.fd, below.path)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (below.device, below.inode):
                os.close(fd)
                raise FileNotFoundError(f"{below.path} is another folder by now")
            below.fd = fd
            if below.above in closed:  # only needed on the way
                os.close(below.above.fd)
                below.above.fd = -1
        if closed:
            self._keep(place)
        return place.fd

    def place(self, above: Place, path: str, status: os.stat_result, fd: int) -> tuple[Place, str]:
        """What the paths of the subfolders of ``path`` are relative to, and what they begin with."""
        if len(path) < LONG and status.st_dev == above.device:
            return above, f"{path}/" if path else ""
        new = Place(above, path, status, os.dup(fd))
        self._keep(new)
        return new, ""

    def close(self) -> None:
        """Close all, the root too."""
        for place in (self.root, *self._kept):
            if place.fd >= 0:
                os.close(place.fd)
                place.fd = -1
        self._kept.clear()

    def _keep(self, place: Place) -> None:
        self._kept.append(place)
        if len(self._kept) > MAX_OPEN:
            oldest = self._kept.popleft()
            if oldest.fd >= 0:
                os.close(oldest.fd)
                oldest.fd = -1


def _open_by_parts(above: int, path: str) -> int:
    fd = above
    for part in path.split("/"):
        before = fd
        try:
            fd = os.open(part, FLAGS, dir_fd=before)
        finally:
            if before != above:
                os.close(before)
    return fd
