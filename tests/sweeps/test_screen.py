"""The sweeps' screen over a real log, its keys and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.sweeps.screen import SweepsScreen
from services.sweeps import log
from services.workspace import Workspace
from tests.panel.helpers import until, until_text
from widgets.form import FormDialog
from widgets.parallel_chart import ParallelChart

Make = Callable[..., Path]
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
TOLD: list[tuple[float, int, str, float | None]] = [
    (0.0231, 8, "complete", 0.41), (0.0271, 16, "complete", 0.62), (0.00196, 8, "pruned", 5.48),
    (0.00021, 16, "pruned", 21.7), (0.0153, 8, "complete", 0.32), (0.081, 4, "failed", None), (0.0099, 8, "", 0.9),
]  # fmt: skip


@pytest.fixture
def app(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HybridApp:
    """The panel on a fresh workspace; no disk figures in its header."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(HybridApp, "_read_disk", lambda self: None)
    return HybridApp(workspace)


def write(folder: Path) -> None:
    """A sweep with trials of every kind; nobody drives it."""
    writer = log.Writer(folder)
    writer.add("begun")
    for number, (lr, r, state, value) in enumerate(TOLD):
        writer.add("asked", number, run=f"20261124-1200-aaa{number}", params={"lr": lr, "r": r})
        if value is not None:
            writer.add("report", number, step=30 if state == "pruned" else 120, value=value)
        reason = {"pruned": "Weak at step 30.", "failed": "The loss is not a finite number at step 7."}
        if state:
            writer.add("told", number, state=state, value=value, reason=reason.get(state, ""))
    writer.close()


async def shown(pilot: Pilot[None]) -> None:
    pilot.app.action_sweeps()  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(pilot.app.screen, SweepsScreen))


async def test_without_sweeps_it_says_how_to_begin(app: HybridApp) -> None:
    async with app.run_test() as pilot:
        await pilot.press("4")
        await pilot.pause()
        await pilot.press("S")
        await until_text(pilot, "Press n to look for good settings.")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, SweepsScreen))


async def test_the_best_is_marked_and_a_key_registers_it(app: HybridApp, make: Make) -> None:
    write(make())
    async with app.run_test(size=(120, 40)) as pilot:
        await shown(pilot)
        text = await until_text(pilot, "★ best: trial 4")
        assert "▲ stopped" in text and "sweep.resume goes on" in text and "× pruned" in text
        await pilot.press("down")
        await until(pilot, lambda: app.screen.query_one(ParallelChart).chosen == "1")
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await until_text(pilot, "intents")


async def test_older_and_newer(app: HybridApp, make: Make) -> None:
    write(make("20261124-1200-abcd"))
    make("20261124-1300-efgh", created_at=2.0)
    async with app.run_test(size=(120, 40)) as pilot:
        await shown(pilot)
        await until_text(pilot, "1 of 2 · 20261124-1300-efgh")
        await until_text(pilot, "No trial has begun yet.")
        await pilot.press("left_square_bracket")
        await until_text(pilot, "2 of 2 · 20261124-1200-abcd")


@SIZES
def test_picture(snap_compare: Any, app: HybridApp, make: Make, size: tuple[int, int]) -> None:
    write(make())

    async def ready(pilot: Pilot[None]) -> None:
        await shown(pilot)
        await until_text(pilot, "★ best: trial 4")
        await pilot.press("down", "down")
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=ready)


def test_picture_without_colour(snap_compare: Any, app: HybridApp, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    write(make())

    async def ready(pilot: Pilot[None]) -> None:
        await shown(pilot)
        await until_text(pilot, "★ best: trial 4")

    assert snap_compare(HybridApp(app.workspace), terminal_size=(120, 40), run_before=ready)
