"""Which store a workspace uses."""

from __future__ import annotations

import os
from pathlib import Path

from services.drive.folder import FolderStore
from services.drive.store import Store
from services.errors import BadInput
from services.workspace import Workspace


def open_store(workspace: Workspace) -> Store:
    """The workspace's store. Touches nothing; an unreachable place is met at the first call.

    A ``[store] path`` inside the workspace is created when first written; one outside must exist already. What the
    other kinds need is imported only when they are asked for. Raises BadInput when a bucket has no address.
    """
    store = workspace.settings.store
    if store.kind == "drive":
        from services.drive.google import DriveStore

        return DriveStore(workspace)
    if store.kind == "bucket":
        if not store.url:
            raise BadInput(
                "The store is a bucket, and its address is not set.",
                hint="Set [store] url in hybrid.toml: s3://NAME/PREFIX.",
            )
        from services.drive.bucket import BucketStore

        return BucketStore.from_url(store.url, store.root)
    named = Path(os.path.normpath(workspace.root / Path(store.path).expanduser()))
    inside = named.is_relative_to(workspace.root)
    return FolderStore(named / store.root, workspace.root if inside else named, workspace.state / "drive")
