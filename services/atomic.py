"""Files we own appear whole or not at all, also when the disk is full or the box dies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: written beside it, fsynced, renamed over it.

    A reader sees the old content or the new, never a part. On any error the old file stays.
    Raises OSError (ENOSPC, EACCES, …).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """``write_bytes`` for UTF-8 text."""
    write_bytes(path, text.encode(), mode=mode)


def sync_directory(path: Path) -> None:
    """Make renames and creations in the directory ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError:  # some network file systems refuse fsync on directories; the rename itself stands
        pass
    finally:
        os.close(fd)
