"""The storage screen's explorer on real folders."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.storage.explore import ExploreView
from tests.panel import storage_box
from tests.panel.helpers import screen_text, until, until_text
from widgets.size_list import SizeList, shortened, visible


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a pip cache."""
    for variable in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "home"
    cache = folder / ".cache" / "pip"
    cache.mkdir(parents=True)
    (cache / "wheel").write_bytes(b"x" * 700_000)
    monkeypatch.setenv("HOME", str(folder))
    storage_box.install(monkeypatch.setitem)
    return folder


@pytest.fixture
def filled(app: HybridApp, home: Path) -> HybridApp:
    """The panel on a workspace with a large folder, a small one and a file."""
    root = app.workspace.root
    (root / "models" / "base").mkdir(parents=True)
    (root / "models" / "base" / "weights").write_bytes(b"x" * 2_000_000)
    (root / "notes [v1]").mkdir()
    (root / "notes [v1]" / "text").write_bytes(b"x" * 300_000)
    (root / "data.csv").write_bytes(b"x" * 100_000)
    return app


@pytest.fixture
async def pilot(filled: HybridApp) -> AsyncIterator[Pilot[None]]:
    """The storage screen of ``filled``, its first scan done."""
    async with filled.run_test(size=(120, 40)) as pilot:
        await pilot.press("2", "e")
        await until_text(pilot, "✓ complete")
        yield pilot


def folders(pilot: Pilot[None]) -> SizeList:
    return pilot.app.screen.query_one("#folder-list", SizeList)


def explorer(pilot: Pilot[None]) -> ExploreView:
    return pilot.app.screen.query_one(ExploreView)


def names(pilot: Pilot[None]) -> list[str]:
    return [row.name for row in folders(pilot).rows]


async def test_the_workspace_is_listed_largest_first(pilot: Pilot[None]) -> None:
    assert names(pilot)[:3] == ["models/", "notes [v1]/", "data.csv"]
    shown = screen_text(pilot.app)  # type: ignore[arg-type]
    assert "2.0 MB" in shown and "notes [v1]/" in shown and "0 unreadable" in shown
    disk = shutil.disk_usage(pilot.app.workspace.root)  # type: ignore[attr-defined]
    assert f"Disk of {disk.total / 1e9:.1f} GB" in shown


async def test_enter_opens_a_folder_and_backspace_returns_to_where_one_was(pilot: Pilot[None]) -> None:
    await pilot.press("down", "enter")
    await until(pilot, lambda: names(pilot)[:1] == ["text"])
    await pilot.press("backspace")
    await until(pilot, lambda: "models/" in names(pilot))
    assert folders(pilot).row and folders(pilot).row.name == "notes [v1]/"
    await pilot.press("up", "enter", "enter")  # a folder further at each enter, as soon as it is listed
    await until(pilot, lambda: names(pilot)[:1] in (["base/"], ["weights"]))


async def test_going_up_shows_what_was_read_before_at_once(pilot: Pilot[None]) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: names(pilot)[:1] == ["base/"])
    shutil.rmtree(pilot.app.workspace.root / "notes [v1]")  # type: ignore[attr-defined]
    await pilot.press("backspace")
    await until(pilot, lambda: "notes [v1]/" in names(pilot))
    await pilot.press("r")
    await until(pilot, lambda: "models/" in names(pilot) and "notes [v1]/" not in names(pilot))


async def test_files_can_not_be_opened(pilot: Pilot[None]) -> None:
    before = names(pilot)
    await pilot.press("down", "down", "enter")
    await pilot.pause(0.1)
    assert names(pilot) == before


async def test_h_turns_to_home_and_back(pilot: Pilot[None]) -> None:
    await pilot.press("h")
    await until(pilot, lambda: names(pilot)[:1] == [".cache/"])
    await pilot.press("h")
    await until(pilot, lambda: names(pilot)[:1] == ["models/"])


async def test_a_click_chooses_and_a_second_one_opens(pilot: Pilot[None]) -> None:
    await pilot.click("#folder-list", offset=(20, 2))
    await until(pilot, lambda: folders(pilot).row and folders(pilot).row.name == "notes [v1]/")
    await pilot.click("#folder-list", offset=(20, 2), times=2)
    await until(pilot, lambda: names(pilot)[:1] == ["text"])


async def test_l_lists_the_largest_folders_at_any_depth(pilot: Pilot[None]) -> None:
    await pilot.press("l")
    await until(pilot, lambda: names(pilot)[:2] == ["models/base/", "notes [v1]/"])
    await until_text(pilot, "Largest below")
    await pilot.press("enter")
    await until(pilot, lambda: names(pilot)[:1] == ["weights"])


async def test_an_empty_folder_says_so(filled: HybridApp) -> None:
    (filled.workspace.root / "empty").mkdir()
    async with filled.run_test() as pilot:
        await pilot.press("2", "e")
        await until_text(pilot, "✓ complete")
        await pilot.press("end", "up", "enter")
        row = next(row for row in folders(pilot).rows if row.name == "empty/")
        explorer(pilot).go(row.key)
        await until_text(pilot, "This folder is empty.")
        await pilot.press("backspace")
        await until(pilot, lambda: "models/" in names(pilot))


async def test_a_folder_that_is_gone_is_an_error_and_the_way_up_stays_open(pilot: Pilot[None]) -> None:
    root = pilot.app.workspace.root  # type: ignore[attr-defined]
    shutil.rmtree(root / "models")
    await pilot.press("enter")
    await until_text(pilot, "✗ There is no folder")
    await pilot.press("backspace")
    await until(pilot, lambda: "models/" in names(pilot))


async def test_escape_stops_a_scan_and_keeps_what_it_found(pilot: Pilot[None]) -> None:
    explorer(pilot).go("/")
    await until(pilot, lambda: folders(pilot).rows and folders(pilot).rows[0].key.count("/") == 1)
    assert "… scanning" in screen_text(pilot.app)  # type: ignore[arg-type]
    await pilot.press("escape")
    shown = await until_text(pilot, "▲ partial: stopped")
    assert " files" in shown and folders(pilot).rows
    before = folders(pilot).rows
    await pilot.pause(0.3)
    assert folders(pilot).rows == before
    await pilot.press("r")
    await until_text(pilot, "… scanning")
    await pilot.press("escape")


async def test_a_scan_stops_on_leaving_the_screen_and_goes_on_when_back(pilot: Pilot[None]) -> None:
    screen = pilot.app.screen
    explorer(pilot).go("/")
    await until_text(pilot, "… scanning")
    await pilot.press("6")
    await until(pilot, lambda: not any(w.name == "storage.explore" and w.is_running for w in screen.workers))
    await pilot.press("2")
    await until_text(pilot, "… scanning")
    await pilot.press("question_mark")  # a dialog over it does not stop it
    await until(pilot, lambda: pilot.app.screen is not screen)
    running = any(w.name == "storage.explore" and w.is_running for w in screen.workers)
    read = screen.query_one(ExploreView)._read
    assert running or (read and read.complete)


async def test_quitting_in_the_middle_of_a_scan_is_quick(filled: HybridApp, capfd: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    async with filled.run_test() as pilot:
        await pilot.press("2", "e")
        await until_text(pilot, "✓ complete")
        explorer(pilot).go("/")
        await until_text(pilot, "… scanning")
        started = loop.time()
    await loop.shutdown_default_executor()
    assert loop.time() - started < 3
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_odd_names_are_shown_on_one_line_and_can_be_opened(app: HybridApp, home: Path) -> None:
    odd = app.workspace.root / os.fsdecode(b"\xff\x1b[31m\n[bold]")
    odd.mkdir()
    (odd / "inside").write_bytes(b"x" * 50_000)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2", "e")
        await until_text(pilot, "\\xff\\x1b[31m\\n[bold]/")
        await pilot.press("enter")
        await until(pilot, lambda: names(pilot)[:1] == ["inside"])


async def test_a_list_that_is_replaced_keeps_the_row_a_person_chose(pilot: Pilot[None]) -> None:
    await pilot.press("down")
    root = pilot.app.workspace.root  # type: ignore[attr-defined]
    (root / "notes [v1]" / "more").write_bytes(b"x" * 9_000_000)
    await pilot.press("r")
    await until(pilot, lambda: names(pilot)[:1] == ["notes [v1]/"])
    assert folders(pilot).row and folders(pilot).row.name == "notes [v1]/"


async def test_a_long_list_scrolls_with_the_cursor(app: HybridApp, home: Path) -> None:
    for index in range(100):
        (app.workspace.root / f"folder{index:03}").mkdir()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2", "e")
        await until_text(pilot, "✓ complete")
        await pilot.press("end")
        await until_text(pilot, "(the rest)")
        await pilot.press("home")
        await until_text(pilot, folders(pilot).rows[0].name)
        await pilot.press("pagedown", "pagedown")
        await until_text(pilot, folders(pilot).rows[folders(pilot).cursor].name[:8])


def test_long_names_keep_their_end_and_their_width() -> None:
    assert shortened("short", 10) == "short"
    assert shortened("a/very/long/path/to/model.safetensors", 20).endswith("safetensors")
    assert len(shortened("a/very/long/path/to/model.safetensors", 20)) == 20
    assert shortened("数据数据数据", 7) == "数据数…"
    assert shortened("anything", 0) == ""
    assert visible("a\tb\x1b") == "a\\tb\\x1b"
