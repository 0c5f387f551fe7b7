"""What the program knows about itself: its assets and the settings in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from services.context import Context


def assets() -> Path:
    """The folder of stylesheet, screenshots and example workspace: inside the package when installed from a wheel,
    beside it in a checkout."""
    inside = Path(__file__).parent / "assets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "assets"


class SettingsParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class SettingsShown(msgspec.Struct, frozen=True):
    """Settings in force by section and key, and what could not be used."""

    workspace: str
    settings: dict[str, dict[str, Any]]
    warnings: tuple[str, ...]


async def settings(ctx: Context, params: SettingsParams) -> SettingsShown:
    """The settings in force after file and environment."""
    return SettingsShown(str(ctx.workspace.root), msgspec.to_builtins(ctx.workspace.settings), ctx.workspace.warnings)
