"""The store on Google Drive: paths and ids, duplicates, shortcuts, slots, what costs how many requests."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.context import Context
from services.drive import google_init, google_session
from services.drive.actions import StatusParams, status
from services.drive.api.types import FOLDER, SHORTCUT
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import Corrupted, SignInNeeded
from services.drive.google import DriveStore
from services.drive.google_root import Ambiguous
from services.drive.open import open_store
from services.drive.store import INCOMING, Source, Wanted
from services.errors import BadInput, HybridError, StoreUnreachable
from services.workspace import Workspace
from tests.drive.google_bed import SCOPES, SignedIn, again
from tests.drive_bed.serve import Account, DriveServer

LOG = "docs/registry/log"
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def account(drive_server: DriveServer) -> Account:
    return drive_server.account(scope="drive")


@pytest.fixture
async def work(signed_in: SignedIn, account: Account, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose root is made; nothing of it is in any memory."""
    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    workspace = signed_in("work", account)
    await google_init.init(Context(workspace), google_init.InitParams())
    await google_session.close(workspace)
    return again(workspace)


@pytest.fixture
def store(work: Workspace) -> DriveStore:
    found = open_store(work)
    assert isinstance(found, DriveStore)
    return found


async def _other(signed_in: SignedIn, account: Account, name: str = "other") -> DriveStore:
    """The same store seen from another box."""
    found = open_store(signed_in(name, account))
    assert isinstance(found, DriveStore)
    return found


CLAIM_AND_DIE = """
import asyncio, os, pathlib, sys
from services.drive.open import open_store
from services.workspace import open_workspace

async def run():
    await open_store(open_workspace(pathlib.Path(sys.argv[1]))).claim(sys.argv[2])
    os._exit(0)

asyncio.run(run())
"""
PUSH = """
import asyncio, pathlib, sys
from services.drive.open import open_store
from services.drive.store import Source
from services.workspace import open_workspace

files = sorted(pathlib.Path(sys.argv[2]).iterdir())
sources = [Source(str(f), f.name, f.stat().st_size) for f in files]
store = open_store(open_workspace(pathlib.Path(sys.argv[1])))
asyncio.run(store.put_files(sources, "datasets/new", lambda n, path: None))
"""
OPEN_A_FOLDER = """
import pathlib, sys
from services.drive.open import open_store
from services.workspace import open_workspace

open_store(open_workspace(pathlib.Path(sys.argv[1])))
assert not {'aiohttp', 'google', 'sqlite3', 'services.drive.google'} & set(sys.modules)
"""


def _run(code: str, *words: object) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=CHECKOUT, check=True, timeout=60)


def _sources(folder: Path, content: dict[str, bytes]) -> list[Source]:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return [Source(str(folder / name), name, len(data)) for name, data in content.items()]


def _nothing(_: int, __: str) -> None:
    return None


async def _id(store: DriveStore, path: str) -> str:
    found = await (await google_session.session(store.workspace)).tree.find(path)
    assert found is not None
    return found.id


# small files and folders


async def test_files_are_written_replaced_listed_and_read_from_elsewhere(
    store: DriveStore, signed_in: SignedIn, account: Account, drive_server: DriveServer
) -> None:
    await store.write("notebooks/a/b.txt", b"one")
    await store.write("notebooks/a/b.txt", b"two")
    sent = len(drive_server.requests)
    await store.write("notebooks/a/b.txt", b"two")
    assert not [r for r in drive_server.requests_since(sent) if r.method != "GET"]  # nothing is sent twice
    assert len(drive_server.named("b.txt")) == 1
    other = await _other(signed_in, account)
    assert await other.read("notebooks/a/b.txt") == b"two"
    assert [(e.name, e.folder, e.size) for e in await other.list("notebooks/a")] == [("b.txt", False, 3)]
    assert await other.stat("notebooks/a") is not None and await other.stat("notebooks/x") is None
    assert await other.read("notebooks/x") is None and await other.read("notebooks/a") is None
    assert await other.list("notebooks/x") == ()
    assert await other.read_many(["notebooks/x", "notebooks/a/b.txt"]) == [None, b"two"]


async def test_what_another_box_moved_replaced_or_threw_away_is_noticed(
    store: DriveStore, signed_in: SignedIn, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.drive.google_cache.FRESH", 0.0)
    other = await _other(signed_in, account)
    for n in range(4):
        await store.write(f"notebooks/{n}", b"old")
        assert await store.read(f"notebooks/{n}") == b"old"
    await other.write("notebooks/0", b"new")
    assert await other.rename("notebooks/1", "datasets/1")
    await other.trash("notebooks", ["2"])
    assert await other.rename("notebooks/3", "notebooks/three")
    assert await store.read_many([f"notebooks/{n}" for n in range(4)]) == [b"new", None, None, None]
    assert await store.read("datasets/1") == b"old" == await store.read("notebooks/three")


async def test_two_files_of_one_name_are_named_never_guessed(
    store: DriveStore, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.drive.google_cache.FRESH", 0.0)
    folder = await _id(store, "notebooks")
    ids = [account.put("x.txt", data, parent=folder) for data in (b"one", b"two")]
    for call in (
        store.read("notebooks/x.txt"),
        store.write("notebooks/x.txt", b"three"),
        store.stat("notebooks/x.txt"),
    ):
        with pytest.raises(Ambiguous) as caught:
            await call
        assert all(id in str(caught.value) for id in ids) and caught.value.hint
    [stored] = await store.files("notebooks")
    assert stored.path == "x.txt" and all(id in stored.skipped for id in ids)
    assert [e.name for e in await store.list("notebooks")] == ["x.txt"]
    assert await store.read_many(["notebooks/x.txt"]) == [None]
    same = [account.put("same", b"same", parent=folder) for _ in range(2)]
    assert await store.read("notebooks/same") == b"same" and len(same) == 2  # nothing to tell apart


async def test_a_twin_that_comes_later_is_noticed(
    store: DriveStore, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.drive.google_cache.FRESH", 0.0)
    await store.write("notebooks/x", b"one")
    assert await store.read("notebooks/x") == b"one"
    account.put("x", b"two", parent=await _id(store, "notebooks"))
    with pytest.raises(Ambiguous):
        await store.read("notebooks/x")


async def test_shortcuts_are_followed_and_google_documents_said(store: DriveStore, account: Account) -> None:
    top, elsewhere = await _id(store, "datasets"), account.put("elsewhere", mime=FOLDER)
    real = account.put("real.csv", b"a,b", parent=elsewhere)
    account.put("folder", mime=SHORTCUT, target=elsewhere, parent=top)
    link = account.put("file.csv", mime=SHORTCUT, target=real, parent=top)
    account.put("gone", mime=SHORTCUT, target="nothing", parent=top)
    account.put("loop", mime=SHORTCUT, target=top, parent=top)
    account.put("Notes", mime="application/vnd.google-apps.document", parent=top)
    assert await store.read("datasets/file.csv") == b"a,b" == await store.read("datasets/folder/real.csv")
    told = {s.path: s.skipped for s in await store.files("datasets")}
    assert told.keys() == {"file.csv", "folder/real.csv", "gone", "loop", "Notes"}
    assert not told["file.csv"] and not told["folder/real.csv"]
    assert "leads nowhere" in told["gone"] and "lies in" in told["loop"] and "Google document" in told["Notes"]
    with pytest.raises(BadInput, match="Google document"):
        await store.read("datasets/Notes")
    await store.trash("datasets", ["file.csv"])
    held = {h.id: h for h in account.server.files}
    assert held[link].trashed and not held[real].trashed


async def test_hostile_names_stay_inside_and_are_shown(store: DriveStore, account: Account, tmp_path: Path) -> None:
    top = await _id(store, "datasets")
    evil = ["..", "../../x", "a/b", "line\nbreak", "\u202etxt.exe", "CON", "é", "e\u0301", "x" * 300, "."]
    for n, name in enumerate(evil):
        account.put(name, f"{n}".encode(), parent=top)
    stored = await store.files("datasets")
    assert len(stored) == len(evil) and all(s.path.isprintable() and "/" not in s.path for s in stored)
    wanted = [Wanted(s.path, str(tmp_path / "got" / s.path), s.size, s.sha256) for s in stored]
    await store.get_files(wanted, "datasets", _nothing)
    assert sorted(p.read_bytes() for p in (tmp_path / "got").iterdir()) == [f"{n}".encode() for n in range(len(evil))]
    local = next(s.path for s in stored if "line" in s.path)
    assert await store.read(f"datasets/{local}") == b"3"
    await store.write(f"datasets/{local}", b"again")
    assert [h.read() for h in account.server.named("line\nbreak")] == [b"again"]


@pytest.mark.parametrize("stale", [0.0, 30.0])
async def test_folders_made_by_two_at_once_become_one(
    store: DriveStore,
    signed_in: SignedIn,
    account: Account,
    drive_server: DriveServer,
    stale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await store.write("datasets/before", b"")
    drive_server.fault(path=r"/drive/v3/files\?.*parents", stale=stale, times=0)  # nobody sees what the others make
    root = store.workspace.settings.drive.root_id
    stores = [store, *[open_store(signed_in(f"box{n}", account, root_id=root)) for n in range(3)]]
    await asyncio.gather(*(s.write(f"datasets/shared/deep/{n}", b"x") for n, s in enumerate(stores)))
    drive_server.clear()
    for name in ("shared", "deep"):
        assert len([h for h in drive_server.named(name) if not h.trashed]) == 1
    assert [e.name for e in await store.list("datasets/shared/deep")] == ["0", "1", "2", "3"]
    await asyncio.gather(*(s.write("datasets/shared/same", f"{n}".encode()) for n, s in enumerate(stores)))
    assert len(drive_server.named("same")) == 1
    await store.trash("datasets", ["shared"])
    await store.write("datasets/shared/x", b"y")  # the name's id is of no use any more: a new one is written down
    monkeypatch.setattr("services.drive.google_cache.FRESH", 0.0)
    assert await stores[1].read("datasets/shared/x") == b"y"


async def test_an_empty_twin_of_a_folder_that_came_to_light_late_is_no_riddle(
    store: DriveStore, account: Account
) -> None:
    await store.write("datasets/shared/x", b"1")
    top = await _id(store, "datasets")
    account.put("shared", mime=FOLDER, parent=top, properties={"hybridTui": "folder"})
    fresh = open_store(again(store.workspace))
    await google_session.close(store.workspace)
    assert await fresh.read("datasets/shared/x") == b"1"
    account.put("y", b"2", parent=account.put("shared", mime=FOLDER, parent=top))
    await google_session.close(store.workspace)
    with pytest.raises(Ambiguous):
        await open_store(again(store.workspace)).list("datasets/shared")


async def test_a_folder_of_the_layout_may_be_renamed_but_not_moved_or_thrown_away(
    store: DriveStore, account: Account
) -> None:
    client = (await google_session.session(store.workspace)).client
    docs = await _id(store, "docs")
    await client.change(docs, name="Dokumente")
    await google_session.close(store.workspace)
    await store.write("docs/x", b"1")
    assert await store.read("docs/x") == b"1"
    client = (await google_session.session(store.workspace)).client
    await client.trash(docs)
    await google_session.close(store.workspace)
    with pytest.raises(HybridError, match=f"docs .{docs}. lies in Google Drive's trash"):
        await store.write("docs/x", b"2")


# slots


async def test_a_slot_is_taken_once_and_a_retry_after_a_lost_reply_is_no_loss(
    store: DriveStore, drive_server: DriveServer
) -> None:
    id = await store.new_id()
    assert await store.read_slot(LOG, id) is None
    drive_server.fault(method="POST", path="/upload/", lose_reply=True)
    assert await store.put_new(LOG, id, b"first")
    assert not await store.put_new(LOG, id, b"second")
    assert await store.put_new(LOG, id, b"first")
    assert await store.read_slot(LOG, id) == b"first"
    assert await store.first_id(LOG) == await store.first_id(LOG)
    with pytest.raises(HybridError, match="does not say where"):
        await store.first_id("docs")


async def test_a_long_chain_opens_with_two_requests(
    store: DriveStore, signed_in: SignedIn, account: Account, drive_server: DriveServer
) -> None:
    ids = [await store.first_id(LOG), *[await store.new_id() for _ in range(60)]]
    folder = await _id(store, LOG)
    for here, following in itertools.pairwise(ids):
        account.put(f"{here}.json", following.encode(), parent=folder, id=here)

    async def walked(one: DriveStore) -> tuple[int, int]:
        seen: list[str] = []

        def follow(id: str, data: bytes) -> str:
            seen.append(id)
            return data.decode()

        before = len(drive_server.requests)
        await one.walk(LOG, await one.first_id(LOG), follow)
        return len(seen), len(drive_server.requests) - before

    assert (await walked(store))[0] == 60
    await google_session.close(store.workspace)
    assert await walked(open_store(again(store.workspace))) == (60, 2)  # type: ignore[arg-type]  # changes, tail
    await google_session.close(store.workspace)
    tampered = ids[30]
    session = await google_session.session(store.workspace)
    await session.client.replace(tampered, b"nowhere")
    await google_session.close(store.workspace)
    assert (await walked(open_store(again(store.workspace))))[0] == 31  # type: ignore[arg-type]
    session = await google_session.session(store.workspace)
    await session.client.replace(ids[10], b"nowhere")
    session.tree.cache._token = ""  # a box that was away for so long that its place in the changes is of no use
    await google_session.close(store.workspace)
    session = await google_session.session(store.workspace)
    session.tree.mirror._write("delete from snapshot", [()])
    assert (await walked(open_store(again(store.workspace))))[0] == 11  # type: ignore[arg-type]


# many files


async def test_files_go_up_verified_and_are_not_sent_twice(
    store: DriveStore, tmp_path: Path, drive_server: DriveServer
) -> None:
    sources = _sources(tmp_path / "in", {"a.bin": b"a" * 3000, "sub/b.bin": b"b" * 10, "sub/deep/c.bin": b""})
    told: dict[str, int] = {}

    def on_bytes(n: int, path: str) -> None:
        told[path] = told.get(path, 0) + n

    copied = await store.put_files(sources, "datasets/new", on_bytes)
    assert [(c.path, c.size) for c in copied] == [(s.path, s.size) for s in sources]
    assert told == {"a.bin": 3000, "sub/b.bin": 10}
    before = len(drive_server.requests)
    assert await store.put_files(sources, "datasets/new", _nothing) == copied
    assert not [r for r in drive_server.requests_since(before) if r.method != "GET"]
    stored = await store.files("datasets/new")
    assert [(s.path, s.size, s.sha256) for s in stored] == [(c.path, c.size, c.sha256) for c in copied]
    changed = _sources(tmp_path / "in", {"a.bin": b"A" * 3000})
    ids = {h.id for h in drive_server.named("a.bin")}
    with pytest.raises(HybridError, match="other content"):
        await store.put_files(changed, "datasets/new", _nothing)
    await store.put_files(changed, "datasets/new", _nothing, replace=True)
    assert {h.id for h in drive_server.named("a.bin")} == ids and drive_server.named("a.bin")[0].read() == b"A" * 3000
    with pytest.raises(HybridError, match="changed"):
        await store.put_files([Source(str(tmp_path / "in/a.bin"), "z.bin", 5)], "datasets/new", _nothing)


def test_killed_in_the_middle_the_next_push_sends_the_rest_only(
    store: DriveStore, tmp_path: Path, drive_server: DriveServer
) -> None:
    sources = _sources(tmp_path / "in", {f"{n:02}": bytes([n]) * 50_000 for n in range(40)})
    drive_server.fault(method="POST", path="/upload/", latency=0.1, times=0)
    before = len(drive_server.requests)
    pushing = subprocess.Popen(
        [sys.executable, "-c", PUSH, str(store.workspace.root), str(tmp_path / "in")], cwd=CHECKOUT
    )
    end = time.monotonic() + 30
    while len(drive_server.named("07")) == 0 and time.monotonic() < end:
        time.sleep(0.01)
    pushing.kill()
    pushing.wait()
    drive_server.clear()
    came = sum(h.size or 0 for h in drive_server.files)
    assert 0 < came < 40 * 50_000
    fresh = open_store(again(store.workspace))
    asyncio.run(fresh.put_files(sources, "datasets/new", _nothing))
    assert sorted(h.name for h in drive_server.files if h.size == 50_000) == [s.path for s in sources]
    sent = sum(r.bytes_in for r in drive_server.requests_since(before) if "/upload/" in r.path)
    on_their_way = 2 * store.workspace.settings.drive.transfers  # at the kill, and their answers not noted yet
    assert sent < (40 + on_their_way) * 51_000


async def test_a_folder_is_fetched_once_and_then_only_what_changed(
    store: DriveStore, tmp_path: Path, drive_server: DriveServer
) -> None:
    await store.put_files(_sources(tmp_path, {"a": b"a" * 100, "s/b": b"b"}), "models/finetuned/m-v1", _nothing)
    place = await store.fetch("models/finetuned/m-v1")
    assert place == store.workspace.state / "drive-cache/models/finetuned/m-v1"
    assert (place / "a").read_bytes() == b"a" * 100 and (place / "s/b").read_bytes() == b"b"

    def loads(before: int) -> int:
        return sum("alt=media" in r.query for r in drive_server.requests_since(before))

    before = len(drive_server.requests)
    await store.fetch("models/finetuned/m-v1")
    assert loads(before) == 0
    (place / "a").write_bytes(b"?" * 100)
    (place / "stray").write_bytes(b"")
    before = len(drive_server.requests)
    await store.fetch("models/finetuned/m-v1")
    assert loads(before) == 1 and (place / "a").read_bytes() == b"a" * 100 and not (place / "stray").exists()
    with pytest.raises(HybridError, match="no folder"):
        await store.fetch("models/finetuned/m-v2")


async def test_wanted_bytes_that_are_others_are_refused(store: DriveStore, tmp_path: Path) -> None:
    await store.write("datasets/x", b"x")
    with pytest.raises(Corrupted):
        await store.get_files([Wanted("x", str(tmp_path / "x"), 1, "0" * 64)], "datasets", _nothing)
    with pytest.raises(HybridError, match="no file"):
        await store.get_files([Wanted("y", str(tmp_path / "y"), 1)], "datasets", _nothing)
    assert not (tmp_path / "x").exists()


async def test_rename_overwrites_nothing_and_the_second_of_two_is_told(
    store: DriveStore, signed_in: SignedIn, account: Account
) -> None:
    await store.write("datasets/a/x", b"a")
    await store.write("datasets/b/x", b"b")
    assert not await store.rename("datasets/a", "datasets/b")
    assert not await store.rename("datasets/none", "datasets/c")
    other = await _other(signed_in, account)
    assert await other.read("datasets/a/x") == b"a"
    assert sorted(
        await asyncio.gather(store.rename("datasets/a", "results/a"), other.rename("datasets/a", "results/a"))
    )[1]
    assert await store.read("results/a/x") == b"a" and await store.stat("datasets/a") is None


async def test_a_claim_holds_while_its_process_lives_and_a_lost_one_is_swept(
    store: DriveStore, account: Account
) -> None:
    release = await store.claim(f"{INCOMING}/mine")
    await store.write(f"{INCOMING}/mine/x", b"x")
    assert await store.abandoned(INCOMING) == []
    told = await store.status()
    assert (told.unfinished, told.unfinished_bytes) == (1, 1)
    release()
    await asyncio.to_thread(_run, CLAIM_AND_DIE, store.workspace.root, f"{INCOMING}/dead")
    assert await store.abandoned(INCOMING) == ["dead"]
    await store.discard(f"{INCOMING}/dead")
    await store.discard(f"{INCOMING}/dead")
    incoming = await _id(store, INCOMING)
    for name, days in (("recent", 1), ("lost", 9)):
        since = str(int(time.time()) - days * 86_400)
        about = {"hybridTui": "folder", "hybridTuiHost": "elsewhere", "hybridTuiSince": since}
        account.put(name, mime=FOLDER, parent=incoming, properties=about)
    assert await store.abandoned(INCOMING) == ["lost"]
    await store.discard(f"{INCOMING}/lost")
    assert [h.trashed for h in account.server.named("lost")] == [True]  # another box's bytes are not deleted for good
    assert await store.abandoned(INCOMING) == [] and await store.stat(f"{INCOMING}/dead") is None


# what it is, and when it is not there


async def test_status_says_whose_drive_it_is_and_how_much_room(store: DriveStore, account: Account) -> None:
    account.server.call("account", email=account.email, limit=10_000)
    told = await status(Context(store.workspace), StatusParams())
    assert told.label == "Google Drive of ann@example.org" and told.google_drive and told.created and told.reachable
    assert told.total_bytes == 10_000 and told.free_bytes == 10_000 and not told.problem
    assert "Banking LLM" in told.path


async def test_the_root_may_lie_in_a_shared_drive(
    signed_in: SignedIn, account: Account, drive_server: DriveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    drive = drive_server.shared_drive("Team", {account.email: "fileOrganizer"})
    workspace = signed_in("team", account, shared_drive=drive)
    await google_init.init(Context(workspace), google_init.InitParams())
    store = open_store(again(workspace))
    await store.write("datasets/x", b"x")
    release = await store.claim(f"{INCOMING}/mine")
    release()
    await store.discard(f"{INCOMING}/mine")
    assert await store.read("datasets/x") == b"x" and await store.list(INCOMING) == ()
    assert {h.drive for h in drive_server.named("x")} == {drive}
    assert store.local("datasets") == "Shared drive/Banking LLM/datasets"


async def test_without_a_sign_in_or_a_line_it_says_so(
    signed_in: SignedIn, account: Account, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = signed_in("work", account)
    away = again(workspace, api="http://127.0.0.1:9", token_url="http://127.0.0.1:9/token")
    monkeypatch.setattr("services.drive.google_cache.FIRST_SECONDS", 0.3)
    with pytest.raises(StoreUnreachable, match=r"does not answer .*no connection"):
        await open_store(again(workspace, api="http://127.0.0.1:9")).list("models")
    Vault(account.client, config).path.unlink()
    for broken, kind in ((again(workspace), SignInNeeded), (away, StoreUnreachable)):
        with pytest.raises(kind) as caught:
            await open_store(broken).list("models")
        assert caught.value.exit_code == 4 and caught.value.hint and "\n" not in str(caught.value)
        told = await open_store(broken).status()
        assert not told.reachable and str(caught.value) in told.problem and not told.created


async def test_after_another_sign_in_another_drive_is_seen(
    store: DriveStore, account: Account, config: Path, drive_server: DriveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_session, "_LOOK_SECONDS", 0.0)
    assert (await store.status()).label.endswith("ann@example.org")
    bob = drive_server.account("bob@example.org", scope="drive")
    Vault(bob.client, config).write(Grant(bob.client, SCOPES["drive"], bob.refresh_token))
    told = await store.status()
    assert told.label.endswith("bob@example.org") and not told.created and "may not see it" in told.problem


def test_a_folder_store_imports_no_drive_client(tmp_path: Path) -> None:
    _run(OPEN_A_FOLDER, tmp_path)


def test_a_damaged_memory_of_this_box_is_made_anew(tmp_path: Path) -> None:
    from services.drive.google_mirror import Mirror

    path = tmp_path / "mirror.sqlite"
    path.write_bytes(b"not a database" * 1000)
    mirror = Mirror(path)
    mirror.keep_slots({"a": b"1"})
    mirror.keep_content("b", b"2")
    mirror.close()
    again = Mirror(path)
    assert again.slots() == {"a": b"1"} and again.load() is None
    again.close()
    nowhere = Mirror(Path("/proc/nowhere/mirror.sqlite"))
    nowhere.keep_slots({"a": b"1"})
    assert nowhere.slots() == {"a": b"1"} and nowhere.content("b", "") is None
