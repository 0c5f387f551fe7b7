"""What the upkeep tasks look at, read from what other parts have left on disk: nothing is measured here.

A run's last word is ``.hybrid/runs/<id>/attempts/<N>/end.json`` (docs/runs.md): the end event, or blanks until then.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.storage import disk
from services.storage.upkeep import samples
from services.storage.upkeep.tasks import Facts
from services.workspace import Workspace

_FAILED = ("failed", "lost", "over-budget")


class _End(msgspec.Struct):
    phase: str = ""


class _Event(msgspec.Struct):
    data: _End = msgspec.field(default_factory=_End)


def read(workspace: Workspace) -> Facts:
    """The facts as they are known now."""
    return Facts(caches=_caches(workspace), runs=_runs(workspace.runs))


def _caches(workspace: Workspace) -> str | None:
    total = samples.read_latest(workspace).get("caches_bytes")
    budget = round(workspace.settings.disk.caches_gb * disk.GB)
    return None if total is None else disk.caches_problem(total, budget)


def _runs(folder: Path) -> str | None:
    """How many runs ended badly in their last attempt; a lost one that never told its end is not among them."""
    try:
        failed = [run.name for run in folder.iterdir() if _phase(run) in _FAILED]
    except FileNotFoundError:
        return ""
    except OSError:
        return None
    return f"{len(failed)} run{'s' * (len(failed) != 1)} failed: {', '.join(sorted(failed)[-3:])}." if failed else ""


def _phase(run: Path) -> str:
    try:
        attempts = [entry for entry in (run / "attempts").iterdir() if entry.name.isdecimal()]
        newest = max(attempts, key=lambda entry: int(entry.name), default=None)
        return msgspec.json.decode((newest / "end.json").read_bytes(), type=_Event).data.phase if newest else ""
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""  # it runs, or was made by hand
