"""Whether a folder lies on a mounted cloud drive, which takes writes at once and carries them up later, unverified.

How each is recognised: Colab's mount has the type ``fuse.drive`` in /proc/self/mountinfo (man 5 proc). Google Drive
for desktop lies below ``~/Library/CloudStorage/GoogleDrive-…`` on macOS, and in WSL on a Windows drive (9p or drvfs)
whose top holds the folder ``.shortcut-targets-by-id``, which that program alone makes. A folder that Drive for desktop
mirrors, or that another program synchronises, looks like any other folder and is not recognised.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

COLAB = Path("/content/drive")
SHORTCUTS = ".shortcut-targets-by-id"  # where Drive's mounts keep what shortcuts lead to
_TYPES = {
    "fuse.drive": ("Google Drive mounted in Colab", True),
    "fuse.google-drive-ocamlfuse": ("Google Drive mounted by google-drive-ocamlfuse", True),
    "fuse.rclone": ("a cloud drive mounted by rclone", False),
}
_WINDOWS = ("9p", "drvfs")
_by_notebook: set[Path] = set()


class Mount(msgspec.Struct, frozen=True):
    """A cloud drive's mount: what it is in words, where it begins, whether it is Google's."""

    what: str
    point: Path
    google: bool


def mounted_by_colab(point: Path) -> None:
    """Note that ``google.colab.drive.mount`` put Drive at ``point``, whatever the mount table calls it."""
    _by_notebook.add(point)


def find(path: Path, mountinfo: str | None = None) -> Mount | None:
    """The cloud drive that ``path`` lies on, None for an ordinary disk. ``mountinfo`` stands for the kernel's table."""
    path = path.absolute()
    for point in _by_notebook:
        if path.is_relative_to(point):
            return Mount("Google Drive mounted in Colab", point, True)
    real = Path(os.path.realpath(path))
    return _on_a_mac(real) or _in_table(real, _table() if mountinfo is None else mountinfo)


def _on_a_mac(real: Path) -> Mount | None:
    found = re.match(r"(/Users/[^/]+/Library/CloudStorage/GoogleDrive-[^/]+|/Volumes/GoogleDrive)(/|$)", str(real))
    return Mount("Google Drive for desktop", Path(found[1]), True) if found else None


def _in_table(real: Path, table: str) -> Mount | None:
    """The innermost mount that holds ``real``; of two at the same place the later one lies on top."""
    point, kind = Path("/"), ""
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        if not right:
            continue
        at = Path(_unescaped(left.split(" ")[4]))
        if real.is_relative_to(at) and len(at.parts) >= len(point.parts):
            point, kind = at, right.split(" ")[0]
    if kind in _TYPES:
        what, google = _TYPES[kind]
        return Mount(what, point, google)
    if kind == "fuse.gvfsd-fuse" and "/google-drive:" in str(real):
        return Mount("Google Drive mounted by GNOME", point, True)
    if kind in _WINDOWS and (point / SHORTCUTS).is_dir():
        return Mount("Google Drive for desktop", point, True)
    return None


def _table() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # no Linux
        return ""


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
