"""The box itself: apt's archives, the desktop's trash, the servers that VS Code leaves on a remote box.

Sources: apt-get(8) ("clean") and apt.conf(5) (Dir::Cache::Archives); the FreeDesktop.org Trash specification 1.0; VS
Code's "Remote Development FAQ" and "Tips and tricks" (where the server is installed).
"""

from __future__ import annotations

import os
from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.locks import is_locked_by_process, running_from
from services.storage.kinds.rule import Box, Kind, Look, names

APT = "/var/cache/apt/archives"


def _apt(_box: Box) -> list[str]:
    return [APT]


def list_apt(look: Look) -> None:
    """All packages together. They are root's: who may not write there is told the command."""
    for place in look.places:
        debs = [f"{place}/{name}" for name in names(place) if name.endswith(".deb")]
        debs += [f"{place}/partial/{name}" for name in names(f"{place}/partial") if name.endswith((".deb", ".FAILED"))]
        if not debs:
            continue
        mine = os.access(place, os.W_OK)
        look.add(
            "packages", *debs, risk="none", suggested=mine,
            used_by=("apt",) if is_locked_by_process(f"{place}/lock") else (),
            note="" if mine else "Only root may remove them: sudo apt-get clean.",
        )  # fmt: skip


def _trash(box: Box) -> list[Path]:
    return [places.data(box) / "Trash"]


def list_trash(look: Look) -> None:
    """Each trashed thing with its note of where it came from."""
    for place in look.places:
        for name in names(f"{place}/files"):
            info = f"{place}/info/{name}.trashinfo"
            parts = [f"{place}/files/{name}", *([info] if os.path.lexists(info) else [])]
            look.add(name, *parts, note=_origin(info))
        if expunged := names(f"{place}/expunged"):
            look.add("expunged", *(f"{place}/expunged/{name}" for name in expunged), risk="low", note="Half deleted.")


def _origin(info: str) -> str:
    from urllib.parse import unquote

    path = places.ini(Path(info), "Path", sections=("Trash Info",))
    return f"It was {unquote(path)}." if path else ""


def _vscode(box: Box) -> list[Path]:
    roots = [places.variable(box, "VSCODE_AGENT_FOLDER")]
    roots += [box.home / name for name in (".vscode-server", ".vscode-server-insiders", ".vscode-remote")]
    below = ("bin", "cli/servers", "data/CachedExtensionVSIXs", "extensionsCache")
    return [root / name for root in roots if root for name in below]


def list_vscode(look: Look) -> None:
    """Every server but the newest of its folder and those that run; and downloaded packages of extensions."""
    for place in look.places:
        if place.endswith(("VSIXs", "extensionsCache")):
            if names(place):
                look.add("/".join(Path(place).parts[-2:]), place, risk="none", note="Extensions as downloaded.")
            continue
        versions = [f"{place}/{name}" for name in names(place) if os.path.isdir(f"{place}/{name}")]  # noqa: PTH112
        newest = max(versions, key=_changed, default="")
        for path in versions:
            if path != newest:
                where = "/".join(Path(path).parts[-3:])
                look.add(where, path, used_by=running_from(look.box, path), note="Not the newest one here.")


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return 0.0


KINDS: tuple[Kind, ...] = (
    Kind(
        "apt", "apt: downloaded packages", _apt, list_apt, "apt downloads them again at the next install.",
        command="sudo apt-get clean", budgeted=False,
    ),
    Kind(
        "vscode-server", "VS Code: servers of earlier versions", _vscode, list_vscode,
        "VS Code downloads the server it needs at the next connection.", budgeted=False,
    ),
    Kind(
        "trash", "The desktop's trash", _trash, list_trash,
        "It can't be brought back: these may be the last copies.", risk="high", budgeted=False,
    ),
)  # fmt: skip
