"""A home of its own for each test, so that no sign-in of the person's is met."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder; config below it. No browser, no credentials of the machine's."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in (
        "XDG_CONFIG_HOME", "CLOUDSDK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return folder
