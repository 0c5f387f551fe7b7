"""The background process that works the queue off: ``python -m services.transfers.worker WORKSPACE``.

One a workspace, by a lock that the system releases when it dies. It takes transfers by priority, then age, one at a
time, and ends when none is left. When one that waits gets a higher priority than the one that runs, the latter makes
room: it keeps what it has and goes on when its turn comes again. Killed at any moment, it loses nothing: the next one
compares both sides again and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
import uuid
from pathlib import Path

from services import formats
from services.drive.errors import Corrupted, SignInNeeded
from services.drive.open import open_store
from services.drive.store import Store
from services.errors import BadInput, HybridError, Refused, StoreUnreachable
from services.transfers import asked, engine, items, plan
from services.transfers.asked import Asked
from services.transfers.guards import check_free
from services.transfers.journal import Journal
from services.transfers.meter import Reading
from services.transfers.types import Moved, Spec
from services.transfers.view import Reader, next_one
from services.workspace import Workspace, open_workspace

DELAYS_S = (1.0, 5.0, 15.0, 60.0, 300.0)  # between tries while the store does not answer; the last one again and again
GIVE_UP_S = 86_400.0  # without a byte for so long, a transfer fails
LOCK_WAIT_S = 3.0  # longer than a worker that has found the queue empty needs to end
_LOOK_ROUND_S = 0.5  # so often the queue is looked through for a more urgent one
_CORRUPTED_TRIES = 3


def main(words: list[str]) -> int:
    """Run until the queue is empty. The exit code is 0, also when another worker lives."""
    workspace = open_workspace(Path(words[0]))
    lock = _take_lock(items.queue(workspace) / items.LOCK)
    if lock is None:
        return 0
    session = uuid.uuid4().hex
    os.ftruncate(lock, 0)
    os.pwrite(lock, session.encode(), 0)
    asyncio.run(_work(workspace, session))
    return 0


def _take_lock(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(0.02)


async def _work(workspace: Workspace, session: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        while (reader := await asyncio.to_thread(next_one, workspace)) is not None:
            # A person may have changed the settings since the worker began.
            await _Item(await asyncio.to_thread(open_workspace, workspace.root), session, reader).run()


class _Item:
    """One attempt at one transfer."""

    def __init__(self, workspace: Workspace, session: str, reader: Reader) -> None:
        self.workspace = workspace
        self.session = session
        self.spec: Spec = reader.spec
        self.folder = reader.folder
        self.total_bytes, self.total_files = reader.state.total_bytes, reader.state.total_files
        self.journal = Journal(self.folder, self.spec.id, reader.state.attempt + 1)
        self.progress_at = time.monotonic()
        self._had = -1
        self._looked_at = self.progress_at

    async def run(self) -> None:
        """To its end, or until a person wants it to stop. Never raises what belongs to this transfer alone."""
        try:
            self.journal.phase("running", note="comparing both sides", session=self.session)
            await self._until_done()
        except Asked as stop:
            if stop.wish == "cancel":
                self.journal.end("cancelled")
            elif stop.wish == "pause":
                self.journal.phase("paused")
            else:
                self.journal.phase("queued", note="made room for a more urgent one; goes on where it was")
        except HybridError as error:
            self.journal.end("failed", str(error), error.hint)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.journal.end("failed", f"{error.filename or self.folder}: {error.strerror or error}.")
        except Exception as error:
            self.journal.end("failed", f"A bug: {type(error).__name__}: {error}.", "worker.log has the trace.")
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            self.journal.close()

    async def _until_done(self) -> None:
        store = await self._open()
        corrupted, tries = 0, 0
        while True:
            began = self.progress_at
            try:
                moved = await asked.unless(self._once(store), self._look)
                self.journal.end("done", "; ".join(moved.problems), files=moved.files, bytes=moved.bytes)
                return
            except SignInNeeded:
                raise
            except Corrupted as error:
                corrupted += 1
                if corrupted >= _CORRUPTED_TRIES:
                    raise
                trouble: HybridError = error
            except HybridError as error:
                trouble = await self._away(store, error)
                if time.monotonic() - self.progress_at > GIVE_UP_S:
                    raise trouble from error
            tries = 0 if self.progress_at > began else tries + 1
            await self._wait(trouble, DELAYS_S[min(tries, len(DELAYS_S) - 1)])

    async def _away(self, store: Store, error: HybridError) -> StoreUnreachable:
        """Why the store does not answer: a disk that goes away in the middle of a copy first looks like any failure.

        Raises ``error`` when the store is there.
        """
        if isinstance(error, StoreUnreachable):
            return error
        if not isinstance(error, (BadInput, Refused)):
            try:
                status = await store.status()
            except StoreUnreachable as away:
                return away
            if not status.reachable:
                return StoreUnreachable(status.problem or str(error))
        raise error

    async def _open(self) -> Store:
        if items.place(self.workspace.settings) != self.spec.place:
            raise HybridError(
                "The settings name another store than when this was queued; nothing was moved.",
                hint="Set [store] back and resume, or cancel this and queue it again.",
            )
        return open_store(self.workspace)

    async def _once(self, store: Store) -> Moved:
        spec = self.spec
        if spec.direction == "push":  # a version may have been registered there since
            await check_free(self.workspace, spec.store, "overwritten")
        found = await plan.compare(store, spec.direction, Path(spec.local), spec.store, spec.only)
        if not spec.agreed and (changed := found.of("changed")):
            raise Refused(
                f"{changed[0].plan.path!r} would be overwritten, which was not so when this was queued.",
                hint="Look at drive.plan, then queue it again with --yes.",
            )
        if spec.direction == "pull":
            over = await asyncio.to_thread(plan.check_space, found, self.workspace.settings.disk)
            if over and not spec.agreed:
                raise Refused(over, hint="Free some space (storage.plan), or queue it again with --yes.")
        self.journal.phase("running")
        return await engine.carry_out(
            store, found, self._report,
            delete=spec.delete, total_bytes=self.total_bytes, total_files=self.total_files,
        )  # fmt: skip

    def _report(self, reading: Reading) -> None:
        self.total_bytes = max(self.total_bytes, reading.total_bytes)
        self.total_files = max(self.total_files, reading.total_files)
        if reading.done_bytes > self._had:
            self._had, self.progress_at = reading.done_bytes, time.monotonic()
        self.journal.figures(reading, last=reading.done_bytes == reading.total_bytes)

    async def _look(self) -> None:
        """Raises Asked when it is to stop: a person wants it, or one that waits is more urgent."""
        asked.look(self.folder)
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_ROUND_S:
            self._looked_at = now
            mine = items.number(self.folder, "priority")
            if await asyncio.to_thread(next_one, self.workspace, mine) is not None:
                raise Asked("yield")

    async def _wait(self, trouble: HybridError, seconds: float) -> None:
        """Between two tries; a resume ends the wait."""
        note = f"{trouble} Tries again {'at once' if seconds < 2 else 'in ' + formats.duration(seconds)}."
        self.journal.phase("retrying", note=note)
        until = time.monotonic() + seconds
        items.forget(self.folder, "now")
        while time.monotonic() < until and not items.asked(self.folder, "now"):
            await self._look()
            await asyncio.sleep(asked.LOOK_S)
        self.journal.phase("running", note="comparing both sides")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
