"""A push or pull that runs in the command that asked for it: the queue shows it, and can end it.

It is no second queue: the transfer has a folder like the others, but its own command writes the events and holds a lock
there while it lives, and the worker leaves it alone. The command stays what it was: its result, its errors and its exit
codes are its own. When it was killed, drive.resume gives the rest to the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from services.drive.store import Store
from services.errors import HybridError
from services.transfers import asked, engine, items
from services.transfers.asked import Asked
from services.transfers.journal import Journal
from services.transfers.meter import Reading
from services.transfers.plan import Comparison
from services.transfers.types import FINISHED, Moved, Spec
from services.transfers.view import Reader, in_foreground
from services.workspace import Workspace

KEPT = 20
"""So many that are over stay in the queue; each was told in its own terminal, and scripts make many."""


async def carry_out(workspace: Workspace, spec: Spec, store: Store, found: Comparison, report: engine.Report) -> Moved:
    """``engine.carry_out``, shown in the queue as ``spec`` meanwhile, if there is anything to move.

    Raises what that raises, and HybridError when it was cancelled from the queue.
    """
    moves = found.of("new", "changed") or (spec.delete and found.of("extra"))
    shown = await _begin(workspace, spec) if moves else None
    if shown is None:
        return await engine.carry_out(store, found, report, delete=spec.delete)
    return await _carry_out(shown, spec, store, found, report)


async def _begin(workspace: Workspace, spec: Spec) -> _Shown | None:
    """Cancelled meanwhile, it leaves nothing that looks alive."""
    begun = asyncio.ensure_future(asyncio.to_thread(_Shown.begin, workspace, spec))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        if shown := await begun:
            with shown.to_its_end():
                raise
        raise


async def _carry_out(shown: _Shown, spec: Spec, store: Store, found: Comparison, report: engine.Report) -> Moved:
    def told(reading: Reading) -> None:
        shown.journal.figures(reading, last=reading.done_bytes == reading.total_bytes)
        report(reading)

    with shown.to_its_end():
        moved = await asked.unless(engine.carry_out(store, found, told, delete=spec.delete), shown.look)
        shown.end("done", "; ".join(moved.problems))
        return moved


class _Shown:
    """The transfer's folder, while this process holds its lock."""

    def __init__(self, folder: Path, lock: int, session: str) -> None:
        self.folder = folder
        self.journal = Journal(folder, folder.name, 1)
        self._lock = lock
        with contextlib.suppress(OSError):
            self.journal.phase("running", session=session)

    @classmethod
    def begin(cls, workspace: Workspace, spec: Spec) -> _Shown | None:
        """None where the queue can't be written: what is to move matters more than that it is seen."""
        session = uuid.uuid4().hex
        try:
            _forget_old(workspace)
            folder, lock = items.add_held(workspace, spec, session)
        except (HybridError, OSError):
            return None
        return cls(folder, lock, session)

    async def look(self) -> None:
        """Raises Asked when somebody wants it to end; it can't be paused, for its command would be left waiting."""
        if items.asked(self.folder, "cancel"):
            raise Asked("cancel")

    @contextlib.contextmanager
    def to_its_end(self) -> Iterator[None]:
        """Whatever ends the work is written down."""
        try:
            yield
        except Asked:
            self.end("cancelled")
            raise HybridError(
                "The transfer was cancelled from the queue; what arrived stays.",
                hint="The same command goes on from there, as does drive.resume.",
            ) from None
        except asyncio.CancelledError:
            self.end("cancelled", "Its command was stopped.")
            raise
        except Exception as error:
            self.end("failed", str(error) or type(error).__name__, getattr(error, "hint", ""))
            raise
        finally:
            self.journal.close()
            os.close(self._lock)

    def end(self, phase: str, reason: str = "", hint: str = "") -> None:
        """It is over; a full disk hides that from the queue, not from the command."""
        with contextlib.suppress(OSError):
            self.journal.end(phase, reason, hint)


def _forget_old(workspace: Workspace) -> None:
    """Remove the folders of foreground transfers that are over, but for the last ``KEPT``."""
    over: list[Path] = []
    for folder in items.folders(workspace):  # oldest first
        with contextlib.suppress(HybridError):
            reader = Reader(folder)
            if in_foreground(reader.spec, folder) and reader.view("").state in FINISHED:
                over.append(folder)
    for folder in over[: max(len(over) - KEPT + 1, 0)]:
        shutil.rmtree(folder, ignore_errors=True)
