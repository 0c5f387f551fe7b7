"""The view of budgets and tasks, over the real services."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from tests.panel import storage_box
from tests.panel.helpers import until, until_text
from widgets.upkeep_list import UpkeepList


@pytest.fixture
async def pilot(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pilot[None]]:
    """The upkeep view of a fresh workspace."""
    storage_box.install(monkeypatch.setitem)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("2", "U")
        await until_text(pilot, "The caches take")
        await until_text(pilot, "Consolidate versions")
        yield pilot


async def to_task(pilot: Pilot[None], name: str) -> None:
    rows = pilot.app.screen.query_one(UpkeepList)
    for _ in range(len(rows.rows)):
        if rows.row and rows.row.key == f"task:{name}":
            return
        await pilot.press("down")
    raise AssertionError(f"no task {name} in {[row.key for row in rows.rows]}")


async def test_a_task_is_marked_as_done_and_the_mark_taken_back(pilot: Pilot[None]) -> None:
    await to_task(pilot, "versions")
    await until_text(pilot, "never done")
    await pilot.press("m")
    await until_text(pilot, "versions is marked as done")
    await to_task(pilot, "versions")
    await until_text(pilot, "monthly, last done")
    await pilot.press("u")
    await until_text(pilot, "no longer marked")
    await until_text(pilot, "monthly, never done")


async def test_enter_goes_where_a_task_is_done(pilot: Pilot[None]) -> None:
    await to_task(pilot, "versions")
    await pilot.press("enter")
    await until(pilot, lambda: pilot.app.current_mode == "registry")


async def test_enter_on_a_budget_opens_the_view_that_mends_it(pilot: Pilot[None]) -> None:
    await pilot.press("home", "enter")
    await until_text(pilot, "(the rest)")  # the explorer: what fills the disk


async def test_a_budget_can_not_be_marked(pilot: Pilot[None]) -> None:
    await pilot.press("home", "m")
    await until_text(pilot, "Budgets can't be marked")


async def test_a_broken_budget_is_seen(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_box.install(monkeypatch.setitem)
    monkeypatch.setenv("HYBRID_DISK_BUDGET_GB", "0.001")
    from services import workspace

    async with HybridApp(workspace.open_workspace(app.workspace.root)).run_test(size=(120, 40)) as pilot:
        await pilot.press("2", "U")
        await until_text(pilot, "▲ broken")
        await until_text(pilot, "1 budget broken")
