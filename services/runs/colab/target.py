"""The target ``colab`` as ``services.runs.targets`` knows it."""

from __future__ import annotations

import sys
from pathlib import Path

from services.context import Context
from services.errors import BadInput, nearest
from services.runs.colab.cli import Cli, find
from services.runs.train import StartParams

ACCELERATORS = ("none", "T4", "L4", "G4", "A100", "H100")  # what ``colab new --gpu`` knows; others it takes for A100
_POOR = 1.0  # units; less is told


class Colab:
    """Google Colab, through its official command line."""

    name = "colab"
    title = "Google Colab (GPU, paid by compute units)"

    def command(self, run_dir: Path) -> tuple[str, ...]:
        """The agent."""
        return (sys.executable, "-m", "services.runs.colab.agent", str(run_dir))

    async def check(self, ctx: Context, params: StartParams) -> tuple[str, ...]:
        """Whether the command line is there and signed in, and the accelerator one that it knows.

        Raises BadInput (not installed, no such accelerator), SignIn, CliError.
        """
        settings = ctx.workspace.settings.colab
        for accelerator in (params.accelerator or settings.accelerator, *settings.fallbacks):
            if accelerator not in ACCELERATORS:
                raise BadInput(
                    f"Colab has no accelerator '{accelerator}'{nearest(accelerator, ACCELERATORS) or '.'}",
                    hint=f"It has {', '.join(ACCELERATORS)}.",
                )
        usage = await Cli(find(settings)).usage()
        warnings = []
        if usage.balance < _POOR:
            warnings.append(f"Your Colab account has {usage.balance:g} compute units left.")
        if usage.machines:
            warnings.append(
                f"Your account has {usage.machines} machines already, at {usage.rate:g} units an hour: train.sessions."
            )
        return tuple(warnings)


TARGET = Colab()
