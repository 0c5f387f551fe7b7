"""The registry on Google Drive: the same actions, through faults, and from two boxes at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from services.context import Context
from services.drive import google_init, google_session
from services.drive.open import open_store
from services.errors import Refused
from services.registry import manifest
from services.registry.actions import (
    AddParams,
    HistoryParams,
    ListParams,
    PromoteParams,
    RollbackParams,
    add,
    history,
    list_versions,
    promote,
    resolve,
    rollback,
)
from services.registry.registry import Registry
from services.registry.types import Listing, Promotion, Version
from services.workspace import Workspace
from tests.drive.google_bed import SignedIn, again
from tests.drive_bed.serve import Account, DriveServer
from tests.registry.conftest import MakeAdapter
from tests.registry.test_log import LogMachine
from tests.registry.test_processes import Shell


@pytest.fixture
def account(drive_server: DriveServer) -> Account:
    return drive_server.account()


@pytest.fixture
def work(signed_in: SignedIn, account: Account, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    return _initialised(signed_in("work", account))


def _initialised(workspace: Workspace) -> Workspace:
    asyncio.run(google_init.init(Context(workspace), google_init.InitParams()))
    return again(workspace)


async def _add(ctx: Context, folder: Path) -> Version:
    version = await add(ctx, AddParams(model="banking", path=str(folder)))
    assert isinstance(version, Version)
    return version


async def _promote(ctx: Context, version: int, expected: int | None = None) -> Promotion:
    done = await promote(ctx, PromoteParams(model="banking", version=str(version), expected=expected))
    assert isinstance(done, Promotion)
    return done


def test_a_version_goes_its_whole_way(work: Workspace, adapter: MakeAdapter, drive_server: DriveServer) -> None:
    ctx = Context(work)

    async def run() -> Version:
        assert (await list_versions(ctx, ListParams())).versions == ()
        for n in range(3):
            version = await _add(ctx, adapter(f"a{n}", accuracy=n / 10))
            assert (version.version, version.warnings) == (n + 1, ())
        assert (await _promote(ctx, 1, expected=0)).previous == 0
        await _promote(ctx, 2, expected=1)
        with pytest.raises(Refused, match="was moved to 2 by"):
            await _promote(ctx, 3, expected=1)
        done = await rollback(ctx, RollbackParams(model="banking"))
        assert isinstance(done, Promotion) and done.version == 1
        told = await history(ctx, HistoryParams())
        assert [e.what for e in told.entries][:3] == [
            "rolled back banking@deployed from 2 to 1",
            "moved banking@deployed from 1 to 2",
            "moved banking@deployed to 1",
        ]
        return await resolve(ctx, "banking", "deployed")

    found = asyncio.run(run())
    kept = Path(found.path)
    data = (kept / manifest.NAME).read_bytes()
    assert manifest.digest(data) == found.digest
    names = {p.relative_to(kept).as_posix() for p in kept.rglob("*") if p.is_file()}
    assert {f.path for f in manifest.read(data).files} | {manifest.NAME} == names
    listing = _listing(work)
    assert "My Drive/Banking LLM" in listing.store and not listing.problems
    assert listing.versions[0].path == "My Drive/Banking LLM/models/finetuned/banking-v3"
    _no_twins(drive_server)


def _listing(workspace: Workspace) -> Listing:
    return asyncio.run(list_versions(Context(again(workspace)), ListParams()))


def _no_twins(server: DriveServer) -> None:
    """No two things of one name in one folder."""
    there = [(h.parents, h.name) for h in server.files if not h.trashed]
    assert len(there) == len(set(there)), sorted(p for p in there if there.count(p) > 1)


def test_an_opened_registry_opens_again_with_two_requests(
    work: Workspace, adapter: MakeAdapter, drive_server: DriveServer
) -> None:
    asyncio.run(_add(Context(work), adapter()))
    _listing(work)
    before = len(drive_server.requests)
    assert len(_listing(work).versions) == 1
    asked = [(r.method, r.path) for r in drive_server.requests_since(before) if r.path != "/token"]
    assert len(asked) == 2, asked


def test_an_interrupted_addition_leaves_nothing(
    work: Workspace, adapter: MakeAdapter, drive_server: DriveServer
) -> None:
    drive_server.fault(method="POST", path="/upload/", latency=5.0, after=2, times=0)
    begun = asyncio.Event()

    async def run() -> None:
        task = asyncio.ensure_future(_add(Context(work, lambda _: begun.set()), adapter()))
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    drive_server.clear()
    assert _listing(work).versions == ()
    assert asyncio.run(open_store(again(work)).list("models/finetuned/.incoming")) == ()


FAULTS: list[dict[str, object]] = [
    {"path": "/drive/v3/files", "status": 429, "reason": "rateLimitExceeded", "probability": 0.02},
    {"path": "/drive/v3/files", "status": 500, "reason": "backendError", "probability": 0.02},
    {"method": "POST", "path": "/files", "lose_reply": True, "probability": 0.06},
    {"method": "PATCH", "path": "/files", "lose_reply": True, "probability": 0.06},
    {"path": "alt=media", "drop_response_at": 7, "probability": 0.06},
    {"path": "alt=media", "truncate_at": 9, "probability": 0.05},
    {"path": "/drive/v3/files\\?.*q=", "stale": 0.3, "probability": 0.5},
    {"path": "/drive/v3/changes\\?", "stale": 0.3, "probability": 0.3},
]


def test_two_boxes_at_once_lose_nothing_through_faults(
    work: Workspace, signed_in: SignedIn, account: Account, adapter: MakeAdapter, drive_server: DriveServer
) -> None:
    boxes = [work, _initialised(signed_in("other", account))]
    folders = [adapter(f"a{n}", accuracy=n / 10) for n in range(2)]
    asyncio.run(_add(Context(work), folders[0]))
    rules = [drive_server.fault(times=0, seed=n + 1, **fault) for n, fault in enumerate(FAULTS)]
    code = (
        "for n in range(2):\n"
        "    say(add(ctx, AddParams(model='banking', path={folder!r})))\n"
        "    say(promote(ctx, PromoteParams(model='banking', version='latest', to='candidate')))"
    )
    shells = [Shell(box, code.format(folder=str(f))) for box, f in zip(boxes, folders, strict=True)]
    for shell in shells:
        shell.wait_ready()
    for shell in shells:
        shell.go()
    said = list(itertools.chain.from_iterable(shell.said() for shell in shells))
    struck = [drive_server.hits(rule) for rule in rules]
    drive_server.clear()
    assert sum(struck) > 10, struck
    added = [s for s in said if "digest" in s]
    assert sorted(int(str(s["version"])) for s in added) == list(range(2, 6)), said
    assert all("moved to" in str(s["error"]) for s in said if "error" in s), said
    moved = [s for s in said if s.get("changed")]
    listing, told = _listing(work), asyncio.run(history(Context(again(work)), HistoryParams(limit=0)))
    assert listing.problems == () and len(listing.versions) == 5
    assert {v.version: v.digest for v in listing.versions if v.version > 1} == {
        s["version"]: s["digest"] for s in added
    }
    assert told.total == 1 + 5 + len(moved) and all(e.accepted for e in told.entries)
    _no_twins(drive_server)
    view = json.loads(drive_server.named("model_registry.json")[0].read())
    assert {m["version"]: m["digest"] for m in view["models"]} == {v.version: v.digest for v in listing.versions}
    for version in listing.versions:
        found = asyncio.run(resolve(Context(again(work)), "banking", version.version))
        data = (Path(found.path) / manifest.NAME).read_bytes()
        assert manifest.digest(data) == version.digest


def test_a_view_edited_by_hand_is_said_and_set_aside(
    work: Workspace, adapter: MakeAdapter, drive_server: DriveServer
) -> None:
    asyncio.run(_add(Context(work), adapter()))
    [view] = drive_server.named("model_registry.json")

    async def edit() -> None:
        await (await google_session.session(work)).client.replace(view.id, b'{"models": []}')

    asyncio.run(edit())
    [problem] = _listing(work).problems
    assert "edited by hand" in problem
    for n in range(2):  # the place has a file of another id then, which is written like the first
        done = asyncio.run(_promote(Context(again(work)), 1)) if n == 0 else asyncio.run(_add_again(work, adapter))
        assert bool(done.warnings) == (n == 0), done.warnings
    assert _listing(work).problems == ()
    names = [h.name for h in drive_server.files if "model_registry" in h.name and not h.trashed]
    assert len(names) == 2 and any(".edited-" in name for name in names)
    _no_twins(drive_server)


async def _add_again(work: Workspace, adapter: MakeAdapter) -> Version:
    return await _add(Context(again(work)), adapter("more"))


def test_killed_at_any_moment_nothing_is_lost_or_left(
    work: Workspace, adapter: MakeAdapter, drive_server: DriveServer
) -> None:
    folder = adapter(size=300_000)
    chance = random.Random(11)
    code = f"while True: say(add(ctx, AddParams(model='banking', path={str(folder)!r})))"
    committed = 0
    for _ in range(4):
        shell = Shell(work, code)
        shell.wait_ready()
        shell.go()
        time.sleep(chance.uniform(0.02, 0.5))  # the moment of the kill: there is no event to await
        shell.process.kill()
        out, _ = shell.process.communicate()
        said = sum(line.endswith("}") for line in out.splitlines())
        listing = _listing(work)
        assert listing.problems == ()
        assert [v.version for v in listing.versions] == list(range(len(listing.versions), 0, -1))
        assert committed + said <= len(listing.versions) <= committed + said + 1
        committed = len(listing.versions)
    asyncio.run(_add(Context(again(work)), folder))
    _no_twins(drive_server)
    store = open_store(again(work))
    assert asyncio.run(store.list("models/finetuned/.incoming")) == ()
    for version in _listing(work).versions:
        data = asyncio.run(store.read(f"models/finetuned/banking-v{version.version}/{manifest.NAME}"))
        assert data is not None and manifest.digest(data) == version.digest


def test_of_two_boxes_one_promotes_and_the_other_is_told_who(
    work: Workspace, signed_in: SignedIn, account: Account, adapter: MakeAdapter
) -> None:
    boxes = [work, _initialised(signed_in("other", account))]
    for n in range(2):
        asyncio.run(_add(Context(work), adapter(f"a{n}")))
    codes = [f"say(promote(ctx, PromoteParams(model='banking', version='{v}', expected=0)))" for v in (1, 2)]
    shells = [Shell(box, code) for box, code in zip(boxes, codes, strict=True)]
    for shell in shells:
        shell.wait_ready()
    for shell in shells:
        shell.go()
    answers = [shell.said()[0] for shell in shells]
    [won] = [a for a in answers if "version" in a]
    [lost] = [a for a in answers if "error" in a]
    assert lost["exit_code"] == 3 and f"was moved to {won['version']} by {won['by']}" in str(lost["error"])


class DriveLogMachine(LogMachine):
    """The folder's state machine, unchanged, on Drive."""

    workspace: Workspace
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        store = msgspec.structs.replace(self.workspace.settings.store, root=f"Root {next(self.numbers)}")
        drive = msgspec.structs.replace(self.workspace.settings.drive, root_id="")
        settings = msgspec.structs.replace(self.workspace.settings, store=store, drive=drive)
        fresh = Workspace(Path(self.folder.name), settings)
        asyncio.run(google_init.init(Context(fresh), google_init.InitParams()))
        self.registry = Registry(open_store(fresh))
        self.registry.log.clock = lambda: 1_700_000_000.0


def test_the_folders_state_machine_holds_on_drive(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    DriveLogMachine.workspace = work
    few = hypothesis_settings(
        max_examples=4, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(DriveLogMachine, settings=few)


def test_nothing_stays_open_at_the_end_of_a_run(
    work: Workspace, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    before = google_session.open_sessions()  # a loop of another test may not be collected yet
    for _ in range(3):
        _listing(work)
    assert "Unclosed" not in caplog.text
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]
    assert google_session.open_sessions() == before
