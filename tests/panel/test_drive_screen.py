"""The Drive screen over a real store and a real worker, worked by keys; and pictures of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.sign_in import SignInDialog
from hybrid_tui.transfers.queue import QueueView
from services import settings
from services import workspace as workspaces
from services.context import Context
from services.settings import Settings
from services.transfers.actions import PushParams, push
from services.transfers.queue_actions import TransfersParams, transfers
from services.transfers.view import read
from services.workspace import Workspace
from tests.panel import drive_sample as sample
from tests.panel.helpers import screen_text, until, until_text
from tests.transfers.beds import plant, slow_tree, tree_of, worker_of
from widgets.dialogs import Confirm, Message
from widgets.drive_list import DriveList
from widgets.form import FormDialog

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with room, in the place of the panel's usual one."""
    root = tmp_path / "work"
    root.mkdir()
    (root / "hybrid.toml").write_text("[disk]\nbudget_gb = 1000000.0\nmin_free_gb = 0.0\n")
    yield workspaces.init(root)
    if (worker := worker_of(root)) is not None:
        with contextlib.suppress(Exception):
            worker.kill()


async def _open(pilot: Pilot[None], text: str) -> str:
    await pilot.press("6")
    return await until_text(pilot, text)


async def _states(ctx: Context) -> list[str]:
    return [t.state for t in (await transfers(ctx, TransfersParams())).transfers]


async def test_signing_in_from_the_palette_has_its_own_dialog(app: HybridApp) -> None:
    async with app.run_test() as pilot:
        await pilot.press("colon", *"drive.login")
        await until_text(pilot, "Sign in to Google Drive")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, SignInDialog))
        assert "There is no OAuth client at" in await until_text(pilot, "There is no OAuth client at")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.name == "overview")


async def test_an_empty_store_says_what_to_do(app: HybridApp) -> None:
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await _open(pilot, "Nothing is in the store yet.")
        assert "plain folder, not Google Drive" in shown and "p pushes a local folder" in shown
        for key in ("enter", "backspace", "g", "v", "d"):
            await pilot.press(key)
        await pilot.press("t")
        assert "p pushes a local folder and g fetches one" in await until_text(pilot, "Nothing is on its way.")
        for key in ("enter", "space", "c", "plus", "minus"):
            await pilot.press(key)
        await pilot.press("x")
        await until_text(pilot, "None is over.")
    assert not app.crashed


async def test_browsing_keeps_its_place_and_shows_names_literally(app: HybridApp, workspace: Workspace) -> None:
    plant(workspace.store_path, {"models/[v1]/w.bin": b"x" * 1500, "models/b/x": b"", "models/\x1b[31m/x": b""})
    async with app.run_test(size=(80, 24)) as pilot:
        await _open(pilot, "models/")
        await pilot.press("enter")
        shown = await until_text(pilot, "[v1]/")
        assert "\\x1b[31m/" in shown and "3 folders" in shown
        await pilot.press("slash", *"v1", "enter")
        await until(pilot, lambda: len(app.screen.query_one(DriveList).rows) == 1)
        await pilot.press("enter")
        assert "1.5 kB" in await until_text(pilot, "w.bin")
        await pilot.press("backspace")
        await until_text(pilot, "3 folders")
        assert app.screen.query_one(DriveList).row.entry.name == "[v1]"
        await pilot.press("backspace", "backspace")
        await until_text(pilot, "root of the store")


async def test_push_by_form_plan_and_queue_then_pull(app: HybridApp, workspace: Workspace, ctx: Context) -> None:
    tree = {"w.bin": os.urandom(200_000), "sub/[b]x": b"x"}
    plant(workspace.root / "out", tree)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await _open(pilot, "Nothing is in the store yet.")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press(*"out", "tab", *"models/m", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        shown = screen_text(app)
        assert "2 new, 0 changed" in shown and "+ sub/[b]x  1 B" in shown and "writes 200.0 kB" in shown
        await pilot.press("y")
        await until_text(pilot, "push of models/m: done.")
        await until_text(pilot, "models/")  # the new folder is shown
        assert tree_of(workspace.store_path / "models/m") == tree
        await pilot.press("f", "enter")
        await until_text(pilot, "m/")
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press("tab", *"back", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until_text(pilot, "pull of models/m: done.")
        assert tree_of(workspace.root / "back") == tree
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press("tab", *"back", "enter")
        await until(pilot, lambda: isinstance(app.screen, Message))
        assert "Both sides are the same: 2 files" in screen_text(app)
    assert await _states(ctx) == ["done", "done"]


async def test_no_is_no(app: HybridApp, workspace: Workspace, ctx: Context) -> None:
    plant(workspace.root / "out", {"w.bin": b"w"})
    plant(workspace.store_path, {"models/x": b"x"})
    async with app.run_test(size=(80, 24)) as pilot:
        await _open(pilot, "models/")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press(*"out", "tab", *"models/m", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("enter")  # the focus is on No
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "models with 1 file" in screen_text(app)
        await pilot.press("n")
    assert await _states(ctx) == [] and (workspace.store_path / "models/x").exists()


async def test_trash_after_a_yes(app: HybridApp, workspace: Workspace) -> None:
    plant(workspace.store_path, {"notes/x": b"x", "models/y": b"y"})
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await _open(pilot, "notes/")
        await pilot.press("down", "d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until_text(pilot, "notes is in the store's trash")
        await until(pilot, lambda: len(app.screen.query_one(DriveList).rows) == 1)
    assert not (workspace.store_path / "notes").exists()
    assert list(tree_of(workspace.store_path / ".trash").values()) == [b"x"]


async def caught_at_work(pilot: Pilot[None], workspace: Workspace, had: int = 0) -> psutil.Process:
    """The worker, stopped as soon as it has begun: however fast the disk is, it does not end before it is looked at."""
    for _ in range(5000):
        if worker := worker_of(workspace.root):
            worker.suspend()
            seen = [read(workspace, folder) for folder in workspace.state.glob("transfers/*/")]
            if all(s.state == "running" and s.done_bytes > had for s in seen):
                return worker
            worker.resume()
        await pilot.pause(0.002)
    raise AssertionError("the worker was never at work")


async def test_steering_a_transfer_that_outlives_the_panel(app: HybridApp, workspace: Workspace, ctx: Context) -> None:
    tree = slow_tree(files=1400)
    plant(workspace.root / "out", tree)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("6")
        await until_text(pilot, "Nothing is in the store yet.")
        await push(ctx, PushParams("out", "models/m", background=True))
        worker = await caught_at_work(pilot, workspace)
        await pilot.press("t")
        await until_text(pilot, "▶ running")
        await pilot.press("space")
        await until(pilot, lambda: any(workspace.state.glob("transfers/*/control/pause")))
        worker.resume()
        await until_text(pilot, "◫ paused")
    (worker := worker_of(workspace.root)) and worker.wait(5)  # nothing is left to do
    again = HybridApp(workspaces.open_workspace(workspace.root))
    async with again.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("6")
        await until_text(pilot, "models/")
        await pilot.press("t")
        await until_text(pilot, "◫ paused")
        await pilot.press("space")
        worker = await caught_at_work(pilot, workspace)
        await until_text(pilot, "▶ running")
        worker.kill()
        await until_text(pilot, "? interrupted")
        await pilot.press("space")
        await until_text(pilot, "✓ done", seconds=20)
        assert tree_of(workspace.store_path / "models/m") == tree
        await pilot.press("x")
        await until_text(pilot, "Nothing is on its way.")
    assert not (app.crashed or again.crashed)


async def test_a_push_in_another_terminal_is_seen_and_cancelled(app: HybridApp, workspace: Workspace) -> None:
    """It can't be paused, which is said; ended, it is gone on with by the worker."""
    plant(workspace.root / "out", slow_tree(files=3000))
    words = ["--workspace", str(workspace.root), "--run", "drive.push", f"path={workspace.root / 'out'}", "to=models/m"]
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await _open(pilot, "Nothing is in the store yet.")
        await pilot.press("t")
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hybrid_tui", *words,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await until_text(pilot, "↑ models/m (foreground)", seconds=20)
        await until_text(pilot, "the command that asked for it moves it")
        await pilot.press("space")
        await until_text(pilot, "can't be paused")
        await pilot.press("c")
        await until_text(pilot, "■ cancelled")
        _, said = await command.communicate()
        assert command.returncode == 1 and b"was cancelled from the queue" in said
        await pilot.press("space")
        await until_text(pilot, "▶ running")
        assert "(foreground)" not in screen_text(app)
    assert not app.crashed


async def test_the_queue_is_not_looked_at_from_another_screen(
    app: HybridApp, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(QueueView, "reload", lambda self: looks.append(time.monotonic()))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("6")
        await until(pilot, lambda: len(looks) >= 2)
        await pilot.press("7")
        await pilot.pause(0.1)
        count = len(looks)
        await pilot.pause(1.2)
        assert len(looks) == count


async def test_without_a_sign_in_drive_says_the_next_step(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    toml = workspace.root / "hybrid.toml"
    toml.write_text(f'{toml.read_text()}[store]\nkind = "drive"\n[drive]\nclient = "{tmp_path}/client.json"\n')
    app = HybridApp(workspaces.open_workspace(workspace.root))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await _open(pilot, "✗ There is no OAuth client")
        assert "docs/drive-setup.md" in shown and "L Sign in" in await until_text(pilot, "L Sign in")
        await pilot.press("L")
        await until_text(pilot, "Sign in to Google Drive")
        await pilot.press("escape", "p")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press(*"out", "tab", *"models/m", "enter")  # there is no such folder
        assert "There is no folder out" in await until_text(pilot, "Nothing was moved")
    assert not app.crashed


async def test_keys_follow_the_focus(app: HybridApp, workspace: Workspace) -> None:
    plant(workspace.store_path, {"models/x": b"x"})
    async with app.run_test(size=(120, 40)) as pilot:
        shown = await _open(pilot, "models/")
        await until_text(pilot, "p Push")
        assert "Sooner" not in screen_text(app)
        await pilot.press("t")
        shown = await until_text(pilot, "+ Sooner")
        assert "p Push" not in shown and "models/" in shown  # both halves stay in sight


async def test_a_version_is_fetched_from_the_registry(app: HybridApp, workspace: Workspace, ctx: Context) -> None:
    from services.registry.actions import AddParams, add

    plant(workspace.root / "a", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"})
    await add(ctx, AddParams(model="banking", path=str(workspace.root / "a")))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("3")
        await until_text(pilot, "banking@1")
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until_text(pilot, "pull of banking@1: done.")
    assert (workspace.models / "banking-v1/manifest.json").exists()


# Pictures

PICTURES: dict[str, tuple[list[str], str, dict[str, Callable[..., Any]]]] = {
    "files": ([], "can't be fetched", {}),
    "files-empty": ([], "Nothing is in the store yet.", {"drive_list": sample.level_empty}),
    "files-loading": ([], "Reading the store…", {"drive_list": sample.level_waiting}),
    "files-error": ([], "Mount the disk.", {"drive_list": sample.level_failing, "store_status": sample.store_failing}),
    "transfers": (["t"], "goes on without the panel", {}),
    "transfers-failed": (["t", "down", "down", "down"], "its disk has", {}),
    "transfers-interrupted": (["t"], "? interrupted", {"drive_transfers": sample.queue_dead}),
    "transfers-empty": (["t"], "Nothing is on its way.", {"drive_transfers": sample.queue_empty}),
    "push-form": (["p"], "Compare", {}),
    "push-plan": (["p", *"out", "tab", *"m/x", "enter"], "in the background?", {}),
}


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are drawn in local time."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _panel(kind: str = "folder") -> HybridApp:
    chosen = settings.Store(kind=kind)  # type: ignore[arg-type]
    app = HybridApp(Workspace(Path("/nowhere/workspace"), Settings(store=chosen)))
    app.clock = lambda: sample.NOW
    return app


def _wait(keys: list[str], ready: str) -> Callable[[Pilot[None]], Any]:
    async def run(pilot: Pilot[None]) -> None:
        await until_text(pilot, "22.9 GB free")
        await pilot.press("6")
        await until_text(pilot, "Store")
        await _still(pilot)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.02)
        await until_text(pilot, ready)
        await _still(pilot)

    return run


async def _still(pilot: Pilot[None]) -> None:
    """Wait until nothing has changed for a while: all answers are drawn."""
    last, since = "", 0
    for _ in range(200):
        now = screen_text(pilot.app)
        last, since = now, since + 1 if now == last else 0
        if since >= 8:
            return
        await pilot.pause(0.05)


SIZES = {"80x24": (80, 24), "120x40": (120, 40)}
TAKEN = [(name, "80x24") for name in PICTURES] + [(name, "120x40") for name in ("files", "transfers", "push-plan")]


@pytest.mark.parametrize(("name", "size"), TAKEN)
def test_picture(utc: None, snap_compare: Any, monkeypatch: pytest.MonkeyPatch, name: str, size: str) -> None:
    keys, ready, others = PICTURES[name]
    sample.install(monkeypatch.setitem, **others)
    assert snap_compare(_panel(), terminal_size=SIZES[size], run_before=_wait(keys, ready))


def test_picture_of_an_account(utc: None, snap_compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.install(monkeypatch.setitem)
    assert snap_compare(_panel("drive"), terminal_size=(120, 40), run_before=_wait(["t"], "11.2 GB of 15.0 GB used"))


def test_picture_without_colour(utc: None, snap_compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sample.install(monkeypatch.setitem)
    assert snap_compare(_panel(), terminal_size=(80, 24), run_before=_wait(["t"], "goes on without the panel"))
