"""What the wheel holds is what the checkout holds."""

from __future__ import annotations

import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"])
    there = {
        ".".join(folder.relative_to(CHECKOUT).parts)
        for top in ("hybrid_tui", "widgets", "services")
        for folder in [CHECKOUT / top, *(CHECKOUT / top).rglob("*")]
        if folder.is_dir() and any(p.suffix in (".py", ".toml") for p in folder.iterdir())
    }
    assert listed - {"hybrid_tui.assets"} == there
