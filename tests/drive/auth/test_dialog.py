"""The panel's dialog: heard, pasted, refused, closed."""

from __future__ import annotations

import asyncio
import socket

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, Static

from hybrid_tui import keymap
from hybrid_tui.sign_in import SignInDialog
from services.drive.auth.vault import Vault
from services.workspace import Workspace
from tests.drive.auth.helpers import address_line, browse
from tests.drive_bed.serve import Account, DriveServer
from tests.panel.helpers import until


class Bench(App[None]):
    """Pushes the dialog and keeps what it ended with."""

    def __init__(self, box: Workspace, *, read_only: bool = False) -> None:
        super().__init__()
        self.read_only = read_only  # as the panel has it
        self.dialog = SignInDialog(box, keys=keymap.bindings("dialog"))
        self.ended: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()

    def on_mount(self) -> None:
        self.push_screen(self.dialog, self.ended.set_result)


async def address(bench: Bench, pilot: Pilot[None]) -> str:
    """Google's page, once it is shown."""
    await until(pilot, lambda: bench.dialog.sign_in is not None and "/auth?" in shown(bench, "#sign-in-address"))
    assert bench.dialog.sign_in is not None
    assert shown(bench, "#sign-in-address") == bench.dialog.sign_in.address
    return bench.dialog.sign_in.address


def shown(bench: Bench, selector: str) -> str:
    return str(bench.dialog.query_one(selector, Static).content)


async def says(bench: Bench, pilot: Pilot[None], words: str) -> None:
    await until(pilot, lambda: words in shown(bench, "#sign-in-state"))


async def test_the_browser_is_heard(box: Workspace, account: Account) -> None:
    bench = Bench(box)
    async with bench.run_test(size=(80, 24)) as pilot:
        await browse(await address(bench, pilot))
        assert await asyncio.wait_for(bench.ended, 10) is True
    assert Vault(account.client).read() is not None


async def test_a_wrong_and_a_right_paste(box: Workspace, account: Account) -> None:
    bench = Bench(box)
    async with bench.run_test() as pilot:
        line = await address_line(await address(bench, pilot))
        answer = bench.dialog.query_one(Input)
        assert answer.has_focus
        for text, told in (("yes", "neither the address nor the code"), ("4/0A" + "x" * 40, "did not take that code")):
            answer.value = text
            await pilot.press("enter")
            await says(bench, pilot, told)
        answer.value = line
        await pilot.press("enter")
        assert await asyncio.wait_for(bench.ended, 10) is True
    assert Vault(account.client).read() is not None


async def test_closing_leaves_nothing(box: Workspace, account: Account) -> None:
    bench = Bench(box)
    async with bench.run_test() as pilot:
        await address(bench, pilot)
        port = bench.dialog.sign_in.listener.port  # type: ignore[union-attr]
        await pilot.press("escape")
        assert await asyncio.wait_for(bench.ended, 10) is None
        await pilot.pause()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
    assert Vault(account.client).read() is None and not Vault(account.client).folder.exists()


async def test_a_refusal_is_shown_and_stays(box: Workspace, account: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", deny=account.client)
    bench = Bench(box)
    async with bench.run_test() as pilot:
        await browse(await address(bench, pilot))
        await says(bench, pilot, "told no")
        assert not bench.ended.done()
        await pilot.press("escape")
        assert await asyncio.wait_for(bench.ended, 10) is None


async def test_without_a_client_it_says_what_to_do(box: Workspace) -> None:
    (box.root.parent / "client.json").unlink()
    bench = Bench(box)
    async with bench.run_test() as pilot:
        await says(bench, pilot, "There is no OAuth client at")
        assert "docs/drive-setup.md" in shown(bench, "#sign-in-state")


async def test_a_read_only_panel_signs_nobody_in(box: Workspace) -> None:
    bench = Bench(box, read_only=True)
    async with bench.run_test() as pilot:
        await says(bench, pilot, "read-only")
        assert bench.dialog.sign_in is None
