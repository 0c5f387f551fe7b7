"""The folder store: exclusive slots, verified copies, honest about where it is."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from services import settings, workspace
from services.context import Context
from services.drive.actions import StatusParams, status
from services.drive.folder import FolderStore
from services.drive.open import open_store
from services.drive.store import Source, Store
from services.errors import BadInput, HybridError, StoreUnreachable
from services.workspace import Workspace


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "drive" / "Root", tmp_path)


def _nothing(_: int, __: str) -> None:
    return None


def _source(folder: Path, name: str, data: bytes) -> Source:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Source(str(path), name, len(data))


async def test_reading_an_absent_store_creates_nothing(store: FolderStore) -> None:
    assert await store.read("docs/x") is None
    assert await store.list("models") == ()
    assert await store.stat("models") is None
    assert not (await store.status()).created
    assert not store.root.exists()


async def test_a_slot_is_taken_once_and_keeps_its_first_content(store: FolderStore) -> None:
    assert await store.put_new("log", "a", b"first")
    assert not await store.put_new("log", "a", b"second")
    assert await store.read_slot("log", "a") == b"first"
    assert [e.name for e in await store.list("log")] == ["a.json"]
    assert [p for p in store.root.rglob("*") if p.is_file()] == [store.root / "log" / "a.json"]


async def test_without_hard_links_a_slot_is_still_exclusive(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    assert await store.put_new("log", "a", b"first")
    assert not await store.put_new("log", "a", b"second")
    assert await store.read_slot("log", "a") == b"first"


def _race(root: str, anchor: str, me: int, gate: multiprocessing.synchronize.Barrier, won: object) -> None:
    async def run() -> None:
        store = FolderStore(Path(root), Path(anchor))
        for slot in range(20):
            gate.wait()
            if await store.put_new("log", str(slot), f"{me}".encode() * 1000):
                won.put((slot, me))  # type: ignore[attr-defined]

    asyncio.run(run())


def test_of_many_processes_exactly_one_gets_each_slot(store: FolderStore, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate, won = spawn.Barrier(4), spawn.Queue()
    racers = [spawn.Process(target=_race, args=(str(store.root), str(tmp_path), n, gate, won)) for n in range(4)]
    for racer in racers:
        racer.start()
    winners = dict(won.get(timeout=60) for _ in range(20))
    for racer in racers:
        racer.join(60)
    assert won.empty()
    assert sorted(winners) == list(range(20))
    for slot, me in winners.items():
        assert (store.root / "log" / f"{slot}.json").read_bytes() == f"{me}".encode() * 1000


async def test_files_arrive_with_their_checksums_and_progress(store: FolderStore, tmp_path: Path) -> None:
    big = os.urandom(3_000_000)
    sources = [_source(tmp_path / "in", "a/big.bin", big), _source(tmp_path / "in", "small", b"x")]
    seen: list[int] = []
    copied = await store.put_files(sources, "models/v", lambda n, _: seen.append(n))
    await asyncio.sleep(0)
    assert {c.path: (c.size, c.sha256) for c in copied} == {
        "a/big.bin": (len(big), hashlib.sha256(big).hexdigest()),
        "small": (1, hashlib.sha256(b"x").hexdigest()),
    }
    assert sum(seen) == len(big) + 1
    assert (await store.fetch("models/v") / "a" / "big.bin").read_bytes() == big


async def test_a_source_that_changed_since_it_was_listed_is_refused(store: FolderStore, tmp_path: Path) -> None:
    source = _source(tmp_path / "in", "a", b"four")
    _source(tmp_path / "in", "a", b"more than four")
    with pytest.raises(HybridError, match="changed while"):
        await store.put_files([source], "models/v", _nothing)


async def test_a_copy_can_be_cancelled(store: FolderStore, tmp_path: Path) -> None:
    source = _source(tmp_path / "in", "a", bytes(64_000_000))
    started = asyncio.Event()
    task = asyncio.ensure_future(store.put_files([source], "models/v", lambda _, __: started.set()))
    await asyncio.wait_for(started.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [p for p in store.root.rglob("*") if p.is_file()] == []  # nothing that looks like a result, nothing else


async def test_rename_never_overwrites(store: FolderStore) -> None:
    await store.write("a/x", b"1")
    await store.write("b/y", b"2")
    assert not await store.rename("a", "b")
    assert not await store.rename("absent", "c")
    assert await store.rename("a", "c/d")
    assert await store.read("c/d/x") == b"1"
    assert await store.read("b/y") == b"2"


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "", "a//b", "a/\n", "."])
async def test_paths_stay_inside(store: Store, path: str) -> None:
    with pytest.raises(BadInput):
        await store.write(path, b"x")


def _with_store(root: Path, path: str) -> Workspace:
    made = workspace.init(root)
    return Workspace(made.root, settings.Settings(store=settings.Store(path=path)))


async def test_status_says_that_it_is_not_google_drive(ctx: Context) -> None:
    found = await status(ctx, StatusParams())
    assert found.kind == "folder"
    assert not found.google_drive
    assert "not Google Drive" in found.label
    assert found.free_bytes is not None and found.total_bytes is not None and 0 < found.free_bytes < found.total_bytes
    assert found.path == str(ctx.workspace.store_path)
    assert found.promises


@pytest.mark.parametrize("kind", ["absent", "file"])
async def test_an_unreachable_store_is_said_with_exit_code_4(tmp_path: Path, kind: str) -> None:
    mount = tmp_path / "mount"
    if kind == "file":
        mount.write_text("not a folder")
    ctx = Context(_with_store(tmp_path / "work", str(mount)))
    with pytest.raises(StoreUnreachable, match=str(mount)) as caught:
        await status(ctx, StatusParams())
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert not (mount / "x").exists()


async def test_a_path_that_leaves_the_workspace_must_exist(tmp_path: Path) -> None:
    store = open_store(_with_store(tmp_path / "work", "../elsewhere"))
    with pytest.raises(StoreUnreachable):
        await store.status()
    (tmp_path / "elsewhere").mkdir()
    await store.write("x", b"1")
    assert (tmp_path / "elsewhere" / "Banking LLM" / "x").read_bytes() == b"1"
