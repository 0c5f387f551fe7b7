"""Before a run starts: what it would need, take and cost, and whether to start it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hybrid_tui import actions, keymap
from hybrid_tui.screens.base import Report, perform
from services.context import Progress
from services.errors import HybridError
from widgets.dialogs import Confirm

if TYPE_CHECKING:
    from hybrid_tui.app import HybridApp

ACTION = "train.estimate"
_QUICK = {"probe_seconds": "0"}  # a person waits: nothing is measured, known speeds are used


async def may_start(panel: HybridApp, words: dict[str, str], report: Report) -> bool:
    """Show the estimate for train.start with ``words`` and ask; True at once where nothing can be estimated with.

    Call from a worker. What can't be estimated is said in the question: starting finds out.
    """
    if ACTION not in actions.ACTIONS:
        return True
    action = actions.find(ACTION)
    kind = await asyncio.to_thread(action.parameters)
    known = {name: word for name, word in (words | _QUICK).items() if name in kind.__struct_fields__}
    found: list[Any] = []
    report(Progress("estimating"))
    try:
        await perform(panel, ACTION, actions.convert(action, known), then=found.append, progress=report)
        lines = tuple(found[0].sentences)
    except HybridError as error:
        lines = (f"▲ No estimate: {error}", *([error.hint] if error.hint else []))
    question = f"This is what it would take at the target {words.get('target', 'local')}."
    dialog = Confirm("Start this run?", question, lines, yes="Start", keys=keymap.bindings("dialog"))
    answer: bool | None = await panel.push_screen_wait(dialog)
    return bool(answer)
