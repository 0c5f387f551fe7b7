"""Transfers as a state machine: any faults, in any order, cancelled and killed at any moment.

Whatever happened: what is at its place is whole, each local file is on Drive once at most, and once the faults are
lifted every transfer ends well.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.drive.api import downloads, session
from services.drive.api.client import DriveClient
from services.errors import HybridError
from tests.drive.api.conftest import IMPATIENT
from tests.drive_bed.serve import CHECKOUT, DriveServer

KB, MB = 1 << 10, 1 << 20
SIZES = st.sampled_from([0, 1, 50 * KB, 1 * MB, 1 * MB + 1, 2 * MB, 2 * MB + 1, 3 * MB + 333, 5 * MB])
OFFSETS = st.sampled_from([0, 7, 40 * KB, 400 * KB, 1 * MB + 5])
FAULTS = st.one_of(
    st.fixed_dictionaries({"status": st.sampled_from([500, 503, 429]), "retry_after": st.just(0)}),
    st.fixed_dictionaries(
        {"status": st.just(403), "reason": st.sampled_from(["rateLimitExceeded", "storageQuotaExceeded"])}
    ),
    st.fixed_dictionaries({"status": st.just(401), "reason": st.just("authError")}),
    st.fixed_dictionaries({"drop_request_at": OFFSETS, "reset": st.booleans()}),
    st.fixed_dictionaries({"drop_response_at": OFFSETS, "reset": st.booleans()}),
    st.fixed_dictionaries({"commit_at_most": OFFSETS}),
    st.fixed_dictionaries({"corrupt_stored": OFFSETS}),
    st.fixed_dictionaries({"corrupt_at": OFFSETS}),
    st.fixed_dictionaries({"truncate_at": OFFSETS}),
    st.just({"forget_session": True}),
    st.just({"lose_reply": True}),
    st.just({"stale": 60.0}),
)
_KILLED = """
import asyncio, json, sys
from tests.drive.api.test_machine import one_transfer
asyncio.run(one_transfer(json.loads(sys.argv[1])))
"""


async def one_transfer(told: dict[str, Any]) -> None:
    """In a process that is going to be killed; it says when bytes begin to move."""
    server = DriveServer(told["url"], Path(told["place"]))
    account = server.account()
    client = DriveClient(
        server.tokens(account), server.settings(account), Path(told["place"]) / "state", retry=IMPATIENT
    )

    def begun(n: int) -> None:
        if n > 0:
            print("moving", flush=True)

    if told["up"]:
        await client.upload(Path(told["local"]), told["name"], told["folder"], begun)
        return
    file = await client.get(told["id"])
    assert file is not None
    await client.download(file, Path(told["local"]), begun)


class Transfers(RuleBasedStateMachine):
    """``server`` is set by the test."""

    server: DriveServer

    @initialize()
    def begin(self) -> None:
        self.holder = tempfile.TemporaryDirectory(prefix="machine-")
        self.place = Path(self.holder.name)
        self.server.reset(self.place / "drive")
        self.account = self.server.account()
        self.folder = self.account.put("work")
        self.local: dict[str, bytes] = {}
        self.remote: dict[str, tuple[str, bytes]] = {}
        self.kills = 0
        self.runner = asyncio.Runner()

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.server.clear()
        for name in self.local:
            self.upload(name)
        for name in self.remote:
            self.download(name)
        self.whole()
        files = [one for one in self.server.files if not one.trashed and one.size is not None]
        assert sorted(one.name for one in files) == sorted([*self.local, *self.remote])
        held = {one.name: one for one in files}
        assert all(held[name].read() == data for name, data in self.local.items())
        assert all((self.place / "down" / name).read_bytes() == data for name, (_, data) in self.remote.items())
        self.runner.close()
        self.holder.cleanup()

    # what there is

    @rule(size=SIZES)
    def make(self, size: int) -> None:
        name, data = f"up{len(self.local)}", random.Random(len(self.local)).randbytes(size)
        (self.place / name).write_bytes(data)
        self.local[name] = data

    @rule(size=SIZES)
    def place_on_drive(self, size: int) -> None:
        name, data = f"down{len(self.remote)}", random.Random(-1 - len(self.remote)).randbytes(size)
        (self.place / name).write_bytes(data)
        id = self.server.call(
            "put", email=self.account.email, client=self.account.client, name=name, parent=self.folder,
            path=str(self.place / name),
        )["id"]  # fmt: skip
        self.remote[name] = (id, data)

    @rule(fault=FAULTS, after=st.integers(0, 3), times=st.integers(1, 3))
    def strike(self, fault: dict[str, Any], after: int, times: int) -> None:
        self.server.fault(path="/v3/", after=after, times=times, **fault)

    # what is done

    @contextlib.contextmanager
    def client(self) -> Iterator[DriveClient]:
        """As a process of its own would have it."""
        client = DriveClient(
            self.server.tokens(self.account), self.server.settings(self.account), self.place / "state", retry=IMPATIENT
        )
        try:
            yield client
        finally:
            self.runner.run(client.close())

    async def _up(self, client: DriveClient, name: str) -> None:
        await client.upload(self.place / name, name, self.folder, lambda n: None)

    async def _down(self, client: DriveClient, name: str) -> None:
        id, _ = self.remote[name]
        file = await client.get(id)
        assert file is not None
        await client.download(file, self.place / "down" / name, lambda n: None)

    def _run(self, work: Coroutine[None, None, None], *, may_fail: bool) -> None:
        try:
            self.runner.run(work)
        except HybridError:
            if not may_fail:
                raise

    def upload(self, name: str, *, may_fail: bool = False) -> None:
        with self.client() as client:
            self._run(self._up(client, name), may_fail=may_fail)

    def download(self, name: str, *, may_fail: bool = False) -> None:
        with self.client() as client:
            self._run(self._down(client, name), may_fail=may_fail)

    @precondition(lambda self: self.local)
    @rule(data=st.data())
    def some_upload(self, data: st.DataObject) -> None:
        self.upload(data.draw(st.sampled_from(sorted(self.local))), may_fail=True)

    @precondition(lambda self: self.remote)
    @rule(data=st.data())
    def some_download(self, data: st.DataObject) -> None:
        self.download(data.draw(st.sampled_from(sorted(self.remote))), may_fail=True)

    @precondition(lambda self: self.local or self.remote)
    @rule(data=st.data(), turns=st.integers(0, 60))
    def cancelled(self, data: st.DataObject, turns: int) -> None:
        """Given up after so many turns of the loop."""
        name = data.draw(st.sampled_from(sorted({*self.local, *self.remote})))

        async def cut(client: DriveClient) -> None:
            task = asyncio.create_task(self._up(client, name) if name in self.local else self._down(client, name))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, HybridError):
                await task

        with self.client() as client:
            self.runner.run(cut(client))

    @precondition(lambda self: self.kills < 1 and (self.local or self.remote))
    @rule(data=st.data(), wait=st.sampled_from([0.0, 0.004, 0.02]))
    def killed(self, data: st.DataObject, wait: float) -> None:
        """``kill -9`` of a process of its own, some moments after bytes began to move."""
        self.kills += 1
        name = data.draw(st.sampled_from(sorted({*self.local, *self.remote})))
        up = name in self.local
        told = {
            "url": self.server.url, "place": str(self.place), "up": up, "name": name, "folder": self.folder,
            "local": str(self.place / name if up else self.place / "down" / name),
            "id": "" if up else self.remote[name][0],
        }  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-c", _KILLED, json.dumps(told)], cwd=CHECKOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait or 0.0001)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

    # what holds at all times

    @invariant()
    def whole(self) -> None:
        if not hasattr(self, "runner"):
            return
        for name, (_, data) in self.remote.items():
            local = self.place / "down" / name
            if local.exists():
                assert local.read_bytes() == data
        names = [one.name for one in self.server.files if not one.trashed and self._right(one.name, one)]
        assert len(names) == len(set(names))

    def _right(self, name: str, held: Any) -> bool:
        """Files that hold what the local one holds; a corrupted one may wait to be cleared away."""
        return name in self.local and hashlib.sha256(held.read()).digest() == hashlib.sha256(self.local[name]).digest()


def test_transfers(drive_server: DriveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_FIRST", 1 * MB)
    monkeypatch.setattr(session, "_MOST", 1 * MB)
    monkeypatch.setattr(downloads, "_RANGE", 1 * MB)
    monkeypatch.setattr(downloads, "_LOOK", 0)
    Transfers.server = drive_server
    quick = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Transfers,
        settings=settings(
            max_examples=int(os.environ.get("MACHINE_EXAMPLES", "4")),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=quick,
        ),
    )
