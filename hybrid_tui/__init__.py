"""hybrid-tui: a keyboard-driven control panel for building language models without owning a GPU.

Notebooks and other programs import from here: ``from hybrid_tui import init_drive_manager``. See docs/notebooks.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.notebook.manager import GoogleDriveManager
    from services.notebook.opening import init_drive_manager

__version__ = "0.1.0"
__all__ = ["GoogleDriveManager", "__version__", "init_drive_manager"]

_EXPORTS = {
    "GoogleDriveManager": "services.notebook.manager",
    "init_drive_manager": "services.notebook.opening",
}


def __getattr__(name: str) -> Any:
    """What is exported is imported when it is first used: the command line does without."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hybrid_tui' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
