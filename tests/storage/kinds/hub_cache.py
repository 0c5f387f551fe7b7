"""A Hugging Face cache made by hand, in the hub's layout."""

from __future__ import annotations

import os
from pathlib import Path

from tests.storage.kinds.conftest import fill


def commit(number: int) -> str:
    return f"{number:02x}" * 20


class Cache:
    """A cache made by hand in the hub's layout."""

    def __init__(self, hub: Path) -> None:
        self.hub = hub
        hub.mkdir(parents=True, exist_ok=True)

    def revision(self, repo: str, number: int, files: dict[str, str], refs: tuple[str, ...] = ()) -> Path:
        """Snapshot ``number`` of ``repo``: file name → name of its blob."""
        root = self.hub / f"models--{repo.replace('/', '--')}"
        snapshot = root / "snapshots" / commit(number)
        snapshot.mkdir(parents=True, exist_ok=True)
        for name, blob in files.items():
            if not (root / "blobs" / blob).exists():
                fill(root / "blobs" / blob, 1000 + 1111 * (sum(blob.encode()) % 17))
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(root / "blobs" / blob, link.parent))
        for ref in refs:
            (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
            (root / "refs" / ref).write_text(commit(number))
        return root

    def share(self, repo: str, blob: str, payload: str) -> None:
        """Move a blob to the shared store as huggingface_hub does, or link it to the payload that is there."""
        store = self.hub / "blobs"
        store.mkdir(exist_ok=True)
        (store / ".huggingface-shared-blobs").write_text("1\n")
        target = store / payload[:2] / payload
        target.parent.mkdir(exist_ok=True)
        path = self.hub / f"models--{repo.replace('/', '--')}" / "blobs" / blob
        if target.exists():
            path.unlink()
        else:
            path.rename(target)
        path.symlink_to(os.path.relpath(target, path.parent))
        with target.with_name(f"{payload}.refs").open("a") as file:
            file.write(f"{path.relative_to(self.hub)}\n")
