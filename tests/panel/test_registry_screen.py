"""The registry's screen over a real registry, worked by keys; and pictures of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hybrid_tui import actions
from hybrid_tui.app import HybridApp
from services.context import Context
from services.errors import StoreUnreachable
from services.registry.actions import (
    AddParams,
    HistoryParams,
    ListParams,
    PromoteParams,
    add,
    history,
    list_versions,
    promote,
)
from services.registry.types import History, HistoryEntry, Listing, Model
from tests.panel import sample
from tests.panel.helpers import until, until_text
from widgets.dialogs import Confirm, Message
from widgets.promote_dialog import PromoteDialog
from widgets.version_table import VersionTable


def _adapter(folder: Path, accuracy: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    about = {"base_model": "smollm2-135m-instruct", "metrics": {"accuracy": accuracy, "macro_f1": accuracy - 0.01}}
    (folder / "metadata.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
async def filled(ctx: Context, tmp_path: Path) -> Context:
    """banking@1 deployed, banking@2 with a note that looks like markup."""
    for n, accuracy in enumerate([0.812, 0.858]):
        folder = _adapter(tmp_path / f"a{n}", accuracy)
        await add(ctx, AddParams(model="banking", path=str(folder), note=f"[v{n}] try"))
    await promote(ctx, PromoteParams(model="banking", version="1"))
    return ctx


async def _deployed(ctx: Context) -> int:
    return (await list_versions(ctx, ListParams())).models[0].aliases["deployed"]


async def _open(pilot: Pilot[None], text: str = "banking@2") -> str:
    await pilot.press("3")
    return await until_text(pilot, text)


async def test_empty_says_how_to_get_a_first_version(app: HybridApp) -> None:
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await _open(pilot, "No model is registered yet.")
        assert "plain folder, not Google Drive" in shown
        assert "registry.add model=NAME path=DIR" in shown
        for key in ("p", "b", "t", "enter", "h", "h"):
            await pilot.press(key)
        await until_text(pilot, "There is no version to")
    assert not app.crashed


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_filled_shows_versions_and_the_one_under_the_cursor(
    app: HybridApp, filled: Context, size: tuple[int, int]
) -> None:
    async with app.run_test(size=size, notifications=True) as pilot:
        shown = await _open(pilot, "+4.6 points vs banking@1")
        assert "plain folder, not Google Drive" in shown
        assert "● deployed" in shown and "○ registered" in shown
        assert "85.8 %" in shown and "81.2 %" in shown
        await pilot.press("down")
        shown = await until_text(pilot, "─ banking@1 ─")
        assert "vs banking" not in shown
        await pilot.press("enter")
        shown = await until_text(pilot, "record ")
        assert "[v0] try" in shown
        assert isinstance(app.screen, Message)


async def test_history_is_told_and_left_again(app: HybridApp, filled: Context) -> None:
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        assert "moved banking@deployed" not in await _open(pilot)
        await pilot.press("h")
        shown = await until_text(pilot, "moved banking@deployed to 1")
        assert "added banking@2 “[v1] try”" in shown
        await pilot.press("h")
        await until_text(pilot, "aliases ")
        assert isinstance(app.screen.focused, VersionTable)


async def test_promote_by_keys_moves_the_alias(app: HybridApp, filled: Context) -> None:
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await _open(pilot)
        await pilot.press("p")
        shown = await until_text(pilot, "banking@deployed moves from 1 to 2.")
        assert "accuracy: 81.2 % → 85.8 % (+4.6 points)" in shown
        await pilot.press("tab", *"better", "enter")
        await until_text(pilot, "banking@deployed points to 2 now.")
        await until(pilot, lambda: app.screen.query_one(VersionTable).versions[0].status == "deployed")
    assert await _deployed(filled) == 2
    assert (await history(filled, HistoryParams())).entries[0].note == "better"


async def test_promote_to_an_alias_of_ones_own_and_bad_ones_are_explained(app: HybridApp, filled: Context) -> None:
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await _open(pilot)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, PromoteDialog))
        for word, told in [("latest", "can't be moved"), ("v2", "can't be an alias"), ("", "can't be an alias")]:
            app.screen.query_one("#alias", Input).value = word
            await until_text(pilot, told)
            await pilot.press("enter")
            assert isinstance(app.screen, PromoteDialog)
        app.screen.query_one("#alias", Input).value = "shadow"
        await until_text(pilot, "banking@shadow points nowhere yet and goes to 2.")
        await pilot.press("enter")
        await until_text(pilot, "banking@shadow points to 2 now.")
    assert (await list_versions(filled, ListParams())).models[0].aliases == {"latest": 2, "deployed": 1, "shadow": 2}


async def test_a_promotion_lost_to_somebody_else_is_told(app: HybridApp, filled: Context, tmp_path: Path) -> None:
    await add(filled, AddParams(model="banking", path=str(_adapter(tmp_path / "third", 0.9))))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await _open(pilot, "banking@3")
        await pilot.press("p")
        await until_text(pilot, "moves from 1 to 3")
        await promote(filled, PromoteParams(model="banking", version="2"))  # another shell, while the dialog is open
        await pilot.press("enter")
        shown = await until_text(pilot, "Nothing was moved")
        assert "banking@deployed was moved to 2 by" in shown
    assert await _deployed(filled) == 2


async def test_rollback_asks_defaults_to_no_and_goes_back(app: HybridApp, filled: Context) -> None:
    await promote(filled, PromoteParams(model="banking", version="2"))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await _open(pilot)
        await pilot.press("b")
        await until_text(pilot, "banking@deployed moves from 2 to 1.")
        await pilot.press("enter")  # No has the focus
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        assert await _deployed(filled) == 2
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until_text(pilot, "banking@deployed points to 1 now.")
        assert await _deployed(filled) == 1
        await pilot.press("b")
        await until_text(pilot, "no earlier version")


async def test_add_by_keys(app: HybridApp, filled: Context, tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "new", 0.9)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await _open(pilot)
        await pilot.press("a")
        await until(pilot, lambda: app.screen.query("#field-path"))
        app.screen.query_one("#field-path", Input).value = str(folder)
        await pilot.press("enter")
        await until_text(pilot, "✓ Done.")
        await pilot.press("escape")
        await until_text(pilot, "banking@3")


async def test_what_another_shell_writes_appears(app: HybridApp, filled: Context, tmp_path: Path) -> None:
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await _open(pilot)
        await add(filled, AddParams(model="banking", path=str(_adapter(tmp_path / "x", 0.5))))
        await pilot.press("r")
        await until_text(pilot, "banking@3")
        assert app.screen.query_one(VersionTable).chosen.id == "banking@2"  # type: ignore[union-attr]


async def test_damage_and_hand_edits_are_said_on_top(app: HybridApp, filled: Context) -> None:
    (filled.workspace.store_path / "docs/model_registry.json").write_text("{}")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await _open(pilot, "was edited by hand")
        assert "banking@2" in shown


async def test_an_unreachable_store_is_an_error_with_a_next_step(app: HybridApp, filled: Context) -> None:
    store = filled.workspace.store_path
    store.rename(store.with_name("kept"))
    store.write_text("in the way")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await _open(pilot, "✗ The store can't be reached")
        assert "[store] path" in shown
        store.unlink()
        store.with_name("kept").rename(store)
        await pilot.press("r")
        await until_text(pilot, "banking@2")


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown as in UTC, on every machine."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


async def listing_for_picture(ctx: Context, params: ListParams) -> Listing:
    """Three versions of one model."""
    versions = tuple(
        replace_path(sample.version(n, aliases, accuracy))
        for n, aliases, accuracy in [(3, ("latest", "candidate"), 0.871), (2, ("deployed",), 0.858), (1, (), 0.812)]
    )
    model = Model("banking", 3, {"latest": 3, "candidate": 3, "deployed": 2}, 29_400_000)
    return Listing((model,), versions, 6, "plain folder, not Google Drive: .hybrid/drive/Banking LLM")


def replace_path(version: Any) -> Any:
    """The version as the registry would give it."""
    import msgspec

    return msgspec.structs.replace(
        version, path=f".hybrid/drive/Banking LLM/models/finetuned/banking-v{version.version}", files=6,
        by="ann@codespace/4711", note="[rank 16] all linear layers",
        status="candidate" if "candidate" in version.aliases else version.status,
    )  # fmt: skip


async def history_for_picture(ctx: Context, params: HistoryParams) -> History:
    """A move, one without effect, and an addition."""
    who = "ann@codespace/4711"
    moved = HistoryEntry(5, "a", sample.NOW - 7200, who, "moved banking@deployed from 1 to 2", "banking", 2, "deployed")
    lost = HistoryEntry(4, "b", sample.NOW - 7300, "ben@box/9", "moved banking@deployed from 2 to 3", "banking", 3,
                        "deployed", "", False, "banking@deployed was moved to 1 by ann@codespace/4711")  # fmt: skip
    added = HistoryEntry(3, "c", sample.NOW - 9000, who, "added banking@3", "banking", 3, note="[rank 16]")
    return History((moved, lost, added), 3)


async def listing_none(ctx: Context, params: ListParams) -> Listing:
    """Nothing registered."""
    return Listing((), (), 0, "plain folder, not Google Drive: .hybrid/drive/Banking LLM")


async def listing_unreachable(ctx: Context, params: ListParams) -> Listing:
    """The disk is not mounted."""
    raise StoreUnreachable("The store can't be reached: /mnt/models does not exist.", hint="Mount the disk.")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize(
    ("listing", "ready"),
    [
        ("listing_none", "No model is registered yet."),
        ("listing_for_picture", "+1.3 points vs banking@2"),
        ("listing_unreachable", "can't be reached"),
    ],
    ids=["empty", "filled", "error"],
)
@pytest.mark.usefixtures("utc")
def test_picture(
    snap_compare: Any,
    app: HybridApp,
    monkeypatch: pytest.MonkeyPatch,
    listing: str,
    ready: str,
    size: tuple[int, int],
) -> None:
    app.clock = lambda: sample.NOW
    sample.put(monkeypatch, storage_usage="usage_ok")
    for name, function in {"registry.list": listing, "registry.history": "history_for_picture"}.items():
        target = f"{__name__}:{function}"
        monkeypatch.setitem(actions.ACTIONS, name, replace(actions.ACTIONS[name], target=target))

    async def wait(pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until_text(pilot, ready)
        await until_text(pilot, "GB free")
        await pilot.pause(0.3)

    assert snap_compare(app, terminal_size=size, run_before=wait)
