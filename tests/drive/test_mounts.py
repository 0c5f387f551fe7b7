"""A store on a mounted drive says what it can't promise, and calls nothing safe that it has not seen arrive."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.drive import mounts
from services.drive.folder import FolderStore
from services.drive.store import Copied, Source, Stored
from services.drive.unsettled import Unsettled

ROOT = "28 0 254:0 / / rw,relatime - ext4 /dev/vda rw"
COLAB = "99 28 0:45 / /content/drive rw,nosuid,nodev,relatime - fuse.drive drive rw,user_id=0"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    mounts._by_notebook.clear()


def test_colab_s_mount_is_recognised_and_an_ordinary_disk_is_not(tmp_path: Path) -> None:
    table = f"{ROOT}\n{COLAB}\n"
    found = mounts.find(Path("/content/drive/MyDrive/Banking LLM"), table)
    assert found is not None and found.google and found.point == Path("/content/drive")
    assert mounts.find(Path("/content/driver"), table) is None
    assert mounts.find(Path("/content"), table) is None
    assert mounts.find(tmp_path) is None  # by the kernel's own table
    over = f"{table}100 99 0:46 / /content/drive/MyDrive/local rw - tmpfs none rw\n"
    assert mounts.find(Path("/content/drive/MyDrive/local/x"), over) is None


def test_spaces_in_mount_points_are_read(tmp_path: Path) -> None:
    table = f"{ROOT}\n99 28 0:45 / /mnt/my\\040drive rw - fuse.rclone remote: rw\n"
    found = mounts.find(Path("/mnt/my drive/x"), table)
    assert found is not None and not found.google and "rclone" in found.what


def test_drive_for_desktop_in_wsl_is_told_by_what_only_it_makes(tmp_path: Path) -> None:
    table = f"{ROOT}\n99 28 0:45 / {tmp_path} rw - 9p G:\\134 rw,aname=drvfs;path=G:\\134\n"
    assert mounts.find(tmp_path / "My Drive", table) is None
    (tmp_path / mounts.SHORTCUTS).mkdir()
    found = mounts.find(tmp_path / "My Drive", table)
    assert found is not None and found.what == "Google Drive for desktop"


def test_drive_for_desktop_on_a_mac_is_told_by_its_place() -> None:
    found = mounts.find(Path("/Users/a b/Library/CloudStorage/GoogleDrive-a@b.c/My Drive/x"), "")
    assert found is not None and found.google
    assert mounts.find(Path("/Users/a/Library/CloudStorage/Dropbox/x"), "") is None


def _mounted(tmp_path: Path) -> FolderStore:
    mounts.mounted_by_colab(tmp_path / "drive")
    (tmp_path / "drive/MyDrive").mkdir(parents=True)
    return FolderStore(tmp_path / "drive/MyDrive/R", tmp_path / "drive/MyDrive", tmp_path / "state")


async def _put(store: FolderStore, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "in").write_bytes(data)
    await store.put_files([Source(str(tmp_path / "in"), name, len(data))], "m/v", lambda n, p: None, replace=True)


async def _settled(store: FolderStore) -> dict[str, bool]:
    return {f.path: f.settled for f in await store.files("m/v")}


async def test_a_mount_says_so(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    status = await store.status()
    assert status.google_drive and "Colab" in status.label and "late" in status.label
    assert any("cache" in p for p in status.promises)
    await _put(store, tmp_path, "a", b"1")
    assert "1 files written here are not known to be safe yet" in (await store.status()).promises
    plain = FolderStore(tmp_path / "plain", tmp_path, tmp_path / "state")
    await plain.write("m/v/a", b"1")
    assert (await plain.files("m/v"))[0].settled and not (await plain.status()).google_drive


async def test_what_was_written_is_unsettled_until_the_api_shows_it(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    await _put(store, tmp_path, "a", b"1")
    await _put(store, tmp_path, "b", b"2")
    (store.root / "m/v/placed by hand").write_bytes(b"3")
    assert await _settled(store) == {"a": False, "b": False, "placed by hand": True}
    sha = {name: hashlib.sha256(data).hexdigest() for name, data in {"a": b"1", "b": b"2"}.items()}
    assert await store.seen("m/v", [Stored("a", 1, sha["a"]), Stored("b", 1, sha["a"]), Stored("x", 1)]) == 1
    again = FolderStore(store.root, store.anchor, tmp_path / "state")  # a restarted program knows it still
    assert await _settled(again) == {"a": True, "b": False, "placed by hand": True}
    await _put(again, tmp_path, "a", b"new")
    assert (await _settled(store))["a"] is False
    assert await store.seen("m/v", [Stored("a", 1, sha["a"])]) == 0  # Drive still has the old one
    assert (await _settled(store))["a"] is False


async def test_a_flush_settles_what_the_fresh_mount_shows(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    for name in ("kept", "lost", "torn"):
        await _put(store, tmp_path, name, b"1234")
    (store.root / "m/v/lost").unlink()
    (store.root / "m/v/torn").write_bytes(b"12")
    assert await store.flushed() == ("m/v/lost", "m/v/torn")
    assert await _settled(store) == {"kept": True, "torn": False}


async def test_notes_follow_renames_and_end_with_what_is_deleted(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    await _put(store, tmp_path, "a", b"1")
    await store.rename("m", "final")
    assert list(await store.unsettled()) == ["final/v/a"]
    await store.put_new("log", "x", b"record")
    assert set(await store.unsettled()) == {"final/v/a", "log/x.json"}
    await store.discard("final")
    assert list(await store.unsettled()) == ["log/x.json"]


names = st.sampled_from(["a", "a/b", "a/b/c", "ab", "d"])


@given(st.lists(st.tuples(st.sampled_from(["write", "move", "settle"]), names, names), max_size=20))
def test_no_order_of_events_settles_what_was_not_seen(events: list[tuple[str, str, str]]) -> None:
    """Against the plain truth: which of the files now lying there have arrived."""
    notes, truth = Unsettled(Path("/r"), None), {}
    for n, (what, path, other) in enumerate(events):
        if what == "write":
            truth[path] = (str(n), False)
            notes.wrote([Copied(path, 1, str(n))])
        elif what == "settle" and path in truth:
            pending = notes.pending()
            if path in pending:
                notes.settled([pending[path]])
            truth[path] = (truth[path][0], True)
        elif what == "move" and other not in truth and not other.startswith(f"{path}/") and other != path:
            moved = [p for p in truth if p == path or p.startswith(f"{path}/")]
            if not any(other + p[len(path) :] in truth for p in moved):
                for p in moved:
                    truth[other + p[len(path) :]] = truth.pop(p)
                notes.moved(path, other)
    assert {p: n.sha256 for p, n in notes.pending().items()} == {p: v for p, (v, safe) in truth.items() if not safe}


async def test_two_that_write_at_once_lose_no_note(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    await asyncio.gather(*(store.write(f"m/v/{n}", b"x") for n in range(40)))
    assert len(await store.unsettled()) == 40


async def test_shortcuts_within_the_mount_may_be_followed(tmp_path: Path) -> None:
    store = _mounted(tmp_path)
    shared = tmp_path / "drive" / mounts.SHORTCUTS / "id" / "theirs"
    shared.mkdir(parents=True)
    await store.write("m/x", b"1")
    (store.root / "m/theirs").symlink_to(shared)
    (tmp_path / "in").write_bytes(b"1")
    await store.put_files([Source(str(tmp_path / "in"), "theirs/f", 1)], "m", lambda n, p: None)
    assert (shared / "f").read_bytes() == b"1"
