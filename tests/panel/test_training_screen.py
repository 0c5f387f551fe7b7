"""The training screen over real runs: live, finished, failed, damaged, long; its keys, dialogs and pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from hybrid_tui import actions
from hybrid_tui.app import HybridApp
from hybrid_tui.run_feed import RunFeed
from hybrid_tui.screens.training import TrainingScreen
from services.context import Context
from services.errors import HybridError
from services.runs import local, view
from services.runs.remote import Remote, write_remote
from services.runs.train import StartParams
from services.runs.types import FINISHED, RunView, TrainConfig
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


@pytest.fixture(autouse=True)
def _nobody_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The panel does nothing about runs by itself here (test_run_keeper.py has that)."""
    monkeypatch.setattr("hybrid_tui.run_keeper.BEFORE_FIRST", 3600.0)


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
        await until_text(pilot, "macro-F1")
        shown = await until_text(pilot, "step 400: validation loss")  # the log is drawn last
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
    runs.submit(workspace, "steps=200", "pause=0.02")
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
        assert list(feed.curves["loss"].xs) == [x for x in range(1, 201) if x != 3]  # step 3 reports no number


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
        await until_text(pilot, "─ Validation loss")
        assert chart.following
        await pilot.press("m")
        await until_text(pilot, "─ Learning rate")
        await pilot.press("m", "m", "m")
        await until_text(pilot, "─ Loss")
        await pilot.press("M")
        await until_text(pilot, "Draw which figure?")
        await pilot.press(*"speed", "enter")
        await until_text(pilot, "─ Speed, tokens/s")


async def test_view_shows_the_chart_or_the_log_alone(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history())
    async with app.run_test(notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "● train")
        await pilot.press("v")
        await until(pilot, lambda: app.screen.query_one(LineChart).size.width > 70)
        assert "Log" not in await until_text(pilot, "─ Loss")
        await pilot.press("v")
        assert "─ Loss" not in await until_text(pilot, "step 50: validation loss")
        await pilot.press("v")
        await until_text(pilot, "─ 20261123-1405-k3v9")


# Comparing


async def test_marked_runs_are_compared_by_curves_settings_and_results(app: HybridApp, workspace: Workspace) -> None:
    runs.write(workspace, "20261123-1405-aaaa", runs.history(80, level=0.9), config=TrainConfig(lr=0.1, r=4))
    runs.write(workspace, "20261123-1406-bbbb", runs.history(160), config=TrainConfig(lr=0.001, r=4))
    runs.write(workspace, "20261123-1407-cccc", runs.history(40, end="failed", reason="No."), config=TrainConfig(r=4))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        table = screen.query_one(RunTable)
        await until(pilot, lambda: len(table.views) == 3)
        await pilot.press("space", "down", "space")
        shown = await until_text(pilot, "2 runs compared")
        first, second = (view.id.rpartition("-")[2] for view in table.views[:2])
        shown = await until_text(pilot, f"■ {second} ")
        assert f"● {first} " in shown
        heading = next(line for line in shown.splitlines() if "val loss" in line)
        assert " lr " in heading
        assert " r " not in heading  # the same in both
        assert "─ Log" not in shown
        # the third under the cursor leaves the chart to the marked ones; colours stay when one mark goes
        await pilot.press("down", "space", "up", "up", "space")
        third = table.views[2].id
        await until(pilot, lambda: set(screen.marked) == {table.views[1].id, third})
        assert (screen.marked[table.views[1].id], screen.marked[third]) == (1, 2)
        shown = await until_text(pilot, f"▲ {third[-4:]} ")
        assert f"● {first} " not in shown
        await pilot.press("m", "m")
        await until_text(pilot, "─ Learning rate")
        await pilot.press("x")
        await until_text(pilot, "─ Log")
        assert "runs compared" not in await until_text(pilot, "● lr")


async def test_at_most_six_runs_are_compared_and_a_deleted_one_is_forgotten(
    app: HybridApp, workspace: Workspace
) -> None:
    for i in range(7):
        runs.write(workspace, f"2026112{i}-1405-aaa{i + 2}", runs.history(16))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await training(pilot)
        await until(pilot, lambda: len(screen.query_one(RunTable).views) == 7)
        for _ in range(7):
            await pilot.press("space", "down")
        await until_text(pilot, "6 runs are marked")
        assert sorted(screen.marked.values()) == list(range(6))
        await until_text(pilot, "6 runs compared · same settings")
        gone = next(iter(screen.marked))
        local.delete(workspace.runs / gone)
        await pilot.press("r")
        await until_text(pilot, "5 runs compared")
        assert gone not in screen.marked


# Runs elsewhere


def unattached(workspace: Workspace) -> None:
    """A run on a machine of Colab that nothing here follows any more."""
    told = runs.history(80)[:60]
    told[0] = ("phase", {"phase": "running", "link": "polling"})
    told.append(
        ("cost", {"seconds": 1800, "units": 0.9, "rate": 1.8, "balance": 41.5, "source": "account", "of": "m1"})
    )
    gpu = [{"load": 0.93, "used_bytes": 9.1e9, "total_bytes": 15.8e9}]
    told.append(("hb", {"step": 50, "rss_bytes": 3_100_000_000, "disk_free_bytes": 55_000_000_000, "gpu": gpu}))
    told.append(("hb", {"step": 50, "agent_rss_bytes": 90_000_000}))
    run_dir = runs.write(workspace, "20261123-1405-k3v9", told, target="colab")
    remote = Remote("colab", "hybrid-20261123-1405-k3v9-1", True, since=runs.NOW, machine="T4")
    write_remote(run_dir, remote)


async def test_a_run_that_nobody_follows_is_told_in_red_and_words(app: HybridApp, workspace: Workspace) -> None:
    unattached(workspace)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        shown = await until_text(pilot, "‼ Nothing here follows")
        assert "‼ 1 may bill unfollowed" in shown
        assert "‼ may bill" in shown
        for text in ("0.9 units, 1.8/h", "41.5 units", "93 %, 9.1 of 15.8 GB", "3.1 GB", "colab T4"):
            assert text in shown
        await pilot.press("c")
        await until_text(pilot, "Its machine at colab is given back.")


# A new run


class Estimated(msgspec.Struct):
    """What an estimate says."""

    sentences: tuple[str, ...]


async def told_estimate(ctx: Context, params: StartParams) -> Estimated:
    """Takes the place of train.estimate."""
    if params.r == 64:
        raise HybridError("The model's shape can't be read.", hint="Convert it first.")
    return Estimated((f"A step with r={params.r} takes 1.9 GB.",))


async def test_the_estimate_is_shown_first_and_a_no_goes_back_to_the_form(
    app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, function in (("train.start", "capture_start"), ("train.estimate", "told_estimate")):
        known = actions.ACTIONS["train.start"]
        monkeypatch.setitem(actions.ACTIONS, name, replace(known, name=name, target=f"{__name__}:{function}"))
    started.clear()
    runs.write(workspace, "20261123-1405-k3v9", runs.history(80), config=TrainConfig(r=32))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✓ succeeded")
        await pilot.press("N")
        await until_text(pilot, "New run, like")
        app.screen.query_one("#field-model").focus()
        await pilot.press("enter")
        await until_text(pilot, "A step with r=32 takes 1.9 GB.")
        await pilot.press("n")
        await until_text(pilot, "New run, like")
        assert not started
        assert app.screen.query_one("#field-r").value == "32"  # type: ignore[attr-defined]
        app.screen.query_one("#field-r").value = "64"  # type: ignore[attr-defined]
        app.screen.query_one("#field-model").focus()
        await pilot.press("enter")
        await until_text(pilot, "▲ No estimate: The model's shape can't be read.")
        await pilot.press("y")
        await until(pilot, lambda: started)
        assert started[0].r == 64


async def test_clone_fills_the_form_from_the_run(
    app: HybridApp, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = replace(actions.ACTIONS["train.start"], target=f"{__name__}:capture_start")
    monkeypatch.setitem(actions.ACTIONS, "train.start", start)
    started.clear()
    config = TrainConfig(lr=0.003, r=32, clip=0.5, eval_steps=25)
    runs.write(workspace, "20261123-1405-k3v9", runs.history(80), config=config)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await training(pilot)
        await until_text(pilot, "✓ succeeded")
        await pilot.press("N")
        await until_text(pilot, "New run, like 20261123-1405-k3v9")
        form = app.screen
        await pilot.press(*["tab"] * 10)
        assert app.focused is form.query_one("#field-lr")
        assert form.query_one("#field-clip").value == "0.5"  # type: ignore[attr-defined]  # asked since it is unusual
        form.query_one("#field-r").value = "16"  # type: ignore[attr-defined]
        form.query_one("#field-model").focus()
        await pilot.press("enter")
        await until_text(pilot, "Start this run?", seconds=20)
        await pilot.press("y")
        await until(pilot, lambda: started)
        asked = started[0]
        assert (asked.data, asked.model) == ("banking", "smollm2-135m-instruct")
        assert (asked.lr, asked.r, asked.clip, asked.eval_steps) == (0.003, 16, 0.5, 25)


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
    estimate = replace(start, name="train.estimate", target=f"{__name__}:told_estimate")
    monkeypatch.setitem(actions.ACTIONS, "train.estimate", estimate)
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
        await until_text(pilot, "Start this run?", seconds=20)
        await pilot.press("y")
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


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would differ between two pictures: the box's disk, the time zone, blocks by file system."""
    sample.put(monkeypatch, storage_usage="usage_ok")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(view, "folder_bytes", lambda folder: 9_800_000)


def two_runs(workspace: Workspace) -> None:
    """Two finished runs whose settings and results differ."""
    high = runs.history(160, level=0.9)
    runs.write(workspace, "20261123-1405-k3v9", runs.history(), config=TrainConfig(lr=0.0015))
    runs.write(workspace, "20261123-1302-m4t2", high, config=TrainConfig(lr=0.02, r=32))


async def compared(pilot: Pilot[None]) -> None:
    """Both runs marked, their curves and the table there."""
    screen = await training(pilot)
    await until(pilot, lambda: len(screen.query_one(RunTable).views) == 2)
    await pilot.press("space", "down", "space")
    await until_text(pilot, "GB free")
    await until_text(pilot, "2 runs compared")
    await until(pilot, lambda: all(not feed.behind and feed.view for feed in screen.feeds))
    await until(pilot, lambda: screen.query_one(LineChart).extent() == (1.0, 400.0))


@SIZES
@pytest.mark.usefixtures("still")
def test_picture_of_a_comparison(
    snap_compare: Any, app: HybridApp, workspace: Workspace, size: tuple[int, int]
) -> None:
    two_runs(workspace)
    assert snap_compare(app, terminal_size=size, run_before=compared)


@SIZES
@pytest.mark.usefixtures("still")
def test_picture_without_colours(
    snap_compare: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    two_runs(workspace)
    assert snap_compare(HybridApp(workspace), terminal_size=size, run_before=compared)


@SIZES
@pytest.mark.usefixtures("still")
def test_picture_of_a_zoomed_chart(
    snap_compare: Any, app: HybridApp, workspace: Workspace, size: tuple[int, int]
) -> None:
    runs.write(workspace, "20261123-1405-k3v9", runs.history())

    async def wait(pilot: Pilot[None]) -> None:
        screen = await training(pilot)
        await until_text(pilot, "GB free")
        await until_text(pilot, "● train")
        await pilot.press("l", "v", "plus", "plus", "left_square_bracket")
        await until(pilot, lambda: not screen.query_one(LineChart).following)

    assert snap_compare(app, terminal_size=size, run_before=wait)


@SIZES
@pytest.mark.usefixtures("still")
def test_picture_of_an_unfollowed_run(
    snap_compare: Any, app: HybridApp, workspace: Workspace, size: tuple[int, int]
) -> None:
    unattached(workspace)

    async def wait(pilot: Pilot[None]) -> None:
        await training(pilot)
        await until_text(pilot, "GB free")
        await until_text(pilot, "‼ Nothing here")
        await until_text(pilot, "● train")

    assert snap_compare(app, terminal_size=size, run_before=wait)


@SIZES
def test_picture_of_a_list_that_cannot_be_read(
    snap_compare: Any, app: HybridApp, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    sample.put(monkeypatch, storage_usage="usage_ok", train_list="broken")

    async def wait(pilot: Pilot[None]) -> None:
        await training(pilot)
        await until_text(pilot, "Mount it again")
        await until_text(pilot, "GB free")

    assert snap_compare(app, terminal_size=size, run_before=wait)
