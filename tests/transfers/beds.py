"""What tests of transfers share: trees of files, the worker's process, waiting for a state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from services.transfers import items
from services.transfers.types import TransferView
from services.transfers.view import read
from services.workspace import Workspace

Tree = dict[str, bytes]


def plant(folder: Path, tree: Tree) -> Path:
    """Write these files below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in tree.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def tree_of(folder: Path) -> Tree:
    """Every file below ``folder`` by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def slow_tree(files: int = 900, size: int = 10_000) -> Tree:
    """Files that take a while to copy: each is flushed to the disk, twice, before it counts."""
    return {f"part-{n:04d}.bin": os.urandom(size) for n in range(files)}


def worker_of(root: Path) -> psutil.Process | None:
    """The living worker of a workspace: the one that holds its lock, by the process table."""
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if "services.transfers.worker" in words and str(root) in words and process.info["status"] != "zombie":
            return process
    return None


def until(
    workspace: Workspace, id: str, condition: Callable[[TransferView], object], seconds: float = 15
) -> TransferView:
    """Wait until the transfer is so; fails with how it stands."""
    folder = items.queue(workspace) / id
    end = time.monotonic() + seconds
    while True:
        seen = read(workspace, folder)
        if condition(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.01)
