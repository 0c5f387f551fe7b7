"""The training screen over real runs: live, finished, failed, damaged, long; its keys, dialogs and pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from hybrid_tui import actions
from hybrid_tui.app import HybridApp
from hybrid_tui.run_feed import RunFeed
from hybrid_tui.screens.training import TrainingScreen
from services.context import Context
from services.runs import local, view
from services.runs.train import StartParams
from services.runs.types import FINISHED, RunView
from services.workspace import Workspace
from tests.panel import runs, sample
from tests.panel.helpers import until, until_text
from widgets.dialogs import Confirm
from widgets.form import FormDialog
from widgets.line_chart import LineChart
from widgets.run_table import RunTable

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
started: list[StartParams] = []


async def capture_start(ctx: Context, params: StartParams) -> RunView:
    """Takes the place of train.start: remembers what it was asked."""
    started.append(params)
    return sample.run_view("20261123-1405-k3v9", "queued")


@pytest.fixture(autouse=True)
def _end_runs(workspace: Workspace) -> Iterator[None]:
    """No run outlives its test."""
    yield
    for run_dir in workspace.runs.glob("*-*-*"):
        if (run_dir / "spec.json").exists() and view.read(run_dir).phase not in FINISHED:
            local.cancel(run_dir)
            end = time.monotonic() + 20
            while view.read(run_dir).link == "live" and time.monotonic() < end:
                time.sleep(0.02)


@pytest.fixture
def live_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervised trainer finds the packages of this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(runs.CHECKOUT))


async def training(pilot: Pilot[None]) -> TrainingScreen:
    """Go to the screen."""
    await pilot.press("4")
    await until(pilot, lambda: isinstance(pilot.app.screen, TrainingScreen))
    assert isinstance(pilot.app.screen, TrainingScreen)
    return pilot.app.screen


def braille(text: str) -> int:
    return sum("⠀" < c <= "⣿" for c in text)


# States


async def test_without_runs_it_says_how_to_start_one(app: HybridApp) -> None:
    async with app.run_test(notifications=True) as pilot:
        await training(pilot)
        assert "Press n to start one" in await until_text(pilot, "No runs yet.")
        await pilot.press("c", "d", "k", "m", "g")
        await until_text(pilot, "There is no run to")


async def test_a_list_that_cannot_be_read_is_an_error_with_its_next_step(
    app: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(monkeypatch, train_list="broken")
    async with app.run_test(notifications=True) as pilot:
        await training(pilot)
        assert "Mount it again" in await until_text(pilot, "✗ The store's folder is gone.")


async def test_a_finished_run_shows_its_curve_results_and_log(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        shown = await until_text(pilot, "macro-F1")
        for text in ("✓ succeeded", "k3v9", "400/400", "85.8 % of 600", "481 tokens/s", "step-000400", "● train 0.2"):
            assert text in shown
        assert "■ validation" in shown
        assert "step 400: validation loss" in shown
        assert braille(shown) > 60


async def test_a_failed_run_names_its_cause_and_the_next_step(app: HybridApp, workspace: Workspace) -> None:
    told = runs.history(80, end="failed", reason="The disk is full: 0 B free.", hint="Free some, then resume.")
    runs.write(workspace, "20261123-1405-k3v9", told)
    async with app.run_test(notifications=True) as pilot:
        await training(pilot)
        shown = await until_text(pilot, "✗ failed")
        await until_text(pilot, "The disk is full: 0 B")
        assert "k3v9" in shown


async def test_a_damaged_line_is_named_and_the_rest_is_drawn(app: HybridApp, workspace: Workspace) -> None:
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(80))
    path = run_dir / "events-000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b'{"v":1, "run" [red]\n', *lines[6:]]))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        shown = await until_text(pilot, "events-000001.jsonl:6")
        assert braille(shown) > 30


# A live run


@pytest.mark.usefixtures("live_path")
async def test_follows_a_live_run_to_its_end(app: HybridApp, workspace: Workspace) -> None:
    runs.submit(workspace, "steps=60", "pause=0.02")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until_text(pilot, "▶ running")
        assert "● live" in await until_text(pilot, "● train")
        feed = screen.feed
        assert feed is not None
        seen = len(feed.curves["loss"])
        await until(pilot, lambda: len(feed.curves["loss"]) > seen)
        await until_text(pilot, "✓ succeeded", seconds=20)
        assert "75.0 %" in await until_text(pilot, "macro-F1")
        assert list(feed.curves["loss"].xs) == [x for x in range(1, 61) if x != 3]  # step 3 reports no number


@pytest.mark.usefixtures("live_path")
async def test_cancel_asks_first_and_resume_goes_on(app: HybridApp, workspace: Workspace) -> None:
    run_dir = runs.submit(workspace, "steps=150", "pause=0.02")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until_text(pilot, "▶ running")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert view.read(run_dir).phase == "running"
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until_text(pilot, "■ cancelled", seconds=20)
        await pilot.press("s")
        await until_text(pilot, "✓ succeeded", seconds=30)
        assert screen.feed is not None
        steps = list(screen.feed.curves["loss"].xs)
        assert steps == sorted(set(steps))
        assert steps[-1] == 150


@pytest.mark.usefixtures("live_path")
async def test_a_panel_opened_again_shows_the_run_live(workspace: Workspace) -> None:
    runs.submit(workspace, "steps=2000", "pause=0.02")
    for _ in range(2):
        async with HybridApp(workspace).run_test(size=(120, 40), notifications=True) as pilot:
            screen = await training(pilot)
            await until_text(pilot, "● live")
            feed = screen.feed
            assert feed is not None
            seen = len(feed.curves["loss"])
            await until(pilot, lambda feed=feed, seen=seen: len(feed.curves["loss"]) > seen)


@pytest.mark.usefixtures("live_path")
async def test_a_hidden_screen_reads_nothing(app: HybridApp, workspace: Workspace) -> None:
    runs.submit(workspace, "steps=2000", "pause=0.02")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until_text(pilot, "● train")
        await pilot.press("6")
        await until(pilot, lambda: not any(w.group == "follow" and w.is_running for w in app.workers))
        feed = screen.feed
        assert feed is not None
        await pilot.pause(0.3)  # what was on its way has come
        seen = feed.log_lines, len(feed.curves["loss"])
        await pilot.pause(0.6)
        assert (feed.log_lines, len(feed.curves["loss"])) == seen
        await pilot.press("4")
        await until(pilot, lambda: len(feed.curves["loss"]) > seen[1])


@pytest.mark.usefixtures("live_path")
async def test_asks_a_live_run_for_a_checkpoint(app: HybridApp, workspace: Workspace) -> None:
    run_dir = runs.submit(workspace, "steps=2000", "pause=0.02", "checkpoint=100000")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "none yet")
        await until(pilot, lambda: view.read(run_dir).phase == "running")
        await pilot.press("k")
        await until_text(pilot, "step-0", seconds=15)


# Keys


async def test_the_cursor_chooses_the_run_below(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-aaaa", runs.history(80))
    runs.write(workspace, "20261123-1406-bbbb", runs.history(160, end="cancelled", reason="Stopped on request."))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until(pilot, lambda: len(screen.query_one(RunTable).views) == 2)
        ids = [v.id for v in screen.query_one(RunTable).views]
        await until_text(pilot, f"─ {ids[0]}")
        await pilot.press("down")
        await until_text(pilot, f"─ {ids[1]}")
        await until(pilot, lambda: screen.chosen is not None and screen.chosen.id == ids[1])


async def test_chart_keys(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until_text(pilot, "● train")
        chart = screen.query_one(LineChart)
        await pilot.press("l", "w", "plus")
        await until_text(pilot, "log y · EMA 0.9 · 200–400")
        assert chart.view() == (200.5, 400)
        await pilot.press("left_square_bracket")
        assert not chart.following
        await pilot.press("z", "m")
        await until_text(pilot, "─ Learning rate")
        assert chart.following
        await pilot.press("m", "m", "m")
        await until_text(pilot, "─ Loss")


async def test_delete_shows_the_exact_size_and_asks(app: HybridApp, workspace: Workspace) -> None:
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(80))
    size = view.folder_bytes(run_dir)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✓ succeeded")
        await pilot.press("d")
        shown = await until_text(pilot, f"{size:,} bytes")
        assert "20261123-1405-k3v9" in shown
        await pilot.press("n")
        await until_text(pilot, "✓ succeeded")
        assert run_dir.exists()
        await pilot.press("d")
        await until_text(pilot, f"{size:,} bytes")
        await pilot.press("y")
        await until_text(pilot, "No runs yet.")
        assert not run_dir.exists()


async def test_a_new_run_offers_example_data_and_starts_with_what_was_asked(
    app: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = replace(actions.ACTIONS["train.start"], target=f"{__name__}:capture_start")
    monkeypatch.setitem(actions.ACTIONS, "train.start", start)
    started.clear()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "No runs yet.")
        await pilot.press("n")
        await until_text(pilot, "Generate example data to train on?")
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, FormDialog), seconds=60)
        form = app.screen
        form.query_one("#field-r").value = "0"  # type: ignore[attr-defined]
        form.query_one("#field-model").focus()
        await pilot.press("enter")
        await until_text(pilot, "r=0 is not usable")
        form.query_one("#field-r").value = "4"  # type: ignore[attr-defined]
        form.query_one("#field-max_seconds").value = "90"  # type: ignore[attr-defined]
        form.query_one("#field-model").focus()
        await pilot.press("enter")
        await until(pilot, lambda: started)
        assert (started[0].data, started[0].r, started[0].max_seconds) == ("banking", 4, 90.0)


async def test_register_asks_for_a_name_and_adds_the_result(app: HybridApp, workspace: Workspace) -> None:
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(80))
    output = run_dir / "output"
    output.mkdir()
    (output / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "tiny"}')
    (output / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (output / "metadata.json").write_text('{"base_model": "tiny", "metrics": {"accuracy": 0.858}}')
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✓ succeeded")
        await pilot.press("g")
        await until_text(pilot, "Register this run")
        await pilot.press("enter")
        await until_text(pilot, "banking@1 is registered")


async def test_a_run_without_result_is_not_registered(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history(80, end="failed", reason="Out of memory."))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✗ failed")
        await pilot.press("g")
        await until_text(pilot, "has no result to register")


async def test_read_only_refuses_to_stop_a_run(workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history(80, end="failed", reason="Out of memory."))
    app = HybridApp(workspace, read_only=True)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✗ failed")
        await pilot.press("s")
        await until_text(pilot, "train.resume would write")


# What is kept


def follow(feed: RunFeed) -> None:
    feed.behind = True
    while feed.behind:
        feed.look()
        while feed.waiting:
            feed.take()


def test_a_long_run_stays_bounded_and_keeps_both_ends(workspace: Workspace) -> None:
    steps = 40_000
    told: list[tuple[str, Any]] = [("metric", {"step": s, "split": "train", "loss": 1 + s % 9}) for s in range(steps)]
    run_dir = runs.write(workspace, "20261123-1405-k3v9", told)
    (run_dir / "log.txt").write_text("".join(f"line {i}\n" for i in range(50_000)))
    feed = RunFeed(run_dir)
    follow(feed)
    loss = feed.curves["loss"]
    assert len(loss) <= 20_000
    assert loss.xs[0] < 20
    assert loss.xs[-1] == steps - 1
    assert len(feed.log) <= 300
    assert feed.log[-1] == "line 49999"


def test_a_second_attempt_replaces_the_steps_it_repeats(workspace: Workspace) -> None:
    def attempt(first: int, last: int, loss: float) -> list[tuple[str, Any]]:
        return [("metric", {"step": s, "split": "train", "loss": loss}) for s in range(first, last)] + [
            ("metric", {"step": last, "split": "val", "loss": loss})
        ]

    run_dir = runs.write(workspace, "20261123-1405-k3v9", attempt(1, 51, 3.0))
    runs.write(workspace, "20261123-1405-k3v9", attempt(31, 41, 1.0), attempt=2)
    feed = RunFeed(run_dir)
    follow(feed)
    assert list(feed.curves["loss"].xs) == list(range(1, 41))
    assert feed.curves["loss"].ys[29:31].tolist() == [3.0, 1.0]
    assert list(feed.curves["val_loss"].xs) == [41]


def test_nothing_read_is_lost_when_nobody_waits_for_it(workspace: Workspace) -> None:
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(80))
    feed = RunFeed(run_dir)
    feed.look()  # the screen was hidden meanwhile
    feed.look()
    assert feed.take()
    while feed.waiting:
        feed.take()
    assert len(feed.curves["loss"]) == 80


def test_the_log_is_shown_as_a_terminal_would_leave_it(workspace: Workspace) -> None:
    run_dir = runs.write(workspace, "20261123-1405-k3v9", runs.history(80))
    (run_dir / "log.txt").write_bytes(b"a\r\x1b[32mdone\x1b[0m 100 %\n[b]literal[/b]\xff\nnot whole")
    feed = RunFeed(run_dir)
    follow(feed)
    assert feed.log[:2] == ["done 100 %", "[b]literal[/b]\N{REPLACEMENT CHARACTER}"]
    with (run_dir / "log.txt").open("ab") as file:
        file.write(b" yet\n")
    follow(feed)
    assert feed.log[-1] == "not whole yet"
    (run_dir / "log.txt").write_bytes(b"a new log\n")
    follow(feed)
    assert feed.log[-1] == "a new log"


async def test_keys_are_answered_while_a_long_history_is_read(app: HybridApp, workspace: Workspace) -> None:
    told: list[tuple[str, Any]] = [("metric", {"step": s, "split": "train", "loss": 1 + s % 9}) for s in range(40_000)]
    runs.write(workspace, "20261123-1405-k3v9", told)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        slowest = 0.0
        while screen.feed is None or screen.feed.behind:
            before = time.perf_counter()
            await asyncio.sleep(0)
            slowest = max(slowest, time.perf_counter() - before)
            await asyncio.sleep(0.005)
        await until_text(pilot, "● train")
        assert slowest < 1.0  # a bound that holds on a busy box; benchmarks/panel.py has the real figure


# Pictures


@SIZES
def test_picture_of_a_filled_screen(
    snap_compare: Any, app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    sample.put(monkeypatch, storage_usage="usage_ok")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(view, "folder_bytes", lambda folder: 9_800_000)  # allocated blocks differ by file system
    runs.write(workspace, "20261123-1405-k3v9", runs.history())
    runs.write(
        workspace, "20261123-1302-m4t2", runs.history(80, end="failed", reason="The disk is full.", hint="Resume it.")
    )

    async def wait(pilot: Pilot[None]) -> None:
        await training(pilot)
        await until_text(pilot, "GB free")
        await until_text(pilot, "● train")
        await until_text(pilot, "step 400: val" if size[1] > 30 else "val")

    assert snap_compare(app, terminal_size=size, run_before=wait)


@SIZES
def test_picture_without_runs(
    snap_compare: Any, app: HybridApp, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    sample.put(monkeypatch, storage_usage="usage_ok")

    async def wait(pilot: Pilot[None]) -> None:
        await training(pilot)
        await until_text(pilot, "No runs yet.")
        await until_text(pilot, "GB free")

    assert snap_compare(app, terminal_size=size, run_before=wait)
