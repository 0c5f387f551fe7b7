"""Which store a workspace uses."""

from __future__ import annotations

import os
from pathlib import Path

from services.drive.folder import FolderStore
from services.drive.store import Store
from services.workspace import Workspace


def open_store(workspace: Workspace) -> Store:
    """The workspace's store. Touches nothing; an unreachable place is met at the first call.

    A ``[store] path`` inside the workspace is created when first written; one outside must exist already.
    """
    settings = workspace.settings.store
    if settings.kind == "bucket":
        from services.drive.bucket import BucketStore

        return BucketStore.from_url(settings.url, settings.root)
    named = Path(os.path.normpath(workspace.root / Path(settings.path).expanduser()))
    inside = named.is_relative_to(workspace.root)
    return FolderStore(named / settings.root, workspace.root if inside else named, workspace.state / "drive")
