"""Storage tests have a home folder of their own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No cache of the box itself is measured, marked or cleaned."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
