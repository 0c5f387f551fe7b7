"""Running an action from the palette: its form, its progress, its result, its questions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from textual.screen import Screen

from hybrid_tui import actions, keymap
from hybrid_tui.screens.base import Then, perform
from services import formats
from services.context import Plan
from services.errors import BadInput, HybridError
from widgets.dialogs import Confirm
from widgets.form import FormDialog
from widgets.run_dialog import RunDialog

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp


def plan_dialog(plan: Plan, title: str = "") -> Screen[bool | None]:
    """The question before something is deleted or overwritten, with exact sizes; ``title``: else the action's name."""
    lines = list(plan.steps)
    if plan.freed_bytes:
        lines.append(f"frees {formats.size(plan.freed_bytes)} ({plan.freed_bytes:,} bytes)")
    if plan.written_bytes:
        lines.append(f"writes {formats.size(plan.written_bytes)} ({plan.written_bytes:,} bytes)")
    return Confirm(title or plan.action, plan.summary, lines, yes="Yes, do it", keys=keymap.bindings("dialog"))


async def ask_and_run(panel: HybridApp, name: str, values: Mapping[str, Any], then: Then | None) -> None:
    """Form, then the action; its result goes to ``then`` or into a dialog. Call from a worker.

    Signing in as a person has a dialog of its own: it shows Google's page and takes the answer.
    """
    if name == "drive.login" and not values and not then and panel.workspace.settings.drive.account == "user":
        await _sign_in(panel)
        return
    action = actions.find(name)
    kind = await asyncio.to_thread(action.parameters)
    words: dict[str, str] | None = {}
    if msgspec.structs.fields(kind):
        words = await panel.push_screen_wait(_form(action, kind, values))
    if words is None:
        return
    params = actions.convert(action, words)
    if then:
        await perform(panel, name, params, then=then)
    else:
        await _follow(panel, name, params)


async def _sign_in(panel: HybridApp) -> None:
    from hybrid_tui.sign_in import SignInDialog

    if await panel.push_screen_wait(SignInDialog(panel.workspace, keys=keymap.bindings("dialog"))):
        panel.notify("Signed in to Google Drive.", markup=False)


def _form(action: actions.Action, kind: type[msgspec.Struct], values: Mapping[str, Any]) -> FormDialog:
    def check(words: dict[str, str]) -> str:
        try:
            actions.convert(action, words)
        except BadInput as error:
            return str(error)
        return ""

    return FormDialog(
        action.name, kind, values, intro=action.help, run="Run", check=check, keys=keymap.bindings("dialog")
    )


async def _follow(panel: HybridApp, name: str, params: msgspec.Struct) -> None:
    def done(result: Any) -> None:
        from hybrid_tui.render import renderable

        if dialog.is_attached:
            dialog.done(renderable(result))
        else:
            panel.notify(f"{name} is done.", markup=False)

    dialog = RunDialog(name, lambda: work.cancel(), keys=keymap.bindings("dialog"))
    await panel.push_screen(dialog)  # first in its place, then the work: it may be done at once
    work = asyncio.ensure_future(perform(panel, name, params, then=done, progress=dialog.progress))
    try:
        await work
    except HybridError as error:
        if not dialog.is_attached:
            raise
        dialog.failed(str(error), error.hint)
    except asyncio.CancelledError:
        if dialog.state != "stopped":
            raise
