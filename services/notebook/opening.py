"""``init_drive_manager``: which store a notebook gets, and saying so."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services import formats, settings, workspace
from services.drive import mounts
from services.drive.open import open_store
from services.drive.store import StoreStatus
from services.notebook import bridge, colab
from services.notebook.manager import GoogleDriveManager
from services.workspace import Workspace


def init_drive_manager(
    root: str | None = None, project: str | Path | None = None, *, mountpoint: str | Path = mounts.COLAB
) -> GoogleDriveManager:
    """The team's models from a notebook: in Colab on your mounted Drive, elsewhere in the project's own store.

    ``root`` is the folder in Drive that holds everything ("Banking LLM" unless hybrid.toml says otherwise). ``project``
    is the folder with hybrid.toml, by default the nearest one from here upwards, else this folder. A store that
    hybrid.toml names (a signed-in Drive, a bucket, another folder) is used in Colab too, and nothing is mounted then.

    Prints which store it is. Raises StoreUnreachable when it does not answer, BadInput for a bad ``project``.

        from hybrid_tui import init_drive_manager
        drive = init_drive_manager()
        drive.upload_model("outputs/adapter", "banking", {"metrics": {"accuracy": 0.91}})
    """
    found = workspace.open_workspace(Path(project) if project is not None else workspace.find())
    store = found.settings.store
    point = None
    if colab.in_colab() and (store.kind, store.path) == ("folder", settings.Store().path):
        point = Path(mountpoint)
        store = msgspec.structs.replace(store, path=str(colab.mount(point)))
    if root is not None:
        store = msgspec.structs.replace(store, root=root)
    chosen = Workspace(found.root, msgspec.structs.replace(found.settings, store=store), found.warnings)
    print("\n".join((*found.warnings, _words(bridge.call(open_store(chosen).status()), colab=point is not None))))
    return GoogleDriveManager(chosen, mountpoint=point)


def _words(status: StoreStatus, *, colab: bool) -> str:
    """Which store it is and what follows from that, in a few sentences."""
    free = f", {formats.size(status.free_bytes)} free" if status.free_bytes is not None else ""
    lines = [f"The store is {_a(status.label)}: {status.path}{free}."]
    if status.problem:
        lines.append(status.problem)
    elif not status.created:
        lines.append("It is empty so far; the first upload makes it.")
    if colab:
        lines.append("What you write gets to Drive some time later: call flush() before the runtime ends.")
    elif not status.google_drive and status.kind == "folder":
        lines.append("To use Google Drive: hybrid-tui --run drive.login, and [store] kind in hybrid.toml.")
    return "\n".join(lines)


def _a(label: str) -> str:
    return label if label.startswith(("Google", "a ", "an ")) else f"a {label}"
