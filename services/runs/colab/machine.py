"""Getting a machine of Colab, verified, and giving it back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import msgspec

from services.errors import HybridError
from services.runs.colab import budget
from services.runs.colab.cli import Busy, Cli, CliError, Denied, SignIn, Usage
from services.runs.colab.ends import Cancelled, check_cancelled
from services.runs.colab.equip import Equipper
from services.runs.colab.meter import Meter
from services.runs.emit import Emitter
from services.runs.remote import Remote, write_remote
from services.runs.types import RunSpec
from services.settings import Colab

_BUSY_TRIES, _BUSY_S = 4, 30.0


class Maker:
    """Makes machines for the run in ``run_dir``. Emits what it does; raises Cancelled when the run is cancelled."""

    def __init__(self, run_dir: Path, spec: RunSpec, settings: Colab, cli: Cli, emit: Emitter) -> None:
        self.run_dir, self.spec, self.settings, self.cli, self.emit = run_dir, spec, settings, cli, emit
        self.meter = Meter(settings, "none", time.time())
        self.equipper = Equipper(run_dir, spec, settings, cli, emit)
        self._found: dict[str, Any] | None = None  # what the machine was when it was looked at

    async def get(self, number: int) -> Remote:
        """A machine with the accelerator asked for, or a fallback that is allowed; verified.

        Raises CliError when there is none: then nothing is left that costs.
        """
        self._found = None
        self.meter = Meter(self.settings, "none", time.time())
        budget.allowed(self.run_dir, self.spec, self.meter, f"hybrid-{self.spec.id}-{number}")
        wanted = str(self.spec.options.get("accelerator") or self.settings.accelerator)
        refused: list[str] = []
        last: CliError | None = None
        for accelerator in dict.fromkeys((wanted, *self.settings.fallbacks)):
            check_cancelled(self.emit)
            self.emit.phase("provisioning", f"asking Colab for {_words(accelerator)}")
            try:
                return await self._new(number, accelerator)
            except Denied as error:
                last = error
                refused.append(accelerator)
                self.emit.log("warning", str(error))
        assert last is not None
        raise Denied(f"Colab refused {', '.join(map(_words, refused))}: {last}", hint=last.hint)

    async def _new(self, number: int, accelerator: str) -> Remote:
        name = f"hybrid-{self.spec.id}-{number}"
        remote = Remote(
            "colab", name, True, number, time.time(), _words(accelerator),
            {"accelerator": accelerator, "stage": "asked"},
        )  # fmt: skip
        self.keep(remote)
        asked = asyncio.ensure_future(self._usage())
        try:
            await self._ask(name, accelerator)
        except (CliError, Cancelled):
            asked.cancel()
            self.keep(msgspec.structs.replace(remote, live=False))
            raise
        before = await asked
        remote = msgspec.structs.replace(remote, since=time.time())
        self.meter = Meter(self.settings, accelerator, remote.since)
        try:
            self.emit.phase("provisioning", f"looking at the machine with {_words(accelerator)}")
            looking = self.equipper.look(name)
            listed, after, self._found = await asyncio.gather(self.cli.sessions(), self._usage(), looking)
            mine = next((s for s in listed if s.name == name), None)
            hardware = mine.hardware if mine else "nothing"
            if mine is None or hardware.upper() != ("CPU" if accelerator == "none" else accelerator):
                raise Denied(f"Colab gave {hardware} where {_words(accelerator)} was asked for.")
            self.meter.begin(before, after)
            self._check_machine(self._found, accelerator)
            if self.spec.max_cost and self.meter.rate is None:
                raise HybridError(
                    f"The account doesn't tell what {_words(accelerator)} costs, so a budget in units can't be kept.",
                    hint="Set units_per_hour and rates_dated in [colab], or use budget_seconds.",
                )
        except BaseException:
            await self.give_back(remote)
            raise
        data = {**remote.data, "stage": "ready", "endpoint": mine.endpoint, "meter": self.meter.state}
        remote = msgspec.structs.replace(remote, machine=f"{_words(accelerator)}, {mine.endpoint}", data=data)
        self.keep(remote)
        return remote

    async def _ask(self, name: str, accelerator: str) -> None:
        for attempt in range(_BUSY_TRIES):
            try:
                return await self.cli.new(name, accelerator)
            except Busy as error:
                if attempt == _BUSY_TRIES - 1:
                    raise
                pause = float(self.spec.options.get("busy_s", _BUSY_S)) * 2**attempt
                self.emit.phase("provisioning", f"Colab is busy, asking again in {pause:.0f} s ({error})")
                await self._pause(pause)
        return None

    async def _usage(self) -> Usage | None:
        with contextlib.suppress(CliError):
            return await self.cli.usage()
        return None

    async def prepare(self, remote: Remote) -> list[dict[str, Any]]:
        """Install, mount Drive if asked, bring everything; the parts that were brought. Raises OverBudget."""
        found = self._found or await self.equipper.look(remote.name)
        await self.equipper.install(remote.name, found)
        if self.spec.options.get("mount_drive"):
            await self.equipper.mount(remote.name)
        seconds, words = budget.allowed(self.run_dir, self.spec, self.meter, remote.name)
        return await self.equipper.bring(remote, seconds, words)

    def _check_machine(self, found: dict[str, Any], accelerator: str) -> None:
        gpus = found["gpus"]
        if accelerator != "none" and not any(accelerator.lower() in gpu.lower() for gpu in gpus):
            raise Denied(f"The machine has {', '.join(gpus) or 'no GPU'} where {accelerator} was asked for.")
        if tuple(map(int, found["python"].split(".")[:2])) < (3, 11):
            raise HybridError(f"The machine's Python is {found['python']}; the trainer needs 3.11.")
        what = ", ".join(gpus) or "no GPU"
        self.emit.log("info", f"The machine: {what}, Python {found['python']}, {found['free'] / 1e9:.0f} GB free.")

    async def give_back(self, remote: Remote) -> bool:
        """Release the machine and note that; False when that can't be confirmed, and it may go on costing."""
        for pause in (0.0, 2.0, 5.0):
            await asyncio.sleep(pause)
            try:
                await self.cli.stop(remote.name)
                self.keep(msgspec.structs.replace(remote, live=False))
                return True
            except SignIn as error:
                print(error)  # to log.txt
                break  # asking again would change nothing
            except CliError as error:
                print(error)
            with contextlib.suppress(CliError):
                endpoint = remote.data.get("endpoint")
                if all(s.name != remote.name and s.endpoint != endpoint for s in await self.cli.sessions()):
                    self.keep(msgspec.structs.replace(remote, live=False))
                    return True
        if await self._goes_by_itself(remote):
            self.keep(msgspec.structs.replace(remote, live=False))
            return True
        self.emit.log(
            "error", f"{remote.machine} can't be given back; train.release session={remote.name} tries again."
        )
        return False

    async def _goes_by_itself(self, remote: Remote) -> bool:
        """Ask the driver there to give the machine back, for where the account can't be used any more."""
        empty, probe = self.run_dir / "control" / ".release", self.run_dir / ".probe"
        if remote.data.get("stage") != "started":
            return False
        empty.touch()
        try:
            await self.cli.upload(remote.name, empty, self.equipper.there("control/release"))
        except CliError:
            return False
        finally:
            empty.unlink(missing_ok=True)
        for _ in range(5):
            await asyncio.sleep(1.0)
            try:
                await self.cli.download(remote.name, self.equipper.there("outbox/news.json"), probe)
            except SignIn:
                return False
            except CliError:
                return True  # it was there a moment ago, and is not any more
            finally:
                probe.unlink(missing_ok=True)
        return False

    def keep(self, remote: Remote) -> None:
        """Write remote.json."""
        write_remote(self.run_dir, remote)

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            check_cancelled(self.emit)
            await asyncio.sleep(min(0.2, seconds))


def _words(accelerator: str) -> str:
    return "a CPU" if accelerator == "none" else accelerator
