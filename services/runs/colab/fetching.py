"""Bringing what a run makes on its machine here: checkpoints and the result, verified, whole or not at all."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from services.errors import HybridError
from services.runs.colab import cell, parcel
from services.runs.colab.cli import Cli, CliError, Missing
from services.runs.colab.ends import check_machine
from services.runs.colab.equip import last_checkpoint
from services.runs.emit import Emitter
from services.runs.remote import Remote
from services.runs.types import RunSpec

_FETCH_FAILURES = 20


class Fetcher:
    """Fetches the parcels of the run on ``remote``. Its methods raise Lost and HybridError."""

    def __init__(self, run_dir: Path, spec: RunSpec, cli: Cli, emit: Emitter, remote: Remote) -> None:
        self.run_dir, self.spec, self.cli, self.emit, self.remote = run_dir, spec, cli, emit, remote
        self.there = cell.folder(spec.id).lstrip("/")
        self.parcels: dict[str, dict[str, Any]] = {}
        self.fetched: set[str] = set()
        self.failures = 0
        self.ended = False

    def told(self, parcels: dict[str, dict[str, Any]] | None, *, ended: bool) -> None:
        """What there is to fetch now (None: as before), and whether the run has ended there."""
        self.parcels = self.parcels if parcels is None else parcels
        self.ended = ended

    def next_parcel(self) -> str:
        """The parcel to fetch now, "" when all is here.

        The result first. While the run goes on, the oldest checkpoint: the machine keeps that one until it hears that
        it arrived, and newer ones only until there are still newer ones. At the end, the newest.
        """
        waiting = [name for name in self.parcels if name not in self.fetched]
        if "output" in waiting:
            return "output"
        return "" if not waiting else waiting[-1 if self.ended else 0]

    async def fetch(self, name: str) -> None:
        """Bring a parcel here, verified, whole or not at all; and say so when it is a checkpoint."""
        told = self.parcels[name]
        folder = self.run_dir / ".incoming" / name
        if told["kind"] == "checkpoint" and self._has_newer(int(told["step"])):
            await self._acknowledge(name)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in told["parts"]:
                there = f"{self.there}/outbox/{name}/{part['name']}"
                await self.cli.download(self.remote.name, there, folder / part["name"])
            await asyncio.to_thread(self._place, folder, told)
        except (parcel.Damaged, CliError) as error:
            if isinstance(error, Missing) and told["kind"] == "checkpoint":
                self.fetched.add(name)  # thinned out meanwhile: a newer one is told already, or soon
                return
            await check_machine(self.cli, self.remote, str(error))
            self.failures += 1
            if self.failures > _FETCH_FAILURES:
                raise HybridError(f"{name} can't be fetched whole from the machine: {error}.") from None
            self.emit.log("warning", f"{name} did not arrive whole, it is fetched again: {error}")
            await asyncio.sleep(1.0)
            return
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)
        if told["kind"] == "checkpoint":
            self.emit.ckpt(f"checkpoints/{name}", int(told["step"]), int(told["bytes"] or 0), str(told["sha256"] or ""))
            await asyncio.to_thread(self._thin_out)
            await self._acknowledge(name)
        else:
            self.fetched.add(name)
            self.emit.log("info", f"The adapter is here: {len(told['files'])} files, checksums verified.")

    def _has_newer(self, step: int) -> bool:
        last = last_checkpoint(self.run_dir)
        return last is not None and int(last.name[5:]) >= step

    async def _acknowledge(self, name: str) -> None:
        """Tell the machine that a checkpoint is here, so that it makes room for the next."""
        if self.ended:
            self.fetched |= {other for other, told in self.parcels.items() if told["kind"] == "checkpoint"}
            return
        self.fetched.add(name)
        empty = self.run_dir / ".got"
        empty.touch()
        try:
            await self.cli.upload(self.remote.name, empty, f"{self.there}/control/got-{name}")
        except CliError as error:
            await check_machine(self.cli, self.remote, str(error))
            self.fetched.discard(name)  # it is told again
            await asyncio.sleep(1.0)

    def _place(self, folder: Path, told: dict[str, Any]) -> None:
        unpacked = folder / "unpacked"
        parcel.unpack(folder, told["parts"], unpacked)
        made = unpacked / told["folder"]
        if parcel.digest(made) != told["files"]:
            raise parcel.Damaged("its files are not those that were packed")
        place = self.run_dir / ("checkpoints" if told["kind"] == "checkpoint" else ".") / told["folder"]
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)

    def _thin_out(self) -> None:
        steps = sorted(p for p in (self.run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit())
        for old in steps[: -max(1, self.spec.config.keep_checkpoints)]:
            shutil.rmtree(old, ignore_errors=True)
