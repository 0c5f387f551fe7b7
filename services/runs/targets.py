"""Where a run can execute, behind one interface; and what is known of a run that executes elsewhere.

A run on this box is always a folder, a supervisor and the command it runs. For the target "local" that command is the
trainer; for any other it is the target's agent, which gets the machine, starts the same supervisor there, passes its
events on and fetches what it makes. So whatever reads or stops a run is the same for every target.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

from services.context import Context
from services.errors import BadInput, nearest
from services.runs.types import TargetName

if TYPE_CHECKING:
    from services.runs.train import StartParams

NAMES: tuple[str, ...] = get_args(TargetName)
TRAINER = ("-m", "services.runtime.train")  # after the name of a Python, before the run's folder
_MODULES = {name: f"services.runs.{name}.target" for name in NAMES if name != "local"}


class Target(Protocol):
    """A place where runs execute. ``title`` is for people, e.g. "Google Colab (GPU, paid by units)"."""

    name: str
    title: str

    async def check(self, ctx: Context, params: StartParams) -> tuple[str, ...]:
        """Warnings for a run of ``params`` there. Raises BadInput, Refused or HybridError before anything is paid."""
        ...

    def command(self, run_dir: Path) -> tuple[str, ...]:
        """What the supervisor on this box runs: the trainer, or the agent that follows it elsewhere."""
        ...


class Local:
    """This box: the command is the trainer itself."""

    name = "local"
    title = "This box"

    async def check(self, ctx: Context, params: StartParams) -> tuple[str, ...]:
        """Raises BadInput for a budget in units: time here costs none."""
        if params.budget_cost:
            raise BadInput(
                "A run on this box costs no units, so budget_cost can't stop it.",
                hint="Use budget_seconds, or a target.",
            )
        return ()

    def command(self, run_dir: Path) -> tuple[str, ...]:
        """The trainer."""
        return (sys.executable, *TRAINER, str(run_dir))


def target(name: str) -> Target:
    """The target called ``name``. Raises BadInput when there is none."""
    if name == "local":
        return Local()
    if name not in _MODULES:
        raise BadInput(f"There is no target '{name}'{nearest(name, NAMES) or '.'}", hint=f"Known: {', '.join(NAMES)}.")
    try:
        made: Target = importlib.import_module(_MODULES[name]).TARGET
    except ModuleNotFoundError as error:
        if error.name is not None and _MODULES[name].startswith(error.name):
            raise BadInput(f"The target '{name}' is not part of this version.") from None
        raise
    return made
