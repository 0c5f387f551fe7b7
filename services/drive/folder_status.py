"""What a folder store promises, which depends on whether it lies on a disk or on a mounted drive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from services.drive import folder_disk
from services.drive.mounts import Mount
from services.drive.store import INCOMING, StoreStatus
from services.drive.unsettled import Unsettled

_PROMISES = (
    "a record appears whole or not at all, and of two writers exactly one wins (exclusive create)",
    "copied files are read back and compared by sha256",
    "records and copied files are flushed to the disk before they count",
    "no copy elsewhere: this folder is as safe as the disk it lies on",
)
_MOUNT_PROMISES = (
    "what is written goes into a cache on this machine; the mount's program sends it up later and says nothing then",
    "copied files are read back and compared by sha256, but out of that cache: it proves nothing about the drive",
    "a file counts as safe when the mount was flushed, or when Drive's API shows it with the same sha256",
    "of two writers on this machine exactly one wins; writers on other machines are not seen in time: write from one",
)


def status(root: Path, label: str, mount: Mount | None, notes: Unsettled) -> StoreStatus:
    """The store at ``root`` now. ``writable`` is asked of the nearest folder that exists."""
    there = next(p for p in (root, *root.parents) if p.is_dir())
    disk = shutil.disk_usage(there)
    begun = folder_disk.folders(root / INCOMING)
    return StoreStatus(
        kind="folder",
        label=label,
        path=str(root),
        google_drive=bool(mount and mount.google),
        reachable=True,
        created=root.is_dir(),
        writable=os.access(there, os.W_OK | os.X_OK),
        free_bytes=disk.free if disk.total else None,  # some mounts know nothing of their room and say 0 of 0
        total_bytes=disk.total or None,
        promises=_PROMISES if mount is None else (*_MOUNT_PROMISES, *_waiting(notes)),
        unfinished=len(begun),
        unfinished_bytes=sum(folder_disk.bytes_of(folder) for folder in begun),
    )


def _waiting(notes: Unsettled) -> tuple[str, ...]:
    count = len(notes.pending())
    return (f"{count} files written here are not known to be safe yet",) if count else ()
