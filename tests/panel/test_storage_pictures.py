"""Pictures of the storage screen: the panel is real, the services' answers are the same on every machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from services.settings import Settings
from services.workspace import Workspace
from tests.panel import storage_sample as sample
from tests.panel.helpers import until_text

PICTURES: dict[str, tuple[list[str], str, dict[str, Callable[..., Any]]]] = {
    "clean": ([], "a marks all", {}),
    "clean-marked": (["down", "enter", "a"], "marked 6 items", {}),
    "clean-measuring": ([], "… measuring, 2 of 5 kinds", {"items": sample.items_so_far}),
    "clean-loading": ([], "Looking for caches", {"items": sample.items_waiting}),
    "clean-error": ([], "✗ The home folder", {"items": sample.items_failing}),
    "clean-empty": ([], "There is nothing to clean", {"items": sample.items_none}),
    "plan": (["a", "d"], "Clean up?", {}),
    "free": (["a", "d", "f"], "This deletes for good", {}),
    "cleaning": (["a", "d", "y"], "… cleaning ━━━━──────── 35 %", {"clean": sample.clean_waiting}),
    "explore": (["e", "space"], "marked 1 thing", {}),
    "explore-scanning": (["e"], ".venv/", {"explore": sample.explore_so_far}),
    "explore-error": (["e"], "✗ The folder /work may not be read.", {"explore": sample.explore_failing}),
    "largest-files": (["e", "b"], "all above", {}),
    "types": (["e", "y"], ".safetensors", {}),
    "packages": (["p", "enter", "down"], "swap for torch", {}),
    "trash": (["t"], "u restores", {}),
    "trash-empty": (["t"], "The trash is empty.", {"trash": sample.trash_empty}),
    "history": (["H"], "the disk got", {}),
    "upkeep": (["U", "down", "down", "down"], "kept the models", {}),
}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are drawn in local time."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def panel() -> HybridApp:
    app = HybridApp(Workspace(Path("/nowhere/workspace"), Settings()))
    app.clock = lambda: sample.NOW
    return app


def wait(keys: list[str], ready: str) -> Callable[[Pilot[None]], Any]:
    async def run(pilot: Pilot[None]) -> None:
        await pilot.press("2")
        await until_text(pilot, "17.4 GB of 15.0 GB")
        await until_text(pilot, "It is full around")
        for key in keys:
            await pilot.pause(0.1)
            await pilot.press(key)
        await until_text(pilot, ready)
        await pilot.pause(0.3)

    return run


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("name", PICTURES)
def test_picture(snap_compare: Any, monkeypatch: pytest.MonkeyPatch, name: str, size: tuple[int, int]) -> None:
    keys, ready, others = PICTURES[name]
    sample.install(monkeypatch.setitem, **others)
    assert snap_compare(panel(), terminal_size=size, run_before=wait(keys, ready))


def test_picture_without_colour(snap_compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sample.install(monkeypatch.setitem)
    assert snap_compare(panel(), terminal_size=(80, 24), run_before=wait(["down", "a"], "marked 6 items"))
