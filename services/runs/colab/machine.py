"""Getting a machine of Colab and making it ready for a run; giving it back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.errors import HybridError
from services.runs import events, view
from services.runs.colab import cell, parcel
from services.runs.colab.cli import Busy, Cli, CliError, Denied, SignIn, Usage, kill
from services.runs.colab.driver import MARK
from services.runs.colab.meter import Meter
from services.runs.emit import Emitter
from services.runs.remote import Remote, write_remote
from services.runs.types import RunSpec
from services.settings import Colab

# What the trainer takes beside torch, which Colab has: as in pyproject's extra "models" (a test holds them together).
PACKAGES = (
    "msgspec>=0.20", "torch", "transformers>=5.20,<6", "peft>=0.21,<0.22", "accelerate>=1.15", "safetensors>=0.8",
)  # fmt: skip
CONSENT_S = 600.0  # the machine bills while it waits
_BUSY_TRIES, _BUSY_S = 4, 30.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_LINK = re.compile(r"https?://\S+")


class Cancelled(Exception):
    """The run was cancelled before it could run."""


class OverBudget(Exception):
    """The budget leaves nothing to run with."""


class Maker:
    """Makes machines for the run in ``run_dir``. Emits what it does; raises Cancelled when the run is cancelled."""

    def __init__(self, run_dir: Path, spec: RunSpec, settings: Colab, cli: Cli, emit: Emitter) -> None:
        self.run_dir, self.spec, self.settings, self.cli, self.emit = run_dir, spec, settings, cli, emit
        self.meter = Meter(settings, "none", time.time())
        self._found: dict[str, Any] | None = None  # what the machine was when it was looked at

    async def get(self, number: int) -> Remote:
        """A machine with the accelerator asked for, or a fallback that is allowed; verified.

        Raises CliError when there is none: then nothing is left that costs.
        """
        self._found = None
        self.meter = Meter(self.settings, "none", time.time())
        self.allowed(f"hybrid-{self.spec.id}-{number}")
        wanted = str(self.spec.options.get("accelerator") or self.settings.accelerator)
        refused: list[str] = []
        last: CliError | None = None
        for accelerator in dict.fromkeys((wanted, *self.settings.fallbacks)):
            self._check_cancelled()
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
            listed, after, self._found = await asyncio.gather(self.cli.sessions(), self._usage(), self._look(name))
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
        """Check the machine, install, mount Drive if asked, bring everything; the parts that were brought."""
        found = self._found or await self._look(remote.name)
        missing = self._missing(found["versions"])
        if missing:
            self._check_cancelled()
            self.emit.phase("provisioning", f"installing {', '.join(missing)}")
            said = await self.cli.install(remote.name, missing)
            found = await self._look(remote.name)
            if missing := self._missing(found["versions"]):
                print(said)  # to log.txt
                raise HybridError(
                    f"{', '.join(missing)} can't be installed on the machine.", hint="log.txt has what pip said."
                )
        if self.spec.options.get("mount_drive"):
            await self._mount(remote.name)
        return await self._bring(remote)

    async def _look(self, name: str) -> dict[str, Any]:
        names = tuple(_requirement(word).name for word in self._packages())
        said = await self.cli.execute(name, cell.look(self.spec.id, names))
        for line in said.out.splitlines():
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line[len(MARK) :])
                return found
        raise CliError(f"The machine did not answer: {said.last[:300] or 'nothing was printed'}.")

    def _check_machine(self, found: dict[str, Any], accelerator: str) -> None:
        gpus = found["gpus"]
        if accelerator != "none" and not any(accelerator.lower() in gpu.lower() for gpu in gpus):
            raise Denied(f"The machine has {', '.join(gpus) or 'no GPU'} where {accelerator} was asked for.")
        if tuple(map(int, found["python"].split(".")[:2])) < (3, 11):
            raise HybridError(f"The machine's Python is {found['python']}; the trainer needs 3.11.")
        what = ", ".join(gpus) or "no GPU"
        self.emit.log("info", f"The machine: {what}, Python {found['python']}, {found['free'] / 1e9:.0f} GB free.")

    def _packages(self) -> tuple[str, ...]:
        return self.settings.packages or PACKAGES

    def _missing(self, versions: dict[str, str | None]) -> list[str]:
        wanted = [(word, _requirement(word)) for word in self._packages()]
        return [word for word, r in wanted if not ((v := versions.get(r.name)) and r.specifier.contains(v, True))]

    async def _mount(self, name: str) -> None:
        """Mount Google Drive; where Google wants a consent, show its link and wait for ``train.consent``."""
        self.emit.phase("provisioning", "mounting Google Drive")
        child = await self.cli.mount(name)
        assert child.stdout is not None and child.stdin is not None
        said: list[str] = []
        until = time.monotonic() + CONSENT_S
        reading = asyncio.ensure_future(child.stdout.readline())
        try:
            while time.monotonic() < until:
                await asyncio.wait({reading}, timeout=0.2)
                self._check_cancelled()
                if self.emit.asked("consent"):
                    child.stdin.write(b"\n")
                    self.emit.phase("provisioning", "mounting Google Drive, as you agreed")
                if not reading.done():
                    continue
                line = reading.result().decode("utf-8", "replace")
                if not line:
                    break
                said.append(line.strip())
                if (link := _LINK.search(line)) and "REQUIRED" in "".join(said):
                    self.emit.phase("provisioning", "Google Drive waits for your consent", wants=link[0])
                reading = asyncio.ensure_future(child.stdout.readline())
            if not any("ounted at" in line for line in said):
                why = next((line for line in reversed(said) if line), "no consent came within 10 minutes")
                raise HybridError(f"Google Drive can't be mounted: {why.rstrip('.')}.", hint="Or run without it.")
        finally:
            reading.cancel()
            if child.returncode is None:
                kill(child)
            await child.wait()

    async def _bring(self, remote: Remote) -> list[dict[str, Any]]:
        outgoing = self.run_dir / "outgoing"
        try:
            spec, config = self._spec_there(remote)
            parts = await asyncio.to_thread(self._pack, spec, config, outgoing)
            total = sum(part["bytes"] for part in parts)
            for index, part in enumerate(parts):
                self._check_cancelled()
                done = f"{index + 1} of {len(parts)}" if len(parts) > 1 else "all"
                self.emit.phase("provisioning", f"bringing code, data and model, {total / 1e6:.1f} MB ({done})")
                await self.cli.upload(remote.name, outgoing / part["name"], self._there(f"in/{part['name']}"))
            secrets = {name: os.environ[name] for name in self.spec.env_names if name in os.environ}
            if secrets:
                path = outgoing / "secrets.json"
                path.touch(mode=0o600)
                path.write_bytes(msgspec.json.encode(secrets))
                await self.cli.upload(remote.name, path, self._there("in/secrets.json"))
        finally:
            await asyncio.to_thread(shutil.rmtree, outgoing, True)
        return parts

    def _there(self, name: str) -> str:
        """A path for the CLI's transfers: without the leading slash."""
        return f"{cell.folder(self.spec.id)}/{name}".lstrip("/")

    def _pack(self, spec: RunSpec, config: dict[str, Any], outgoing: Path) -> list[dict[str, Any]]:
        """Everything the machine needs, as one parcel."""
        staged = self.run_dir / "outgoing.files"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        try:
            (staged / "spec.json").write_bytes(msgspec.json.encode(spec))
            (staged / "driver.json").write_text(json.dumps(config), encoding="utf-8")
            entries = [(staged / "spec.json", "spec.json"), (staged / "driver.json", "driver.json")]
            entries += [(path, f"code/{name}") for path, name in code_files()]
            entries += [(Path(self.spec.data), "data")] if Path(self.spec.data).is_dir() else []
            entries += [(Path(self.spec.model), "model")] if Path(self.spec.model).is_dir() else []
            last = last_checkpoint(self.run_dir)
            entries += [(last, f"checkpoints/{last.name}")] if last else []
            return parcel.pack(outgoing, entries)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _spec_there(self, remote: Remote) -> tuple[RunSpec, dict[str, Any]]:
        """The spec as the machine's supervisor reads it, and its driver's settings."""
        there = cell.folder(self.spec.id)
        allowed, words = self.allowed(remote.name)
        command = tuple(word.replace("{run}", there) for word in self.spec.remote)
        spec = msgspec.structs.replace(
            self.spec, target="local", command=command, cwd=f"{there}/code", remote=(), options={},
            model=f"{there}/model" if Path(self.spec.model).is_dir() else self.spec.model,
            data=f"{there}/data" if Path(self.spec.data).is_dir() else self.spec.data,
            max_seconds=allowed, max_cost=0.0, budget=words, grace_s=float(self.spec.options.get("grace_s", 60.0)),
        )  # fmt: skip
        return spec, self._driver_config(remote, allowed)

    def allowed(self, name: str) -> tuple[float, str]:
        """(seconds that the budgets leave the machine ``name`` from now on, 0 without any; the budget in words).

        Raises OverBudget.
        """
        seconds, units = spent_elsewhere(self.run_dir, name)
        limits: list[tuple[float, str]] = []
        if self.spec.max_seconds:
            left = self.spec.max_seconds - seconds - (time.time() - self.meter.since)
            limits.append((left, f"{self.spec.max_seconds:g} s"))
        if self.spec.max_cost:
            left = self.spec.max_cost - units - self.meter.now()
            rate = self.meter.rate or 1.0
            limits.append((left / rate * 3600, f"{self.spec.max_cost:g} units (at {rate:g} an hour)"))
        if not limits:
            return 0.0, ""
        left, words = min(limits)
        if left <= 0:
            raise OverBudget(words)
        return left, words

    def _driver_config(self, remote: Remote, allowed: float) -> dict[str, Any]:
        drive = f"/content/drive/MyDrive/hybrid-runs/{self.spec.id}" if self.spec.options.get("mount_drive") else ""
        options = self.spec.options
        return {
            "number": remote.number, "max_seconds": allowed, "grace_s": float(options.get("grace_s", 60.0)),
            "idle_s": float(options.get("idle_s", self.settings.idle_minutes * 60)),
            "beat_s": float(options.get("beat_s", 10.0)), "drive": drive,
        }  # fmt: skip

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
            await self.cli.upload(remote.name, empty, self._there("control/release"))
        except CliError:
            return False
        finally:
            empty.unlink(missing_ok=True)
        for _ in range(5):
            await asyncio.sleep(1.0)
            try:
                await self.cli.download(remote.name, self._there("outbox/news.json"), probe)
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
            self._check_cancelled()
            await asyncio.sleep(min(0.2, seconds))

    def _check_cancelled(self) -> None:
        if self.emit.cancelled():
            raise Cancelled


def spent_elsewhere(run_dir: Path, name: str) -> tuple[float, float]:
    """(seconds, units) that the run has used on other machines than ``name``, by its events."""
    costs = view.fold(events.Follower(run_dir).all()).costs
    others = [data for of, data in costs.items() if of != name]
    return sum(float(d.get("seconds") or 0) for d in others), sum(float(d.get("units") or 0) for d in others)


def code_files() -> Iterator[tuple[Path, str]]:
    """Every file of this package that the machine needs, with its name there; also from an installed package."""
    for path in sorted((_PACKAGE_ROOT / "services").rglob("*")):
        if path.is_file() and path.suffix in (".py", ".toml", ".typed"):
            yield path, path.relative_to(_PACKAGE_ROOT).as_posix()


def last_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint that is here."""
    found = [p for p in (run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    return max(found, key=lambda path: int(path.name[5:]), default=None)


def _words(accelerator: str) -> str:
    return "a CPU" if accelerator == "none" else accelerator


def _requirement(word: str) -> Any:
    from packaging.requirements import Requirement

    return Requirement(word)
