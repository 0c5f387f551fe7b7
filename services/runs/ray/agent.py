"""Follows a run on a Ray cluster: ``python -m services.runs.ray.agent RUN_DIR``, the command of its supervisor here.

It submits the job under an id of its own, follows what the job prints, brings its checkpoints and result, and passes
wishes on. The stream of the job's log is a hint: it breaks, and starts again from its beginning, and events are taken
by their numbers; when the job is over its whole log is read once more, and what is missing even then comes from the
events' file that the job keeps on the head.
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

from services.errors import HybridError
from services.runs import spec as specs
from services.runs.emit import EXIT_CANCELLED, Emitter
from services.runs.events import Follower
from services.runs.feed import NOTHING_YET, Feed, passed_on
from services.runs.ray import api, parcel
from services.runs.ray.bringing import Bringer
from services.runs.ray.head import MARK
from services.runs.remote import Remote, read_remote, write_remote
from services.workspace import Workspace, open_workspace

_TICK_S = 0.2
_COST_S = 30.0
_HOUR = 3600.0
STOP_S = 180  # a stopped job's time: the trainer's checkpoint, then bringing it to the head


class Agent:
    """One run, from the job's submission to its result here."""

    def __init__(self, run_dir: Path, workspace: Workspace, emit: Emitter, jobs: api.Jobs) -> None:
        self.run_dir, self.emit, self.jobs = run_dir, emit, jobs
        self.settings = workspace.settings.ray
        self.spec = specs.read(run_dir)
        known = read_remote(run_dir)
        again = known is not None and known.live
        number = known.number + (not again) if known is not None else 1
        self.remote = known if known is not None and again else Remote("ray", f"{self.spec.id}-n{number}", True, number)
        self.again = again
        self.feed = Feed(emit, number, passed_on(run_dir).get(number, NOTHING_YET))
        self.told = {str(e.data.get("of")) for e in Follower(run_dir).all() if e.ev == "ckpt"}
        self.brought = max(
            (int(name.split("step-")[1].split("-")[0]) for name in self.told if name.endswith(f"-n{number}")), default=0
        )
        self.waiting: dict[str, dict[str, Any]] = {}  # checkpoints to bring
        self.output: dict[str, Any] | None = None
        self.log: dict[str, Any] | None = None
        self.fault: dict[str, Any] = {}
        self.stopped = False
        self.last_line = ""
        self.heard = time.monotonic()
        self.cost_at = 0.0

    async def run(self) -> int:
        """The whole way; the exit code. Raises HybridError."""
        await self._submit()
        place = f"{self.settings.folder}/{self.spec.id}"
        env = self.remote.data["env"]
        self.bringer = Bringer(self.jobs, self.spec.id, place, env)
        tail = asyncio.create_task(self._tail())
        try:
            status = await self._until_over()
        finally:
            tail.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tail
        return await self._over(status)

    async def _submit(self) -> None:
        """Bring the parcel and start the job, unless it is there: the id is written down before."""
        if self.again and await self.jobs.info(self.remote.name) is not None:
            self.emit.phase("running", f"following {self.remote.name} again")
            return
        if self.again and self.remote.data.get("env"):
            raise _Lost("The cluster knows nothing of the job any more: it was started anew.")
        self._note(live=True)
        self.emit.phase("provisioning", f"sending the parcel to {self.jobs.root}")
        about = parcel.job(self.spec, self.settings, self.remote.number, self._seconds_left())
        packed = await asyncio.to_thread(parcel.pack, self.spec, about, self._last_checkpoint())
        uri = await self.jobs.upload(packed)
        env: dict[str, Any] = {"working_dir": uri, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}
        if self.settings.packages:
            env["pip"] = list(self.settings.packages)
        command = "exec python -u -m services.runs.ray.head"
        await self.jobs.submit(self.remote.name, command, env, {"hybrid": self.spec.id})
        self.remote = msgspec.structs.replace(self.remote, data={"env": env, "cluster": self.jobs.root})
        self._note(live=True)
        self.emit.phase("provisioning", f"job {self.remote.name} is submitted")

    async def _tail(self) -> None:
        """Take what the job prints, for ever: whoever awaits the job's end cancels this."""
        while True:
            rest = ""
            async for text in self.jobs.tail(self.remote.name):
                *lines, rest = (rest + text).split("\n")
                self._take(lines)
            await asyncio.sleep(self.settings.poll_seconds)

    def _take(self, lines: list[str]) -> None:
        self.heard = time.monotonic()
        for line in lines:
            if not line.startswith(MARK):
                self.last_line = line.strip()[:300] or self.last_line
                continue
            with contextlib.suppress(ValueError):
                self._hear(json.loads(line.removeprefix(MARK)))

    def _hear(self, told: dict[str, Any]) -> None:
        if "event" in told:
            self.feed.take([told["event"]])
        if "ckpt" in told and told["ckpt"]["name"] not in self.told and int(told["ckpt"]["step"]) > self.brought:
            self.waiting[told["ckpt"]["name"]] = told["ckpt"]
        self.output = told.get("output", self.output)
        self.log = told.get("log", self.log)
        if "fault" in told:
            self.fault = told
        if "wait" in told and self.feed.have == 0:
            self.emit.phase("provisioning", str(told["wait"]))
        if "warn" in told and told["warn"] not in self.told:
            self.told.add(told["warn"])
            self.emit.log("warning", str(told["warn"]))

    async def _until_over(self) -> str:
        """The job's last status, "" when the cluster does not know it any more. Raises _Lost after long silence."""
        asked_at = 0.0
        while True:
            await self._ask()
            self._cost()
            await self._bring()
            if time.monotonic() - asked_at >= self.settings.poll_seconds:
                asked_at = time.monotonic()
                try:
                    info = await self.jobs.info(self.remote.name)
                    self.heard = time.monotonic()
                    if info is None or info["status"] in api.OVER:
                        return str(info["status"]) if info is not None else ""
                except api.Unreachable as error:
                    if time.monotonic() - self.heard > self.settings.lost_minutes * 60:
                        raise _Lost(f"{error} The cluster has been silent for too long.") from None
            await asyncio.sleep(_TICK_S)

    async def _ask(self) -> None:
        """Pass on what is wanted of the run."""
        if self.emit.cancelled() and not self.stopped:
            with contextlib.suppress(api.Unreachable):
                await self.jobs.stop(self.remote.name)
                self.stopped = True
        if self.emit.checkpoint_wanted():
            with contextlib.suppress(HybridError):
                await self.bringer.ask("checkpoint")

    async def _bring(self) -> None:
        """Bring the newest checkpoint; older ones that were not brought are passed over."""
        if not self.waiting:
            return
        name, told = max(self.waiting.items(), key=lambda one: int(one[1]["step"]))
        self.waiting.clear()
        target = self.run_dir / "checkpoints" / str(told["folder"])
        try:
            await self.bringer.folder(told, target)
        except HybridError as error:
            self.emit.log("warning", f"Checkpoint {told['folder']}: {error}")
            return
        self.told.add(name)
        self.brought = int(told["step"])  # the log is read again: older ones must not come after it
        size = sum(about["size"] for about in told["files"].values())
        data = {"path": f"checkpoints/{target.name}", "step": told["step"], "bytes": size, "sha256": told["sha256"]}
        self.emit.relay("ckpt", {**data, "of": name}, "")
        self._thin()

    def _thin(self) -> None:
        import shutil

        kept = self.spec.config.keep_checkpoints
        for path in sorted((self.run_dir / "checkpoints").glob("step-*"))[:-kept]:
            shutil.rmtree(path, ignore_errors=True)

    async def _over(self, status: str) -> int:
        """The job is over: the rest of its news, its files, then this ends as the run did."""
        with contextlib.suppress(HybridError):
            self._take((await self.jobs.logs(self.remote.name)).split("\n"))
        if self.feed.end is None or self.feed.missing:
            with contextlib.suppress(HybridError, ValueError, KeyError):
                self.feed.take(await self.bringer.events(self.remote.number))
        if self.feed.missing:
            self.emit.log("warning", f"{self.feed.give_up()} events of the job never came.")
        await self._bring()
        self._cost(now=True)
        end = self.feed.end
        if end is None:
            return self._broken(status)
        phase = str(end.get("phase"))
        if phase == "succeeded":
            await self._result()
        await self._show_log()
        self._note(live=False)
        if phase == "succeeded":
            with contextlib.suppress(HybridError):
                await self.bringer.ask("remove")
            return 0
        if phase == "cancelled":
            return EXIT_CANCELLED
        self.emit.error(str(end.get("reason") or "It gave no reason."), str(end.get("hint") or ""), phase)
        return 1

    def _broken(self, status: str) -> int:
        """The job ended without the run's end."""
        self._note(live=False)
        if self.stopped or self.fault.get("phase") == "cancelled":
            return EXIT_CANCELLED
        if not status:
            raise _Lost("The cluster knows nothing of the job any more: it was started anew.")
        last = f": {self.last_line}" if self.last_line else " without a word of the run."
        why = self.fault.get("fault") or f"The job ended as {status}{last}"
        self.emit.error(str(why), "train.resume goes on from the last checkpoint, as a new job.", "lost")
        return 1

    async def _result(self) -> None:
        if self.output is None:
            raise HybridError("The job has succeeded and told of no result.", hint="Its log on the cluster tells more.")
        self.emit.phase("stopping", "fetching the result")
        await self.bringer.folder(self.output, self.run_dir / "output")

    async def _show_log(self) -> None:
        """What the trainer printed, into this run's log.txt."""
        if self.log is not None and self.log["size"]:
            with contextlib.suppress(HybridError):
                found = await self.bringer.files({self.log["path"]: self.log})
                print(found[self.log["path"]].decode("utf-8", "replace"), flush=True)

    def _cost(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self.cost_at >= _COST_S:
            self.cost_at = time.monotonic()
            seconds = round(time.time() - self.remote.since, 1)
            rate = self.settings.money_per_hour
            money = {"money": round(seconds / _HOUR * rate, 4), "rate": rate, "currency": self.settings.currency}
            about = {**money, "source": "settings", "dated": self.settings.rates_dated} if rate else {}
            self.emit.cost(seconds, of=self.remote.name, **about)

    def _seconds_left(self) -> float:
        """What earlier jobs have left of the run's budget, at least one second; 0 without a budget."""
        allowed, rate = self.spec.max_seconds, self.settings.money_per_hour
        if self.spec.max_cost and rate:
            by_money = self.spec.max_cost / rate * _HOUR
            allowed = min(allowed, by_money) if allowed else by_money
        spent: dict[str, float] = {}
        for event in Follower(self.run_dir).all():
            if event.ev == "cost":
                spent[str(event.data.get("of"))] = float(event.data.get("seconds") or 0.0)
        return max(1.0, allowed - sum(spent.values())) if allowed else 0.0

    def _last_checkpoint(self) -> Path | None:
        return max((self.run_dir / "checkpoints").glob("step-*"), default=None)

    def _note(self, *, live: bool) -> None:
        since = self.remote.since or time.time()
        self.remote = msgspec.structs.replace(self.remote, live=live, since=since, machine=f"job {self.remote.name}")
        write_remote(self.run_dir, self.remote)


class _Lost(HybridError):
    """The cluster, or the job, is known to be gone."""


async def _main(run_dir: Path, emit: Emitter) -> int:
    workspace = open_workspace(run_dir.parents[2])
    async with api.Jobs(api.address(workspace.settings.ray.address), api.headers()) as jobs:
        agent = Agent(run_dir, workspace, emit, jobs)
        try:
            return await agent.run()
        except _Lost as error:
            agent._note(live=False)
            emit.error(str(error), "train.resume goes on from the last checkpoint, as a new job.", "lost")
            return 1


def main(arguments: list[str]) -> int:
    """Entry point."""
    run_dir = Path(arguments[0]).absolute()
    emit = Emitter(run_dir)
    try:
        return asyncio.run(_main(run_dir, emit))
    except HybridError as error:
        emit.error(str(error), error.hint)
    except OSError as error:
        emit.error(f"{error.filename or run_dir} can't be written: {error.strerror}.", "Free some space, then resume.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
