"""The panel over a real workspace in a temporary folder."""

from __future__ import annotations

import pytest

from hybrid_tui.app import HybridApp
from services.workspace import Workspace


@pytest.fixture
def app(workspace: Workspace) -> HybridApp:
    """The panel on a fresh workspace, not started yet."""
    return HybridApp(workspace)
