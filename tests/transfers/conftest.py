"""A workspace whose disk budgets never stand in the way, and the worker's processes, ended whatever a test does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.context import Context
from services.workspace import Workspace
from tests.drive.google_bed import config, signed_in
from tests.transfers.beds import worker_of

ROOMY = "[disk]\nbudget_gb = 1000000.0\nmin_free_gb = 0.0\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with room."""
    root = tmp_path / "work"
    root.mkdir()
    (root / "hybrid.toml").write_text(ROOMY)
    yield workspaces.init(root)
    if (worker := worker_of(root)) is not None:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
            worker.wait(5)


@pytest.fixture
def agreed(workspace: Workspace) -> Context:
    """A context that may write and has a yes."""
    return Context(workspace, yes=True)


__all__ = ["config", "signed_in"]
