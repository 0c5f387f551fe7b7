"""The target "ray" for ``services.runs.targets``."""

from __future__ import annotations

import sys
from pathlib import Path

from services.context import Context
from services.errors import BadInput
from services.runs.ray import api
from services.runs.train import StartParams


class RayTarget:
    """A Ray cluster, through its Jobs API."""

    name = "ray"
    title = "A Ray cluster (Ray Jobs)"

    async def check(self, ctx: Context, params: StartParams) -> tuple[str, ...]:
        """Asks the cluster for its version. Raises BadInput (no address), HybridError (no answer, a refused token)."""
        settings = ctx.workspace.settings.ray
        if params.budget_cost and not settings.money_per_hour:
            raise BadInput(
                "What this cluster costs is not known, so budget_cost can't stop the run.",
                hint="Set [ray] money_per_hour, or use budget_seconds.",
            )
        async with api.Jobs(api.address(settings.address), api.headers()) as jobs:
            version = await jobs.version()
            # Asked too, because the version is told to anybody and this is not.
            await jobs.info("hybrid-asks-whether-the-token-is-taken")
        warnings = [f"The cluster runs Ray {version}."]
        if jobs.root.startswith("http://") and "Authorization" in api.headers() and not _near(jobs.root):
            warnings.append("The token travels unencrypted to this address: use https or an ssh tunnel.")
        if params.accelerator:
            warnings.append("A cluster's hardware is what it has: accelerator is not used; see [ray] gpus.")
        return tuple(warnings)

    def command(self, run_dir: Path) -> tuple[str, ...]:
        """The agent."""
        return (sys.executable, "-m", "services.runs.ray.agent", str(run_dir))


def _near(root: str) -> bool:
    return root.startswith(("http://127.", "http://localhost", "http://[::1]"))


TARGET = RayTarget()
