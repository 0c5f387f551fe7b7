"""Follows a run in a notebook through the store: ``python -m services.runs.notebook.agent RUN_DIR``.

The command of the run's supervisor on this box. It puts the inputs and the notebook into the store, waits for a
person to run it, hands its events on, fetches its checkpoints and its result, and passes wishes on as wishes.json.
Nothing here is paid for, and nothing here can tell a notebook that is slow from one that is gone: silence is told, and
after ``[notebook] lost_minutes`` the run counts as lost until somebody runs the notebook again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from services import formats
from services.drive.open import open_store
from services.drive.store import Store
from services.errors import HybridError, StoreUnreachable
from services.runs import spec as specs
from services.runs.emit import EXIT_CANCELLED, Emitter
from services.runs.feed import NOTHING_YET, Feed, Passed, passed_on
from services.runs.notebook import layout, link, parcel
from services.runs.notebook.fetching import Fetcher
from services.runs.remote import Remote, read_remote, write_remote
from services.workspace import Workspace, open_workspace

_TICK_S = 0.2
_QUIET_S = 180.0  # silence that is worth a word
_GAP_POLLS = 8  # a mount may show files in any order; then missing events are given up
_STOP_S = 600.0  # for a notebook that was asked to stop


class Agent:
    """One run, from its inputs in the store to its result here."""

    def __init__(self, run_dir: Path, workspace: Workspace, emit: Emitter) -> None:
        self.run_dir, self.workspace, self.emit = run_dir, workspace, emit
        self.settings = workspace.settings.notebook
        self.spec = specs.read(run_dir)
        self.store: Store = open_store(workspace)
        self.top = layout.run_folder(self.spec.id)
        self.fetcher = Fetcher(self.store, self.top, run_dir, emit)
        self.remote = read_remote(run_dir) or Remote("notebook", layout.notebook_path(self.spec.id), True, 0)
        self.link = ""
        self.feed: Feed | None = None
        self.heard = time.monotonic()
        self.gap_polls = 0
        self.said = ""
        self.stopping_since = 0.0
        self.wishes: dict[str, Any] = {}

    async def run(self) -> int:
        """The whole way; the exit code. Raises HybridError."""
        self._note(live=True)
        await self._prepare()
        self._wait_for_person()
        while True:
            try:
                code = await self._poll()
                if code is not None:
                    return code
            except StoreUnreachable as error:
                self._say(f"the store does not answer, trying again: {error}")
            code = self._silence()
            if code is not None:
                return code
            await self._pause()

    async def _prepare(self) -> None:
        """Inputs, wishes and the notebook into the store. What is there already is left."""
        self.emit.phase("provisioning", "looking into the store", link="polling")
        if await self.store.read(f"{self.top}/{layout.JOB}") is None:
            await parcel.send(
                self.store, self.spec, lambda *_: None, lambda words: self.emit.phase("provisioning", words),
                delay_s=self.settings.delay_seconds, beat_s=10.0,
            )  # fmt: skip
        known = _json(await self.store.read(f"{self.top}/{layout.WISHES}"))
        self.wishes = {"base": self._ended(), "cancel": False, "checkpoint": int(known.get("checkpoint") or 0)}
        await self._wish()
        path = layout.notebook_path(self.spec.id)
        if await self.store.stat(path) is None:
            await parcel.write_notebook(self.store, self.spec, link.mounted(self.workspace, self.store))
        self.link = await link.link(self.store, path)
        self.remote = msgspec.structs.replace(self.remote, data={**self.remote.data, "link": self.link})
        self._note(live=True)

    def _wait_for_person(self) -> None:
        known = passed_on(self.run_dir)
        number = max([self._ended() + 1, *known])
        if number in known:
            self._follow(number, known[number])
            self.emit.phase("running", f"following again ({self.link}), delayed", link="polling")
        else:
            again = "run the notebook again" if self._ended() else "open the notebook and run all its cells"
            self.emit.phase("provisioning", f"waiting for you: {again}: {self.link}", link="polling")

    def _follow(self, number: int, passed: Passed = NOTHING_YET) -> None:
        self.feed = Feed(self.emit, number, passed, link="polling", costs=True)
        self.heard, self.gap_polls = time.monotonic(), 0
        self.remote = msgspec.structs.replace(self.remote, number=number, machine="a notebook of yours")
        self._note(live=True)

    async def _poll(self) -> int | None:
        """Look into the store once; the exit code when the run is over."""
        await self._ask()
        starts = sorted(int(e.name) for e in await self.store.list(f"{self.top}/{layout.EVENTS}") if e.name.isdigit())
        starts = [number for number in starts if number > self._ended()]
        if self.feed is None:
            if not starts:
                return self._never_opened()
            self._follow(starts[0])
        assert self.feed is not None
        while True:
            await self.fetcher.checkpoints()
            closed = await self._read_events()
            if self.feed.end is not None:
                return await self._over(self.feed.end)
            later = [number for number in starts if number > self.feed.number]
            if not later:
                break
            self.feed.give_up()
            self.emit.log("info", f"Start {self.feed.number} of the notebook broke off; start {later[0]} goes on.")
            self._follow(later[0])
        if closed is not None and self.feed.have >= closed:
            return await self._over({"phase": "failed", "reason": _DIED})
        return None

    async def _read_events(self) -> int | None:
        """Take the files of the start that is followed; its number of events once it is over."""
        assert self.feed is not None
        folder = f"{self.top}/{layout.EVENTS}/{self.feed.number}"
        names = [entry.name for entry in await self.store.list(folder)]
        wanted = [name for name in sorted(names) if (span := layout.segment(name)) and span[1] > self.feed.have]
        taken = 0
        for name, data in zip(wanted, await self.store.read_many([f"{folder}/{n}" for n in wanted]), strict=True):
            lines = (data or b"").splitlines()
            first, last = layout.segment(name) or (0, 0)
            if len(lines) == last - first + 1:  # else not yet whole
                taken += self.feed.take(found for line in lines if (found := _json(line)))
        if taken:
            self.heard, self.said = time.monotonic(), ""
        self.gap_polls = self.gap_polls + 1 if self.feed.missing else 0
        if self.gap_polls > _GAP_POLLS:
            lost = self.feed.give_up()
            self.emit.log("warning", f"{lost} events of start {self.feed.number} never came into the store.")
        closed = _json(await self.store.read(f"{folder}/{layout.CLOSED}")) if layout.CLOSED in names else {}
        return int(closed["last"]) if "last" in closed else None

    async def _ask(self) -> None:
        """Pass on what is wanted of the run."""
        if self.emit.cancelled() and not self.wishes["cancel"]:
            self.wishes["cancel"], self.stopping_since = True, time.monotonic()
            await self._wish()
        if self.emit.checkpoint_wanted():
            self.wishes["checkpoint"] += 1
            await self._wish()

    async def _wish(self) -> None:
        await self.store.write(f"{self.top}/{layout.WISHES}", json.dumps(self.wishes).encode())

    def _never_opened(self) -> int | None:
        if not self.wishes["cancel"]:
            return None
        self._note(live=False)
        return EXIT_CANCELLED

    def _silence(self) -> int | None:
        """Say that nothing comes; the exit code when that has lasted too long."""
        quiet = time.monotonic() - self.heard
        if self.stopping_since and time.monotonic() - self.stopping_since > _STOP_S:
            return self._lost("The notebook was asked to stop and did not answer.", "Stop it in the browser.")
        if self.feed is None:
            return None
        if quiet > self.settings.lost_minutes * 60:
            return self._lost(
                f"The notebook has written nothing into the store for {formats.duration(quiet)}.",
                f"If its machine was taken away, run it again ({self.link}), then train.resume follows it.",
            )
        if quiet > max(_QUIET_S, 3 * self.settings.delay_seconds):
            late = formats.duration(quiet // 60 * 60)
            self._say(f"nothing new from the notebook for {late}; if its machine is gone, run it again: {self.link}")
        return None

    def _lost(self, reason: str, hint: str) -> int:
        self._note(live=False)
        self.emit.error(reason, hint, phase="lost")
        return 1

    async def _over(self, end: dict[str, Any]) -> int:
        """The notebook's start has ended: the rest comes here, then this ends as it did."""
        assert self.feed is not None
        number, phase = self.feed.number, str(end.get("phase"))
        await self.fetcher.checkpoints()
        if phase == "succeeded":
            self.emit.phase("stopping", "fetching the result", link="polling")
            await self._result(number)
        log = await self.store.read(f"{self.top}/log-n{number}.txt")
        if log:
            print(log.decode("utf-8", "replace"), flush=True)
        data = {**self.remote.data, "ended": number}
        self.remote = msgspec.structs.replace(self.remote, data=data)
        self._note(live=False)
        if phase == "succeeded":
            return 0
        if phase == "cancelled":
            return EXIT_CANCELLED
        hint = str(end.get("hint") or "") or "train.resume, then run the notebook again: it goes on from there."
        self.emit.error(str(end.get("reason") or "It gave no reason."), hint, phase)
        return 1

    async def _result(self, number: int) -> None:
        """Fetch the adapter; a mount may bring it later than the event that tells of it."""
        until = time.monotonic() + self.settings.lost_minutes * 60
        while True:
            with contextlib.suppress(StoreUnreachable):
                if await self.fetcher.output(number):
                    return
            if time.monotonic() > until:
                raise HybridError("The run has succeeded, but its result has not come into the store.", hint=_AGAIN)
            await self._pause()

    async def _pause(self) -> None:
        """Until the next look, or until somebody asks for something."""
        until = time.monotonic() + self.settings.poll_seconds
        while time.monotonic() < until:
            if self.emit.cancelled() and not self.wishes["cancel"]:
                return
            if "checkpoint" in {path.name for path in (self.run_dir / "control").glob("checkpoint")}:
                return
            await asyncio.sleep(_TICK_S)

    def _ended(self) -> int:
        return int(self.remote.data.get("ended") or 0)

    def _note(self, *, live: bool) -> None:
        since = self.remote.since or time.time()
        self.remote = msgspec.structs.replace(self.remote, live=live, since=since)
        write_remote(self.run_dir, self.remote)

    def _say(self, words: str) -> None:
        if words != self.said:
            self.said = words
            self.emit.log("warning", words)


_DIED = "The supervisor in the notebook died without a word."
_AGAIN = "Look whether the notebook's machine could write its last files, then train.resume fetches them."


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: list[str]) -> int:
    """Entry point."""
    run_dir = Path(arguments[0]).absolute()
    emit = Emitter(run_dir)
    try:
        workspace = open_workspace(run_dir.parents[2])
        return asyncio.run(Agent(run_dir, workspace, emit).run())
    except HybridError as error:
        emit.error(str(error), error.hint)
    except OSError as error:
        emit.error(f"{error.filename or run_dir} can't be written: {error.strerror}.", "Free some space, then resume.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
