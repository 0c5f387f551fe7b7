"""Where a person opens a run's notebook."""

from __future__ import annotations

from services.drive.store import Store
from services.workspace import Workspace

COLAB = "https://colab.research.google.com/drive/"  # + a file's id on Drive


def mounted(workspace: Workspace, store: Store) -> str:
    """Where the notebook will find the store: as the settings say, on Colab's mount of My Drive, or this box's path."""
    if workspace.settings.notebook.mounted:
        return workspace.settings.notebook.mounted
    if store.kind == "folder" and "My Drive" not in store.local("x"):
        return store.local("x").rpartition("/")[0]
    return f"/content/drive/MyDrive/{workspace.settings.store.root}"


async def link(store: Store, path: str) -> str:
    """Colab's address of the notebook at ``path``, or its path where the store is not Google Drive's API.

    https://colab.research.google.com/drive/<file id> opens a notebook of one's own Drive.
    """
    if store.kind == "drive":
        from services.drive.google import DriveStore

        assert isinstance(store, DriveStore)
        id = await store.id_of(path)
        if id:
            return COLAB + id
    return store.local(path)
