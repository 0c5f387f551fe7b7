"""The program's own work on the account: folders up and down, a worker killed and gone on with, the registry."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from services.context import Context
from services.drive import google_session
from services.drive.api.types import Stats
from services.registry.actions import AddParams, PromoteParams, add, promote, resolve
from services.registry.types import Version
from services.transfers import items
from services.transfers.actions import PullParams, PushParams, VerifyParams, pull, push, verify
from services.transfers.queue_actions import TransferParams, resume
from services.transfers.types import Moved, TransferView
from services.transfers.view import read
from tests.drive.live.report import NotSeen, Other
from tests.transfers.beds import tree_of, worker_of

MIB = 1 << 20
_HOUR = 3600.0


class Work:
    """With a folder of ``files`` small files and one of ``megabytes`` MiB in ``box``."""

    def __init__(self, ctx: Context, box: Path, files: int, megabytes: int) -> None:
        self.ctx = ctx
        self.up = box / "up"
        self.large = box / "large"
        self.down = box / "down"
        self.files, self.megabytes = files, megabytes
        for folder in (self.up, self.large):
            folder.mkdir()
        for n in range(files):
            (self.up / f"file {n:04d}.bin").write_bytes(os.urandom(100_000))
        with (self.large / "weights.bin").open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(MIB))

    async def small_files(self) -> str:
        """Push the small files: how fast, and whether Drive asked to slow down."""
        before = await self._stats()
        done = await push(self.ctx, PushParams(str(self.up), "models/live"))
        if not isinstance(done, Moved) or (done.files, done.verified) != (self.files, self.files):
            raise Other(f"told {done}")
        after = await self._stats()
        again = await push(self.ctx, PushParams(str(self.up), "models/live"))
        if not isinstance(again, Moved) or again.same != self.files:
            raise Other(f"pushed again it told {again}")
        limited = f"; last trouble: {after.last_trouble}" if after.retries > before.retries else ""
        return (
            f"{self.files} files in {done.seconds:.1f} s, {after.retries - before.retries} requests repeated{limited}; "
            "pushed again nothing was sent"
        )

    async def killed(self) -> str:
        """Push the large file in the background, kill -9 its worker, let another one go on."""
        view = await push(self.ctx, PushParams(str(self.large), "models/large", background=True))
        assert isinstance(view, TransferView)
        half = await self._until(view.id, lambda v: v.done_bytes * 5 >= v.total_bytes > 0 or v.state == "done")
        worker = worker_of(self.ctx.workspace.root)
        if half.state == "done" or worker is None:
            raise NotSeen("it was done before it could be killed: give a larger --mb")
        worker.kill()
        worker.wait(10)
        stopped = await self._until(view.id, lambda v: v.state in ("interrupted", "failed", "done"))
        await resume(self.ctx, TransferParams(view.id))
        done = await self._until(view.id, lambda v: v.state in ("done", "failed"))
        told = f"killed at {stopped.done_bytes / MIB:.1f} of {done.total_bytes / MIB:.1f} MiB; told as moved in all: "
        told += f"{done.moved_bytes / MIB:.1f} MiB"
        if done.state != "done":
            raise Other(f"{told}; then {done.state}: {done.reason}")
        return told

    async def both_down(self) -> str:
        """Pull both folders into empty ones, compare every byte here, and ask Drive's checksums."""
        begun, told = time.monotonic(), []
        for name, there in (("live", self.up), ("large", self.large)):
            here = self.down / name
            moved = await pull(self.ctx, PullParams(f"models/{name}", str(here)))
            if tree_of(here) != tree_of(there):
                raise Other(f"models/{name} came down with other bytes: {moved}")
            checked = await verify(self.ctx, VerifyParams(f"models/{name}", str(here)))
            told.append(f"{name}: {checked.by_sha256} by sha256, {checked.by_md5} by md5")
        return f"equal, in {time.monotonic() - begun:.1f} s; verified {', '.join(told)}"

    async def registry(self) -> str:
        """Add two versions, promote each, resolve the alias."""
        for n in (1, 2):
            version = await add(self.ctx, AddParams(model="live", path=str(self._adapter(n))))
            if not isinstance(version, Version) or version.version != n or version.warnings:
                raise Other(f"version {n}: {version}")
            await promote(self.ctx, PromoteParams(model="live", version=str(n), expected=n - 1))
        found = await resolve(self.ctx, "live", "deployed")
        if found.version != 2 or not (Path(found.path) / "manifest.json").is_file():
            raise Other(f"deployed is {found}")
        return "live@1 and live@2 added and promoted; deployed is live@2, fetched and whole"

    def _adapter(self, n: int) -> Path:
        folder = self.down.parent / f"adapter-{n}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "none"}))
        (folder / "adapter_model.safetensors").write_bytes(bytes([n]) * 5000)
        (folder / "metadata.json").write_text(json.dumps({"base_model": "none", "metrics": {"accuracy": n / 10}}))
        return folder

    async def _stats(self) -> Stats:
        stats = (await google_session.session(self.ctx.workspace)).client.stats
        return Stats(requests=stats.requests, retries=stats.retries, last_trouble=stats.last_trouble)

    async def _until(self, id: str, condition: object) -> TransferView:
        assert callable(condition)
        folder, end = items.queue(self.ctx.workspace) / id, time.monotonic() + _HOUR
        while not condition(seen := read(self.ctx.workspace, folder)):
            if time.monotonic() > end:
                raise Other(f"after an hour it is {seen.state}: {seen.reason or seen.trouble}")
            await asyncio.sleep(0.05)
        return seen
