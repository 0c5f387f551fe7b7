"""What every action gets besides its parameters: the workspace, how to report, what is allowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.errors import Refused
from services.workspace import Workspace


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a long action, for a progress bar or a JSON line.

    ``done`` of ``total`` in ``unit`` ("bytes", "rows", "steps", "s"); ``total`` None when unknown.
    ``partial`` is a result so far, of the action's result type, for a panel that draws it early.
    """

    stage: str
    done: float = 0
    total: float | None = None
    unit: str = ""
    note: str = ""
    partial: Any = None


class Plan(msgspec.Struct, frozen=True):
    """What a writing action would do: returned by ``--dry-run``, shown before a yes is asked."""

    action: str
    summary: str
    steps: tuple[str, ...] = ()
    freed_bytes: int = 0
    written_bytes: int = 0


class NeedsYes(Refused):
    """An action that deletes or overwrites was called without a yes; ``plan`` is what it would do."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(f"{plan.action} needs a yes: {plan.summary}", hint="Look at the plan, then add --yes.")
        self.plan = plan


def _ignore(_: Progress) -> None:
    return None


@dataclass(frozen=True)
class Context:
    """Passed to every action. ``report`` may be called from the loop's thread only.

    ``ask`` waits for a line that a person types, "" at the end; None where there is no terminal to type at.
    """

    workspace: Workspace
    report: Callable[[Progress], None] = field(default=_ignore)
    dry_run: bool = False
    read_only: bool = False
    yes: bool = False
    ask: Callable[[], Awaitable[str]] | None = None

    def will_write(self, action: str) -> None:
        """Call before the first write. Raises Refused under ``--read-only``."""
        if self.read_only and not self.dry_run:
            raise Refused(f"{action} would write, and this is a read-only session.", hint="Leave out --read-only.")

    def approve(self, plan: Plan) -> None:
        """Call before deleting or overwriting. Raises NeedsYes unless the caller said yes."""
        if not self.yes:
            raise NeedsYes(plan)
