"""The overview: what it says in each state, and pictures of it."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.due import due
from services.registry.types import Listing
from services.workspace import Workspace
from tests.panel import sample
from tests.panel.helpers import until, until_text
from widgets.gauge import bar

EMPTY = {"storage_usage": "usage_ok", "storage_caches": "caches_ok",
         "registry_list": "listing_empty", "train_list": "runs_empty"}  # fmt: skip
FILLED = EMPTY | {"registry_list": "listing_filled", "train_list": "runs_filled"}
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


@pytest.mark.parametrize(("share", "filled"), [(0, 0), (0.001, 1), (0.5, 5), (0.999, 9), (1, 10), (7, 10)])
def test_a_bar_is_never_full_or_empty_by_rounding(share: float, filled: int) -> None:
    full, empty = bar(share, 10)
    assert len(full) == filled
    assert len(full) + len(empty) == 10


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize(
    ("answers", "ready"),
    [(EMPTY, "✓ Nothing."), (FILLED, "banking@3 is newer"), (ERROR, "The store's folder is gone.")],
    ids=["empty", "filled", "error"],
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
        await until(pilot, lambda: len(frozen.screen._known) >= 4)  # type: ignore[attr-defined]
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
        await until(pilot, lambda: len(app.screen._known) >= 4)  # type: ignore[attr-defined]
        await pilot.pause(0.3)

    assert snap_compare(app, terminal_size=(80, 24), run_before=wait)
