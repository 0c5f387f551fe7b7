"""Colab's mount of Google Drive. Imported only there; each call must come from the notebook's main thread, since
``google.colab`` asks the browser through the kernel."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from services.drive import mounts
from services.errors import StoreUnreachable


def in_colab() -> bool:
    """Whether this process runs in a Colab runtime, which has the package ``google.colab``."""
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:  # not even the package google
        return False


def mount(point: Path) -> Path:
    """Mount Drive at ``point`` (no harm when it is already) and return its folder "My Drive".

    Raises StoreUnreachable when the person refuses or Google does not answer.
    """
    try:
        _drive().mount(str(point))
    except Exception as error:  # google.colab raises ValueError, its own errors, and what the kernel raises
        raise StoreUnreachable(f"Google Drive could not be mounted: {error}.", hint="Run the cell again.") from error
    mounts.mounted_by_colab(point)
    return point / "MyDrive"


def flush(point: Path) -> None:
    """Send up everything the mount still holds, then mount again: only the unmounting waits for that."""
    try:
        _drive().flush_and_unmount()
    except Exception as error:
        raise StoreUnreachable(
            f"Google Drive could not be flushed: {error}.", hint="Nothing counts as safe; try again."
        ) from error
    mount(point)


def _drive() -> Any:
    return importlib.import_module("google.colab.drive")
