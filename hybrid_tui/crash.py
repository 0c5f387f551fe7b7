"""What the panel shows and keeps when something breaks that nobody expected."""

from __future__ import annotations

import time
import traceback

from hybrid_tui import keymap
from services.workspace import Workspace
from widgets.dialogs import Message

LOG = "panel-errors.log"


def crash_dialog(error: Exception, workspace: Workspace | None) -> Message:
    """A dialog naming the cause and the place; the whole trace is appended to .hybrid/panel-errors.log."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"\nin {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    hint = "The rest of the panel goes on, and so do runs. Try it again; if it stays, report it."
    if workspace is not None:
        hint += f"\n{_keep(error, workspace)}"
    return Message(
        "Something went wrong", f"✗ {type(error).__name__}: {error}{where}", hint, keys=keymap.bindings("dialog")
    )


def _keep(error: Exception, workspace: Workspace) -> str:
    try:
        with (workspace.ensure_state() / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{''.join(traceback.format_exception(error))}\n")
    except Exception as problem:
        return f"The trace could not be kept: {problem}"
    return f"The whole trace is in .hybrid/{LOG}."
