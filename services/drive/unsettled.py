"""What was written to a mounted drive and has not been seen to reach it.

A mount takes bytes into a cache on this machine and sends them up when it likes. ``sync`` and fsync only hand them to
the mount's program; reading them back reads that cache. Two things settle a file: the mount was flushed (in Colab
``drive.flush_and_unmount()`` returns when everything is up) and shows the file again, or Drive's API shows it with the
same sha256. The notes are lines appended to a file in the workspace's state, so that a restarted program still knows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from services.drive.store import Copied


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: a file was written, a file or folder renamed (``to``), or a file has settled. ``at`` is Unix time."""

    what: Literal["wrote", "moved", "settled"]
    root: str
    path: str
    to: str = ""
    size: int = 0
    sha256: str = ""
    at: float = 0.0


class Unsettled:
    """The notes about the store at ``root``, in ``file``; without one they last as long as this object."""

    def __init__(self, root: Path, file: Path | None) -> None:
        self.root = str(root)
        self.file = file
        self._own: list[Note] = []

    def wrote(self, files: Iterable[Copied]) -> None:
        """Files were written; their paths are the store's."""
        now = time.time()
        self._add([Note("wrote", self.root, f.path, size=f.size, sha256=f.sha256, at=now) for f in files])

    def moved(self, path: str, to: str) -> None:
        """A file or folder was renamed."""
        if any(_carried(p, path, to) for p in self.pending()):
            self._add([Note("moved", self.root, path, to, at=time.time())])

    def settled(self, notes: Iterable[Note]) -> None:
        """What these notes say was written has reached the drive."""
        self._add([Note("settled", self.root, n.path, sha256=n.sha256, at=time.time()) for n in notes])

    def gone(self, folder: str) -> None:
        """A folder of our own was deleted: nothing of it has to get there any more."""
        self.settled(n for p, n in self.pending().items() if _carried(p, folder, folder))

    def pending(self) -> dict[str, Note]:
        """Path in the store → what was written there last and has not settled."""
        found: dict[str, Note] = {}
        for note in self._read():
            if note.what == "wrote":
                found[note.path] = note
            elif note.what == "moved":
                for old in list(found):
                    new = _carried(old, note.path, note.to)
                    if new:
                        found[new] = msgspec.structs.replace(found.pop(old), path=new)
            elif note.path in found and found[note.path].sha256 == note.sha256:
                del found[note.path]
        return found

    def _add(self, notes: list[Note]) -> None:
        if self.file is None:
            self._own += notes
        elif notes:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, b"".join(msgspec.json.encode(note) + b"\n" for note in notes))
            finally:
                os.close(fd)

    def _read(self) -> list[Note]:
        if self.file is None:
            return self._own
        try:
            lines = self.file.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                note = msgspec.json.decode(line, type=Note)
            except msgspec.DecodeError:  # a line torn by a full disk: the writes it told of were not finished either
                continue
            if note.root == self.root:
                found.append(note)
        return found


def _carried(path: str, old: str, new: str) -> str:
    """Where ``path`` lies after ``old`` became ``new``; "" when it has nothing to do with that."""
    if path == old:
        return new
    return new + path[len(old) :] if path.startswith(f"{old}/") else ""
