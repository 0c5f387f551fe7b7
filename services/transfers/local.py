"""The local side of a transfer: which files a folder has, and their checksums."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from services.errors import BadInput, HybridError

PART = ".part"  # what an unfinished download is called
_BLOCK = 1 << 20


class LocalFile(msgspec.Struct, frozen=True):
    """A file as it lies in a folder. ``skipped`` says why it can't travel, else ""."""

    path: str
    local: str
    size: int
    modified: float
    skipped: str = ""


def listed(folder: Path, only: str = "") -> dict[str, LocalFile]:
    """The files below ``folder`` by their path there; just ``only``, when given. Absent folder: none.

    Links to files are followed (a Hugging Face snapshot is made of them). Links to folders, sockets and the like, names
    that are not one printable line, and unfinished downloads are listed with the reason why they stay. Raises BadInput
    when a folder can't be read.
    """
    if only:
        paths = [only] if os.path.lexists(folder / only) else []
        return {path: _look(folder / path, path) for path in paths}
    found: dict[str, LocalFile] = {}

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise BadInput(f"{error.filename} can't be read: {(error.strerror or str(error)).lower()}.") from error

    for here, folders, names in os.walk(folder, onerror=unreadable):
        linked = [name for name in folders if Path(here, name).is_symlink()]
        for name in (*names, *linked):
            path = Path(here, name).relative_to(folder).as_posix()
            found[path] = _look(Path(here, name), path)
    return dict(sorted(found.items()))


def _look(place: Path, path: str) -> LocalFile:
    try:
        status = place.stat()
    except OSError as error:
        return LocalFile(path, str(place), 0, 0.0, f"it can't be read: {(error.strerror or str(error)).lower()}")
    return LocalFile(path, str(place), status.st_size, status.st_mtime, _why_not(place, path, status.st_mode))


def _why_not(place: Path, path: str, mode: int) -> str:
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in path):
        return "its name has characters that the store can't keep"
    if stat.S_ISDIR(mode):
        return "it is a link to a folder" if place.is_symlink() else "it is a folder"
    if not stat.S_ISREG(mode):
        return "it is neither a file nor a folder"
    return "it is an unfinished download" if path.endswith(PART) else ""


def checksum(file: str, kind: str, stop: threading.Event, told: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 or md5 (``kind``) of a file, in hex; ``told`` hears of the bytes read, from this thread.

    Raises HybridError when it can't be read or ``stop`` was set.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    try:
        with Path(file).open("rb") as reader:
            while block := reader.read(_BLOCK):
                if stop.is_set():
                    raise HybridError("The comparison was stopped.")
                digest.update(block)
                told(len(block))
    except OSError as error:
        raise HybridError(f"{file} can't be read: {(error.strerror or str(error)).lower()}.") from error
    return digest.hexdigest()
