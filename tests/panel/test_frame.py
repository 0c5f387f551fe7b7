"""The panel's frame: screens, palette, help, keys, size, quitting, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_tui import keymap
from hybrid_tui.app import HybridApp
from hybrid_tui.screens import PLACES
from services import workspace as workspaces
from services.workspace import MARK
from tests.panel import sample
from tests.panel.helpers import screen_text, until, until_text
from widgets.dialogs import Confirm, Message
from widgets.form import FormDialog
from widgets.run_dialog import RunDialog
from widgets.too_small import TooSmall


def panel_with(root: Path, settings: str) -> HybridApp:
    (root / MARK).write_text(settings, encoding="utf-8")
    return HybridApp(workspaces.open_workspace(root))


async def test_number_keys_go_to_every_screen(app: HybridApp) -> None:
    async with app.run_test(size=(100, 30)) as pilot:
        for place in PLACES[::-1]:
            await pilot.press(place.key)
            await until(pilot, lambda place=place: app.current_mode == place.name and app.screen.name == place.name)
            assert place.title in await until_text(pilot, place.title)
        assert app.return_code is None


async def test_header_names_workspace_store_and_disk(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, storage_usage="usage_over")
    async with app.run_test() as pilot:
        shown = await until_text(pilot, "over budget")
        first = shown.splitlines()[0]
        assert app.workspace.root.name in first
        assert "plain folder" in first
        assert "2.6 GB free" in first


async def test_palette_runs_an_action_with_its_form(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, test_echo="echo")
    async with app.run_test() as pilot:
        await pilot.press("colon", *"test")
        await until_text(pilot, "test.echo")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        assert "How often." in screen_text(app)
        await pilot.press("enter")
        await until_text(pilot, "needs text=")
        await pilot.press(*"[red]", "tab", *"x", "enter")
        await until_text(pilot, "times=x is not usable")
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunDialog))
        await until_text(pilot, "[red] [red] [red]")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.name == "overview")


async def test_palette_shows_a_failed_action_with_its_hint(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, test_echo="echo")
    async with app.run_test() as pilot:
        app.ask_action("test.echo", {"text": "bad"})
        await until(pilot, lambda: isinstance(app.screen, FormDialog))
        await pilot.press("enter")
        assert "Say something else." in await until_text(pilot, "✗ That can't be said.")


async def test_deleting_asks_and_no_is_the_default(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(monkeypatch, test_delete="delete")
    async with app.run_test() as pilot:
        results: list[object] = []
        for answer in ("enter", "escape", "y"):
            app.ask_action("test.delete", then=results.append)
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            shown = await until_text(pilot, "1,234,567 bytes")
            assert "notes [v1]: 12 files" in shown
            assert results == []
            await pilot.press(answer)
            await until(pilot, lambda: app.screen.name == "overview")
        await until(pilot, lambda: results)
        assert results == [sample.Echo("deleted")]


async def test_help_lists_every_key_of_the_screen_and_everywhere(app: HybridApp) -> None:
    async with app.run_test(size=(120, 60)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Message))
        shown = await until_text(pilot, "Everywhere")
        for key in (*keymap.KEYS["overview"], *(k for k in keymap.KEYS["app"] if "app.go" not in k.action)):
            assert key.help in shown
        assert "1 … 7" in shown


async def test_a_key_can_be_remapped_and_help_shows_it(tmp_path: Path) -> None:
    app = panel_with(tmp_path, '[panel]\nkeys = { "app.storage" = "f9", "app.help" = "h" }\n')
    async with app.run_test(size=(120, 50)) as pilot:
        await pilot.press("h")
        await until_text(pilot, "f9")
        await pilot.press("escape")
        await pilot.press("f9")
        await until(pilot, lambda: app.current_mode == "storage")


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ('[panel]\nkeys = { "app.hepl" = "h" }\n', "did you mean 'app.help'?"),
        ('[panel]\nkeys = { "app.help" = "ctrl+nonsense" }\n', "is not a key"),
        ('[panel]\ntheme = "hybrid-drak"\n', "did you mean 'hybrid-dark'?"),
        ("[panel\n", "can't be read"),
        ("[disk]\nbudget_gbb = 3\n", "did you mean 'budget_gb'?"),
    ],
)
async def test_bad_settings_warn_and_the_panel_starts(tmp_path: Path, settings: str, warning: str) -> None:
    app = panel_with(tmp_path, settings)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app._notifications)
        assert any(warning in note.message for note in app._notifications)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Message))
    assert (tmp_path / MARK).read_text(encoding="utf-8") == settings


async def test_a_small_terminal_says_so_until_it_is_enlarged(app: HybridApp) -> None:
    async with app.run_test(size=(59, 20)) as pilot:
        assert "59x20" in await until_text(pilot, "needs 60x15")
        await pilot.press("2")
        assert isinstance(app.screen, TooSmall)
        await pilot.resize_terminal(60, 15)
        await until_text(pilot, "Overview")
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Message))
        await pilot.resize_terminal(80, 14)
        await until_text(pilot, "needs 60x15")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: isinstance(app.screen, Message))


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
async def test_quitting_asks_nothing_and_returns_zero(app: HybridApp, key: str) -> None:
    async with app.run_test() as pilot:
        await pilot.press(key)
    assert app.return_code == 0


async def test_ctrl_q_quits_from_a_dialog_and_q_from_a_small_terminal(workspace: workspaces.Workspace) -> None:
    for size, keys in (((80, 24), ("question_mark", "ctrl+q")), ((40, 10), ("q",))):
        app = HybridApp(workspace)
        async with app.run_test(size=size) as pilot:
            await pilot.press(*keys)
        assert app.return_code == 0


async def test_a_crash_is_a_dialog_with_its_cause_and_ends_in_a_return_code(
    app: HybridApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(monkeypatch, storage_usage="crashing")
    async with app.run_test(size=(100, 30)) as pilot:
        shown = await until_text(pilot, "ZeroDivisionError: a share of nothing")
        assert "panel-errors.log" in shown
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.name == "overview")
        await pilot.press("r")  # fails again, and is not told again
        await pilot.pause(0.2)
        assert app.screen.name == "overview"
        await pilot.press("q")
    assert app.return_code == 1
    assert "a share of nothing" in (app.workspace.state / "panel-errors.log").read_text(encoding="utf-8")


async def test_a_read_only_panel_refuses_what_writes(workspace: workspaces.Workspace) -> None:
    app = HybridApp(workspace, read_only=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_text(pilot, "read-only")
        assert app.context().read_only


async def test_themes_can_be_chosen_in_the_palette(app: HybridApp) -> None:
    async with app.run_test() as pilot:
        assert app.theme == "hybrid-dark"
        await pilot.press("ctrl+p", *"hybrid-light")
        await until_text(pilot, "Theme: hybrid-light")
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "hybrid-light")


def test_binding_ids_are_unique_and_docs_are_up_to_date() -> None:
    assert len(keymap.ids()) == sum(map(len, keymap.KEYS.values()))
    page = Path(__file__).resolve().parents[2] / "docs" / "keys.md"
    made = subprocess.run(
        [sys.executable, "-m", "hybrid_tui.keymap"], capture_output=True, text=True, check=True, cwd=page.parents[1]
    )
    assert page.read_text(encoding="utf-8") == made.stdout, "run: python -m hybrid_tui.keymap > docs/keys.md"


def test_no_screen_takes_a_key_that_holds_everywhere() -> None:
    everywhere = {word for key in keymap.KEYS["app"] for word in key.key.split(",")}
    for section, keys in keymap.KEYS.items():
        words = [word for key in keys for word in key.key.split(",")]
        assert len(words) == len(set(words)), section
        if section not in ("app", "dialog"):
            own = {word for key in keys if key.name != "keys" for word in key.key.split(",")}  # a screen's own help
            assert not everywhere & own, section


def test_the_panel_never_imports_torch(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from hybrid_tui.app import HybridApp
from services import workspace

async def main():
    app = HybridApp(workspace.init(Path(sys.argv[1])))
    async with app.run_test(size=(100, 30)) as pilot:
        for key in "123456":
            await pilot.press(key)
            await pilot.pause(0.2)
asyncio.run(main())
print([name for name in ("torch", "transformers", "peft", "safetensors", "gguf", "numpy") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
