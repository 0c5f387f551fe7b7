"""Cleaning up from the storage screen: real files go to the trash and come back, by keys alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from hybrid_tui.actions import ACTIONS, Action
from hybrid_tui.app import HybridApp
from services.context import Context, Progress
from services.storage.actions import ItemsParams
from services.storage.cleaning.actions import CleanParams
from services.storage.reclaim import Cleaned, Reclaimable
from services.workspace import Workspace
from tests.panel import storage_box, storage_sample
from tests.panel.helpers import screen_text, until, until_text
from widgets.clean_dialog import CleanDialog
from widgets.reclaim_list import ReclaimList

SIZE = (120, 40)
WHOLE = (".cache/pip/http-v2", ".cache/pip/wheels", ".npm/_cacache")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with caches."""
    for variable in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "home"
    storage_box.fill(folder)
    monkeypatch.setenv("HOME", str(folder))
    storage_box.install(monkeypatch.setitem)
    return folder


@pytest.fixture
async def pilot(app: HybridApp, home: Path) -> AsyncIterator[Pilot[None]]:
    """The overview of a panel over that home."""
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await pilot.pause()
        yield pilot


def sizes(pilot: Pilot[None]) -> ReclaimList:
    return pilot.app.screen.query_one(ReclaimList)


def caches(home: Path) -> dict[str, bytes]:
    """Every file of the caches and its content."""
    return {name: body for name, body in storage_box.digest(home).items() if name.startswith((".cache/pip", ".npm"))}


async def measured(pilot: Pilot[None]) -> None:
    """On the storage screen, everything measured."""
    await pilot.press("2")
    await until_text(pilot, "pip: ")
    await until_text(pilot, "nothing marked")


async def press(pilot: Pilot[None], keys: Sequence[str]) -> int:
    """Press each key as soon as what it is about is there; how many were pressed."""
    waits = {"y": lambda: len(pilot.app.screen_stack) > 1, "f": lambda: not pilot.app.screen.cleaner.at}  # type: ignore[attr-defined]
    for key in keys:
        await until(pilot, waits.get(key, lambda: True))
        await pilot.press(key)
    return len(keys)


async def test_a_bloated_box_is_clean_in_under_ten_keys(pilot: Pilot[None], home: Path) -> None:
    before = caches(home)
    keys = await press(pilot, ["2", "a", "d", "y"])
    shown = await until_text(pilot, "moved to the trash · u brings it back · f frees")
    assert "1.3 MB" in shown
    assert not caches(home)
    keys += await press(pilot, ["f"])
    await until_text(pilot, "Free now?")
    keys += await press(pilot, ["y"])
    await until_text(pilot, "freed; the disk has")
    assert keys < 10 and before
    await pilot.press("t")
    await until_text(pilot, "The trash is empty.")
    await pilot.press("H")
    shown = await until_text(pilot, "✓ purged")
    assert "→ trash" in shown


async def test_u_brings_the_last_clean_up_back_to_the_byte(pilot: Pilot[None], home: Path) -> None:
    before = caches(home)
    await press(pilot, ["2", "a", "d", "y"])
    await until_text(pilot, "moved to the trash")
    await press(pilot, ["u"])
    await until_text(pilot, "brought back")
    assert caches(home) == before
    await until_text(pilot, "nothing marked · a marks all")  # and the list shows it again


async def test_the_plan_defaults_to_no(pilot: Pilot[None], home: Path) -> None:
    before = caches(home)
    await measured(pilot)
    for answer in ("enter", "n", "escape"):
        await pilot.press("a", "d")
        await until_text(pilot, "Clean up?")
        await pilot.press(answer)
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
        await pilot.pause(0.1)
        assert caches(home) == before
    await until_text(pilot, "marked 3 items")  # a no keeps the marks


async def test_the_plan_shows_what_would_go_to_the_byte(pilot: Pilot[None], home: Path) -> None:
    await measured(pilot)
    await pilot.press("a", "d")
    shown = await until_text(pilot, "Clean up?")
    total = sum(storage_box.measure(home / name)[0] for name in WHOLE)
    assert f"{total:,} bytes" in shown
    assert "pip downloads" in shown and "http-v2" in shown


async def test_freeing_at_once_asks_a_second_time(pilot: Pilot[None], home: Path) -> None:
    before = caches(home)
    await measured(pilot)
    await pilot.press("a", "d")
    await until_text(pilot, "Clean up?")
    await pilot.press("f")
    await until_text(pilot, "This deletes for good")
    await pilot.press("n")
    await until(pilot, lambda: not pilot.app.screen.cleaner.at)  # type: ignore[attr-defined]
    assert caches(home) == before
    await pilot.press("d")
    await until_text(pilot, "Clean up?")
    await pilot.press("f")
    await until_text(pilot, "This deletes for good")
    await pilot.press("y")
    await until_text(pilot, "freed; the disk has")
    assert not caches(home)
    await pilot.press("u")
    await until_text(pilot, "The trash is empty.")


async def test_space_marks_one_item_and_only_that_goes(pilot: Pilot[None], home: Path) -> None:
    before = caches(home)
    await measured(pilot)
    await pilot.press("enter", "down")
    row = sizes(pilot).row
    assert row and row.item
    await pilot.press("space")
    await until_text(pilot, "marked 1 item")
    await press(pilot, ["d", "y"])
    await until_text(pilot, "moved to the trash")
    kept = {name: body for name, body in before.items() if not f"{home}/{name}".startswith(row.item.paths[0])}
    assert caches(home) == kept and len(kept) == 2
    await pilot.press("t")
    await until_text(pilot, "in 1 clean-up,")
    await pilot.press("enter")
    await until_text(pilot, "brought back")
    assert caches(home) == before


async def test_marks_of_a_kind_are_those_of_its_items(pilot: Pilot[None], home: Path) -> None:
    await measured(pilot)
    await pilot.press("space")
    assert [row.mark for row in sizes(pilot).rows] == ["x", " "]
    await pilot.press("home", "enter", "down", "space")
    assert sizes(pilot).rows[0].mark == "-"
    await pilot.press("x")
    assert not sizes(pilot).marked
    await pilot.press("d")
    await until_text(pilot, "Nothing is marked")


async def test_enter_on_an_item_goes_to_its_folder(pilot: Pilot[None], home: Path) -> None:
    await measured(pilot)
    await pilot.press("enter", "down", "enter")
    await until_text(pilot, "✓ complete")
    shown = screen_text(pilot.app)  # type: ignore[arg-type]
    assert "~/.cache/pip" in shown and "http-v2/" in shown


async def test_paths_marked_in_the_explorer_go_and_come_back(pilot: Pilot[None], app: HybridApp) -> None:
    for name in ("old", "keep"):
        (app.workspace.root / name).mkdir()
        (app.workspace.root / name / "file").write_bytes(b"x" * (200_000 if name == "old" else 100_000))
    await pilot.press("2", "e")
    await until_text(pilot, "✓ complete")
    await until_text(pilot, "old/")
    await pilot.press("home", "space", "d")
    await until_text(pilot, "Clean up?")
    await pilot.press("y")
    await until_text(pilot, "moved to the trash")
    assert not (app.workspace.root / "old").exists() and (app.workspace.root / "keep" / "file").exists()
    await pilot.press("u")
    await until_text(pilot, "brought back")
    assert (app.workspace.root / "old" / "file").read_bytes() == b"x" * 200_000


async def test_order_filter_and_hidden_names(pilot: Pilot[None], app: HybridApp) -> None:
    for name, size in ((".dotted", 300_000), ("beta", 200_000), ("alpha", 100_000)):
        (app.workspace.root / name).mkdir()
        (app.workspace.root / name / "file").write_bytes(b"x" * size)

    def names() -> list[str]:
        rows = pilot.app.screen.query_one("#folder-list").rows  # type: ignore[attr-defined]
        return [row.name for row in rows if row.name in ("alpha/", "beta/", ".dotted/")]

    await pilot.press("2", "e")
    await until(pilot, lambda: names() == [".dotted/", "beta/", "alpha/"])
    await pilot.press("full_stop")
    assert names() == ["beta/", "alpha/"]
    await pilot.press("o", "o", "o")
    await until_text(pilot, "by name")
    assert names() == ["alpha/", "beta/"]
    await pilot.press("slash", "b", "e")
    await until(pilot, lambda: names() == ["beta/"])
    await pilot.press("enter", "space")  # enter leaves the filter on; keys are keys again
    await until_text(pilot, "marked 1 thing")
    await pilot.press("slash", "escape")
    await until(pilot, lambda: names() == ["alpha/", "beta/"])


async def test_a_read_only_panel_says_so_and_touches_nothing(workspace: Workspace, home: Path) -> None:
    app = HybridApp(workspace, read_only=True)
    before = caches(home)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await measured(pilot)
        for key in ("d", "u", "f"):
            app.clear_notifications()
            await pilot.pause()
            await pilot.press("a", key)
            await until_text(pilot, "This is a read-only session")
    assert caches(home) == before


async def endless(ctx: Context, params: CleanParams) -> Cleaned:
    ctx.report(Progress("moving to the trash", 1, 4, "files"))
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_clean_up_shows_its_progress_and_escape_stops_it(
    pilot: Pilot[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIONS, "storage.clean", Action("storage.clean", f"{__name__}:endless", "It never ends."))
    await measured(pilot)
    await press(pilot, ["a", "d", "y"])
    await until_text(pilot, "… cleaning ━━━───────── 25 % · esc stops · moving to the trash · 1 of 4 files")
    await pilot.press("d")
    await until_text(pilot, "Still cleaning; esc stops it.")
    await pilot.press("1", "2")  # going elsewhere does not stop it
    await until_text(pilot, "esc stops")
    await pilot.press("escape")
    await until_text(pilot, "The clean-up was stopped")
    assert not pilot.app.screen.cleaner.at  # type: ignore[attr-defined]


async def test_marking_all_that_is_safe_while_measuring_takes_in_what_comes(
    app: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage_sample.install(monkeypatch.setitem, items=slow_items)
    go.clear()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2", "a", "d")
        await until_text(pilot, "… measuring, 2 of 5 kinds; the plan follows")
        assert "python (4711)" in screen_text(app)
        go.set()
        await until(pilot, lambda: isinstance(app.screen, CleanDialog))
        await pilot.press("n")
        await until_text(pilot, "marked 6 items · 10.7 GB, of which 9.1 GB would be freed")


go = asyncio.Event()


async def slow_items(ctx: Context, params: ItemsParams) -> Reclaimable:
    ctx.report(Progress("kinds", partial=storage_sample.reclaimable(2)))
    await go.wait()
    return storage_sample.reclaimable()


async def test_a_long_list_is_quick_and_keeps_its_cursor(pilot: Pilot[None]) -> None:
    await measured(pilot)
    many = storage_sample.kind_items("pip")
    items = tuple(storage_sample.item("pip", f"part-{i:05}", 10**6 + i, 1.0) for i in range(20_000))
    kind = msgspec.structs.replace(many, items=items)
    found = Reclaimable((kind,), 0, 0, True)
    lines = sizes(pilot)
    lines.unfolded = frozenset({"pip"})
    lines.show(found, storage_sample.NOW)
    lines.action_move(15_000)
    await pilot.pause()
    assert lines.row and lines.row.item
    chosen = lines.row.key
    loop = asyncio.get_running_loop()
    started = loop.time()
    lines.show(Reclaimable((msgspec.structs.replace(kind, items=items[100:]),), 0, 0, True),
               storage_sample.NOW)  # fmt: skip
    await pilot.pause()
    assert loop.time() - started < 1.0
    assert lines.row and lines.row.key == chosen


async def test_a_missing_action_is_said_in_one_line(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_sample.install(monkeypatch.setitem)
    monkeypatch.delitem(ACTIONS, "storage.trash")
    monkeypatch.delitem(ACTIONS, "packages.why")
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await pilot.press("2", "t")
        await until_text(pilot, "This installation has no action storage.trash")
        await pilot.press("p")
        await until_text(pilot, "/workspace/.venv")
        await pilot.press("enter", "down", "w")
        await until_text(pilot, "This installation has no action packages.why.")


async def test_the_palette_goes_to_the_view_of_a_key(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_sample.install(monkeypatch.setitem)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2")
        await until_text(pilot, "nothing marked")
        await app.screen.run_action("do('types')")
        await until_text(pilot, ".safetensors")


async def test_packages_unfold_and_say_who_needs_them(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_sample.install(monkeypatch.setitem)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2", "p")
        await until_text(pilot, "This box has no NVIDIA GPU")
        await pilot.press("enter")
        await until_text(pilot, "nvidia-cublas-cu13")
        await pilot.press("down")
        await until_text(pilot, "swap for torch==2.13.0+cpu")
        await pilot.press("w")
        await until_text(pilot, "peft and accelerate need torch.")
