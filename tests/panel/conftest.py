"""The panel over a real workspace in a temporary folder."""

from __future__ import annotations

import pytest

from hybrid_tui.app import HybridApp
from services.workspace import Workspace


@pytest.fixture
def app(workspace: Workspace) -> HybridApp:
    """The panel on a fresh workspace, not started yet."""
    return HybridApp(workspace)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No cache of the box itself is measured, marked or cleaned."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
