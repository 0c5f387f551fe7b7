"""The target "notebook" for ``services.runs.targets``."""

from __future__ import annotations

import sys
from pathlib import Path

from services.context import Context
from services.drive.open import open_store
from services.errors import BadInput, StoreUnreachable
from services.runs.train import StartParams


class NotebookTarget:
    """A notebook that a person opens; the store carries everything."""

    name = "notebook"
    title = "A notebook you open in Colab or Kaggle"

    async def check(self, ctx: Context, params: StartParams) -> tuple[str, ...]:
        """Raises BadInput for what a notebook can't do, StoreUnreachable when the store does not answer."""
        if params.budget_cost:
            raise BadInput(
                "What a notebook costs can't be seen from here, so budget_cost can't stop it.",
                hint="Use budget_seconds: the run counts them itself.",
            )
        store = open_store(ctx.workspace)
        drive = ctx.workspace.settings.drive
        if store.kind == "drive" and drive.scope == "drive.file":
            raise BadInput(
                "With the scope drive.file this box can't see what a notebook writes to your Drive.",
                hint='Set [drive] scope = "drive" in hybrid.toml, then drive.login.',
            )
        status = await store.status()
        if not status.reachable or not status.writable:
            raise StoreUnreachable(f"The store {status.path} can't be written.", hint="store.status tells why.")
        warnings = ["What is shown of this run comes late: the store is looked at now and then."]
        if params.accelerator:
            warnings.append(f"A notebook's hardware is chosen in the browser: take {params.accelerator} there.")
        if store.kind == "bucket":
            warnings.append("The notebook needs this bucket mounted as a folder; set STORE in its second cell.")
        elif store.kind == "folder" and not status.google_drive:
            warnings.append("The store is a plain folder: the notebook must run where that folder can be seen.")
        return tuple(warnings)

    def command(self, run_dir: Path) -> tuple[str, ...]:
        """The agent."""
        return (sys.executable, "-m", "services.runs.notebook.agent", str(run_dir))


TARGET = NotebookTarget()
