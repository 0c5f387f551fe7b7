"""Looks once whether a run may go on by its ceilings on costs: ``python -m services.runs.ceilings WORKSPACE RUN_DIR``.

The supervisor on this box starts it now and then beside the agent of a run elsewhere, so that the month's ceiling holds
while no panel is open. One JSON object is printed: verdict ("ok", "warn" or "stop") and reason. On "stop" the run has
been asked to write a checkpoint and end as over-budget. Exit code 1 and a sentence on stderr when nothing can be told.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from services.errors import HybridError
from services.runs import budgets, costs
from services.workspace import open_workspace


def look(workspace: Path, run_dir: Path) -> costs.Checked:
    """Check the run, and ask it to stop where that is due. Raises HybridError, OSError."""
    found = costs.check(open_workspace(workspace), run_dir)
    if found.verdict == "stop":
        budgets.request_stop(run_dir, found.reason)
    return found


def main() -> int:
    """The command."""
    try:
        found = look(Path(sys.argv[1]), Path(sys.argv[2]))
    except (HybridError, OSError, IndexError) as error:
        print(error, file=sys.stderr)
        return 1
    print(msgspec.json.encode({"verdict": found.verdict, "reason": found.reason}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
