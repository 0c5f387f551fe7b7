"""The overview: what it says in each state, and pictures of it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.due import due
from services.registry.types import Listing
from services.runs.types import Event
from services.storage.types import Caches
from services.storage.upkeep.types import Forecast, Glance, TaskList
from services.workspace import Workspace, open_workspace
from tests.panel import runs, sample
from tests.panel.helpers import until, until_text
from widgets.gauge import bar

EMPTY = {"storage_usage": "usage_ok", "storage_caches": "caches_ok",
         "registry_list": "listing_empty", "train_list": "runs_empty", "upkeep_glance": "glance_quiet"}  # fmt: skip
FILLED = EMPTY | {"registry_list": "listing_filled", "train_list": "runs_filled"}
DUE = EMPTY | {"upkeep_glance": "glance_due"}
ERROR = EMPTY | {"storage_usage": "usage_over", "registry_list": "broken"}


@pytest.fixture
def frozen(app: HybridApp) -> HybridApp:
    """The panel with a clock that stands."""
    app.clock = lambda: sample.NOW
    return app


async def test_empty(frozen: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, **EMPTY)
    async with frozen.run_test(size=(100, 30)) as pilot:
        shown = await until_text(pilot, "✓ Nothing.")
        assert "9.1 GB of 15.0 GB" in shown
        assert "No model is registered yet." in shown
        assert "No run yet." in shown


async def test_filled(frozen: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, **FILLED)
    async with frozen.run_test(size=(120, 40)) as pilot:
        await until_text(pilot, "banking@3 is newer than the deployed banking@2.")
        shown = await until_text(pilot, "loss 0.5321")
        assert "85.8 %" in shown
        assert "step 120 of 400" in shown
        assert "3 min 10 s left" in shown
        assert "Run m4t2 failed: The disk is full. It can be resumed" in shown


async def test_one_part_failing_leaves_the_others(frozen: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, **ERROR)
    async with frozen.run_test(size=(120, 40)) as pilot:
        shown = await until_text(pilot, "✗ The store's folder is gone.")
        assert "Mount it again" in shown
        await until_text(pilot, "No run yet.")
        await until_text(pilot, "2.4 GB more than the budget")


async def test_what_the_upkeep_finds_is_due_with_the_place_to_go(
    frozen: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(monkeypatch, **DUE)
    async with frozen.run_test(size=(150, 40)) as pilot:
        shown = await until_text(pilot, "Review the space on Drive: 9 days overdue.")
        assert "is full about 2026-11-26." in shown
        assert "1 model or large file of 50.0 MB is in git (1 only in history).  → 2 Storage" in shown
        assert "Delete failed runs: due today. 2 runs failed.  → 4 Training" in shown
        assert "notebooks" not in shown


async def test_an_upkeep_that_fails_is_a_line_and_leaves_the_rest(
    frozen: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(monkeypatch, **(EMPTY | {"upkeep_glance": "broken"}))
    async with frozen.run_test(size=(120, 40)) as pilot:
        shown = await until_text(pilot, "▲ The store's folder is gone.  → 2 Storage")
        assert shown.count("The store's folder is gone.") == 1
        assert "within budget" in shown


async def test_the_real_upkeep_of_a_fresh_workspace_is_quiet(
    frozen: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = {name: answer for name, answer in EMPTY.items() if name != "upkeep_glance"}
    sample.put(monkeypatch, **quiet)
    async with frozen.run_test(size=(120, 40)) as pilot:
        await until_text(pilot, "✓ Nothing.")


async def test_runs_are_read_only_while_the_overview_is_in_front(
    frozen: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(monkeypatch, **EMPTY)
    async with frozen.run_test() as pilot:
        await until(pilot, lambda: len(getattr(frozen.screen, "_timers_when_shown", ())) == 2)
        timers = frozen.screen._timers_when_shown  # type: ignore[attr-defined]
        assert all(timer._active.is_set() for timer in timers)
        await pilot.press("6")
        await until(pilot, lambda: not any(timer._active.is_set() for timer in timers))
        await pilot.press("1")
        await until(pilot, lambda: all(timer._active.is_set() for timer in timers))


def test_due_names_the_most_pressing_first_and_forgets_old_failures() -> None:
    over = sample.run_view("a1", "lost", ended_at=sample.NOW - 60)
    old = sample.run_view("b2", "failed", ended_at=sample.NOW - 30 * 86400, created_at=sample.NOW - 30 * 86400)
    listing = Listing((), (sample.version(1, ("latest",), 0.8),), 1, "", ("docs/model_registry.json was edited.",))
    found = due(None, None, listing, [over, old], now=sample.NOW)
    assert [item.where for item in found] == ["4 Training", "3 Registry", "3 Registry"]
    assert "a1 was lost" in found[0].what
    assert "b2" not in " ".join(item.what for item in found)
    assert "nothing of banking is deployed" in found[2].what


@pytest.mark.parametrize(
    ("forecast", "told"),
    [
        (Forecast("growing", "Full soon.", 1.0, full_at=sample.NOW + 13 * 86400), True),
        (Forecast("growing", "Full soon.", 1.0, full_at=sample.NOW + 15 * 86400), False),
        (Forecast("growing", "Full soon.", 1.0, full_at=sample.NOW + 99 * 86400, budget_at=sample.NOW + 1), True),
        (Forecast("growing", "Full soon.", 1.0, full_at=sample.NOW + 99 * 86400, budget_at=sample.NOW), False),
        (Forecast("shrinking", "Full soon.", -1.0, budget_at=sample.NOW), False),
    ],
)
def test_a_forecast_is_due_when_its_day_is_near_and_the_disk_does_not_say_so_already(
    forecast: Forecast, told: bool
) -> None:
    found = due(None, None, None, [], now=sample.NOW, glance=Glance(forecast, TaskList((), 0)), warn_days=14)
    assert [item.what for item in found] == (["Full soon."] if told else [])


def test_many_tasks_are_counted_and_the_caches_are_told_once() -> None:
    tasks = tuple(sample.task(name, "due", "due today") for name in ("caches", "a", "b", "c", "d", "e"))
    over = Caches((), 4 * 10**9, 3 * 10**9, True)
    glance = Glance(Forecast("few", "x"), TaskList(tasks, 6))
    words = [item.what for item in due(None, over, None, [], now=sample.NOW, glance=glance)]
    assert words[1:] == [f"Look after {name}: due today." for name in "abc"] + [
        "2 more upkeep tasks are due: upkeep.list."
    ]
    assert words[0].startswith("The caches are 1.0 GB over")


@pytest.mark.parametrize(("share", "filled"), [(0, 0), (0.001, 1), (0.5, 5), (0.999, 9), (1, 10), (7, 10)])
def test_a_bar_is_never_full_or_empty_by_rounding(share: float, filled: int) -> None:
    full, empty = bar(share, 10)
    assert len(full) == filled
    assert len(full) + len(empty) == 10


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        (EMPTY, "✓ Nothing."),
        (FILLED, "banking@3 is newer"),
        (ERROR, "The store's folder is gone."),
        (DUE, "Review the space on Drive"),
    ],
    ids=["empty", "filled", "error", "due"],
)
def test_picture(
    snap_compare: Any,
    frozen: HybridApp,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, str],
    ready: str,
    size: tuple[int, int],
) -> None:
    sample.put(monkeypatch, **answers)

    async def wait(pilot: Pilot[None]) -> None:
        await until_text(pilot, ready)
        await until(pilot, lambda: len(frozen.screen._known) >= 5)  # type: ignore[attr-defined]
        await pilot.pause(0.3)

    assert snap_compare(frozen, terminal_size=size, run_before=wait)


def test_picture_without_colour(snap_compare: Any, monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sample.put(monkeypatch, **ERROR)
    app = HybridApp(workspace)
    app.clock = lambda: sample.NOW

    async def wait(pilot: Pilot[None]) -> None:
        shown = await until_text(pilot, "The store's folder is gone.")
        assert "▲ 2.4 GB over" in await until_text(pilot, "▲ 2.4 GB over"), shown
        await until(pilot, lambda: len(app.screen._known) >= 5)  # type: ignore[attr-defined]
        await pilot.pause(0.3)

    assert snap_compare(app, terminal_size=(80, 24), run_before=wait)


@pytest.mark.parametrize(
    ("ceilings", "said"),
    [("units = 3.0", "over the ceiling of 3 units"), ("USD = 4.5", "near the ceiling of 4.50 USD")],
)
async def test_a_months_ceiling_reads_as_it_was_chosen(workspace: Workspace, ceilings: str, said: str) -> None:
    (workspace.root / "hybrid.toml").write_text(f"[costs]\nmonth = {{ {ceilings} }}\n", encoding="utf-8")
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(40))
    paid = {"units": 3.2, "money": 4.0, "currency": "USD", "seconds": 60, "of": "vm", "source": "account"}
    told = Event(1, run_dir.name, 2, 1, time.time(), "cost", paid)
    (run_dir / "events-000009.jsonl").write_bytes(msgspec.json.encode(told) + b"\n")
    async with HybridApp(open_workspace(workspace.root)).run_test(size=(200, 40)) as pilot:  # on one line
        await until_text(pilot, said)
