"""The agent of a run on Colab: ``python -m services.runs.colab.agent RUN_DIR``, run by the supervisor on this box.

It gets a machine, starts the run there and follows it; or, when the run has a machine that may live, it goes on
following that one. It gives the machine back whatever happens to the run. Of a run whose machine was taken away it
goes on from the last checkpoint that reached this box, on a new machine, as often as ``[colab] renew`` allows.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from pathlib import Path

import msgspec

from services.errors import HybridError
from services.runs import spec as specs
from services.runs.colab import cell
from services.runs.colab import cli as clis
from services.runs.colab.ends import Cancelled, Lost, NotStarted, OverBudget, Vanished, check_machine
from services.runs.colab.equip import last_checkpoint
from services.runs.colab.follow import Follower
from services.runs.colab.machine import Maker
from services.runs.colab.meter import Meter
from services.runs.emit import EXIT_CANCELLED, Emitter
from services.runs.remote import Remote, read_remote
from services.workspace import open_workspace


class Agent:
    """One attempt of the run in ``run_dir``, seen from this box."""

    def __init__(self, run_dir: Path, emit: Emitter) -> None:
        self.run_dir, self.emit = run_dir, emit
        self.spec = specs.read(run_dir)
        self.settings = open_workspace(run_dir.parents[2]).settings.colab
        self.cli = clis.Cli(clis.find(self.settings))
        self.maker = Maker(run_dir, self.spec, self.settings, self.cli, emit)
        self.renewals = self.settings.renew
        self.follow_only = emit.asked("follow")  # asked by nobody in person: then no new machine is paid for

    async def run(self) -> int:
        """Until the run has ended here; the exit code. Raises HybridError."""
        known = read_remote(self.run_dir)
        remote = await self._reattach(known) if known is not None and known.live else None
        number = known.number if known is not None else 0
        while True:
            if remote is None:
                number += 1
                remote = await self.maker.get(number)
            try:
                code = await self._serve(remote)
            except Lost as error:
                self.maker.keep(msgspec.structs.replace(remote, live=False))
                self._on_lost(error)
                remote = None
                continue
            except BaseException:
                await self.maker.give_back(remote)
                raise
            return code

    async def _reattach(self, known: Remote) -> Remote | None:
        """The machine that the run has, or None when it is gone."""
        self.emit.phase("provisioning", f"looking for {known.machine}")
        listed = await self.cli.sessions()
        mine = next((session for session in listed if session.name == known.name), None)
        if mine is None:
            self.maker.keep(msgspec.structs.replace(known, live=False))
            if self.follow_only:
                raise Vanished(f"{known.machine} is gone.", hint="train.resume goes on from what reached this box.")
            self.emit.log("warning", f"{known.machine} is gone; the run goes on from what reached this box.")
            return None
        accelerator = str(known.data.get("accelerator"))
        self.maker.meter = Meter(self.settings, accelerator, known.since, known.data.get("meter"))
        if known.data.get("stage") == "asked":
            known = msgspec.structs.replace(known, data={**known.data, "stage": "ready", "endpoint": mine.endpoint})
            self.maker.meter.begin(None, None)
        self.emit.log("info", f"Reattached to {known.machine}.")
        return known

    async def _serve(self, remote: Remote) -> int:
        """Run on ``remote`` to the end, give it back; the exit code. Raises Lost, HybridError."""
        follower = Follower(self.run_dir, self.spec, self.cli, self.emit, remote, self.maker.meter)
        stream: asyncio.subprocess.Process | None = None
        try:
            for _ in range(2):
                try:
                    if remote.data.get("stage") != "started":
                        remote, stream = await self._start(remote)
                        follower.remote = remote
                    end = await follower.follow(stream)
                    break
                except NotStarted as error:
                    if stream is not None:
                        why = str(error) or "nothing was heard of it"
                        raise HybridError(f"The run could not be started on {remote.machine}: {why}.") from None
                    remote = msgspec.structs.replace(remote, data={**remote.data, "stage": "ready"})
            else:  # pragma: no cover - the second round has a stream
                raise HybridError(f"The run could not be started on {remote.machine}.")
        except clis.Gone as error:
            raise Lost(str(error)) from None
        except clis.Busy as error:
            await check_machine(self.cli, remote, str(error))
            raise
        finally:
            if stream is not None:
                clis.kill(stream) if stream.returncode is None else None
                await stream.wait()
        await self.maker.give_back(remote)
        await follower.tell_cost(ask=False)
        return self._conclude(end, spent=follower.spent_all)

    async def _start(self, remote: Remote) -> tuple[Remote, asyncio.subprocess.Process]:
        parts = await self.maker.prepare(remote)
        data = {**remote.data, "stage": "started", "meter": self.maker.meter.state, "at": time.time()}
        remote = msgspec.structs.replace(remote, data=data)
        self.maker.keep(remote)
        path = self.run_dir / "cell.py"
        path.write_text(cell.start(self.spec.id, parts), encoding="utf-8")
        self.emit.phase("preparing", f"starting on {remote.machine}")
        return remote, await self.cli.start(remote.name, path)

    def _conclude(self, end: dict[str, object], *, spent: bool) -> int:
        phase, reason, hint = (str(end.get(key) or "") for key in ("phase", "reason", "hint"))
        if phase == "succeeded":
            if not (self.run_dir / "output").is_dir():
                raise HybridError("The run succeeded there, but made no result.", hint="log.txt has all it printed.")
            return 0
        if spent:
            phase, reason = "over-budget", f"The run's budget of {self.spec.max_cost:g} units is used up."
        if phase == "cancelled":
            return EXIT_CANCELLED
        self.emit.error(reason or "It gave no reason.", hint, "over-budget" if phase == "over-budget" else "failed")
        return 1

    def _on_lost(self, error: Lost) -> None:
        if self.emit.cancelled():
            raise Cancelled
        last = last_checkpoint(self.run_dir)
        on = f"step {int(last.name[5:])}" if last else "the beginning: no checkpoint had reached this box"
        if self.renewals <= 0:
            raise Vanished(
                f"Colab took the machine away ({str(error).rstrip('.')}).", hint=f"train.resume goes on from {on}."
            )
        self.renewals -= 1
        self.emit.log("warning", f"Colab took the machine away; going on from {on} on a new one.")


def main(arguments: list[str]) -> int:
    """Entry point; see the module's text."""
    if len(arguments) != 1:
        print("Usage: python -m services.runs.colab.agent RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).absolute()
    emit = Emitter(run_dir)
    try:
        return asyncio.run(Agent(run_dir, emit).run())
    except Cancelled:
        return EXIT_CANCELLED
    except OverBudget as error:
        emit.error(f"The run's budget of {error} is used up.", "A larger budget goes on.", "over-budget")
    except Vanished as error:
        emit.error(str(error), error.hint, "lost")
    except HybridError as error:
        emit.error(str(error), error.hint)
    except Exception as error:
        traceback.print_exc()
        emit.error(f"The agent failed: {type(error).__name__}: {error}.", "log.txt has the whole trace.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
