"""Files in and out of a folder: cut off, killed, hostile, out of room."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.drive.errors import Corrupted
from services.drive.folder import FolderStore
from services.drive.partial import Partial
from services.drive.store import Source, Wanted
from services.errors import BadInput, HybridError

SIZE = 16 << 20


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "drive" / "Root", tmp_path)


class Heard:
    """Bytes told of in all; sets ``first`` at the first."""

    def __init__(self) -> None:
        self.bytes = 0
        self.first = asyncio.Event()

    def __call__(self, n: int, path: str) -> None:
        self.bytes += n
        self.first.set()


async def _there(store: FolderStore, data: bytes) -> Wanted:
    await store.write("m/f", data)
    return Wanted("f", str(store.anchor / "out/f"), len(data), hashlib.sha256(data).hexdigest())


def _at(wanted: Wanted) -> Path:
    return Path(wanted.local)


def _part(wanted: Wanted) -> Path:
    return Path(wanted.local + ".part")


async def test_a_fetch_that_was_cancelled_goes_on_where_it_was(store: FolderStore) -> None:
    data = os.urandom(SIZE)
    wanted = await _there(store, data)
    heard = Heard()
    task = asyncio.ensure_future(store.get_files([wanted], "m", heard))
    await asyncio.wait_for(heard.first.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    part = _part(wanted)
    assert 0 < part.stat().st_size < SIZE
    (came,) = {part.stat().st_ino}
    again = Heard()
    [got] = await store.get_files([wanted], "m", again)
    await asyncio.sleep(0)
    assert (_at(wanted).stat().st_ino, got.sha256, again.bytes) == (came, wanted.sha256, SIZE)
    assert _at(wanted).read_bytes() == data


async def test_a_part_of_something_else_is_found_out(store: FolderStore) -> None:
    data = os.urandom(3 << 20)
    wanted = await _there(store, data)
    _at(wanted).parent.mkdir()
    _part(wanted).write_bytes(b"?" * (2 << 20))
    heard = Heard()
    await store.get_files([wanted], "m", heard)
    await asyncio.sleep(0)
    assert _at(wanted).read_bytes() == data
    assert heard.bytes == len(data)


async def test_what_is_not_right_is_not_kept(store: FolderStore) -> None:
    wanted = await _there(store, b"fresh")
    (store.root / "m/f").write_bytes(b"stale")
    with pytest.raises(Corrupted):
        await store.get_files([wanted], "m", Heard())
    assert not list(_at(wanted).parent.iterdir())
    (store.root / "m/f").write_bytes(b"longer than listed")
    with pytest.raises(HybridError, match="changed while"):
        await store.get_files([wanted], "m", Heard())
    (store.root / "m/f").unlink()
    with pytest.raises(BadInput, match="can't be read: no such file"):
        await store.get_files([wanted], "m", Heard())
    os.mkfifo(store.root / "m/f")
    with pytest.raises(BadInput, match="not a regular file"):
        await store.get_files([wanted], "m", Heard())


async def test_two_fetches_of_one_file_do_not_mix(store: FolderStore) -> None:
    wanted = await _there(store, os.urandom(SIZE))
    both = await asyncio.gather(
        store.get_files([wanted], "m", Heard()), store.get_files([wanted], "m", Heard()), return_exceptions=True
    )
    assert hashlib.sha256(_at(wanted).read_bytes()).hexdigest() == wanted.sha256
    assert all("Another process" in str(b) for b in both if isinstance(b, BaseException))


def test_a_killed_copy_leaves_nothing_that_looks_like_a_file(store: FolderStore, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(os.urandom(SIZE))
    code = (
        "import asyncio, os, sys; from pathlib import Path; from services.drive.folder import FolderStore\n"
        "from services.drive.store import Source\n"
        "os.fsync = lambda fd: (print('copied', flush=True), sys.stdin.read())\n"
        "s = FolderStore(Path(sys.argv[1]), Path(sys.argv[2])); w = Source(sys.argv[3], 'f', int(sys.argv[4]))\n"
        "asyncio.run(s.put_files([w], 'm', lambda n, p: None))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root), str(tmp_path), str(source), str(SIZE)],
        cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"copied\n"
    [left] = [p for p in (store.root / "m").iterdir() if p.name.startswith(".")]
    asyncio.run(store.put_files([Source(str(source), "g", SIZE)], "m", lambda n, p: None))
    assert left.exists()  # its writer lives
    assert [f.path for f in asyncio.run(store.files("m"))] == ["g"]
    child.kill()
    child.wait()
    asyncio.run(store.put_files([Source(str(source), "h", SIZE)], "m", lambda n, p: None))
    assert sorted(p.name for p in (store.root / "m").iterdir()) == ["g", "h"]


async def test_a_file_that_is_there_is_refused_or_replaced_whole(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"new")
    source = Source(str(tmp_path / "in"), "f", 3)
    await store.write("m/f", b"old")
    with pytest.raises(HybridError, match="there already"):
        await store.put_files([source], "m", Heard())
    assert await store.read("m/f") == b"old"
    await store.put_files([source], "m", Heard(), replace=True)
    assert await store.read("m/f") == b"new"
    assert [f.path for f in await store.files("m")] == ["f"]


async def test_links_that_lead_out_are_neither_read_nor_written_through(store: FolderStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("mine")
    await store.write("m/f", b"1")
    (store.root / "m/way").symlink_to(outside)
    (store.root / "m/file").symlink_to(outside / "secret")
    (store.root / "m/inner").symlink_to(store.root / "m/f")
    (tmp_path / "in").write_bytes(b"new")
    listed = {f.path: f.skipped for f in await store.files("m")}
    assert listed == {"f": "", "way": "a link, not a file", "file": "a link, not a file", "inner": "a link, not a file"}
    for path in ("way/secret", "file"):
        with pytest.raises(BadInput, match="leads out of the store"):
            await store.get_files([Wanted(path, str(tmp_path / "got"), 4)], "m", Heard())
    for path in ("way/new", "way/sub/new"):
        with pytest.raises(BadInput, match="leads out of the store"):
            await store.put_files([Source(str(tmp_path / "in"), path, 3)], "m", Heard())
    with pytest.raises(BadInput, match="leads out of the store"):
        await store.trash("m", ["way/secret"])
    assert [p.name for p in outside.iterdir()] == ["secret"]
    await store.get_files([Wanted("inner", str(tmp_path / "got"), 1)], "m", Heard())
    assert (tmp_path / "got").read_bytes() == b"1"


async def test_too_little_room_is_said_before_the_first_byte(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await _there(store, b"1234")
    (tmp_path / "in").write_bytes(b"1234")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3, "total": 100})())
    with pytest.raises(HybridError, match="free and"):
        await store.get_files([wanted], "m", Heard())
    with pytest.raises(HybridError, match="free and"):
        await store.put_files([Source(str(tmp_path / "in"), "g", 4)], "m", Heard())
    assert not _at(wanted).parent.exists()
    assert [f.path for f in await store.files("m")] == ["f"]


async def test_trash_passes_over_what_is_gone(store: FolderStore) -> None:
    await store.write("m/a/x", b"1")
    await store.trash("m", ["a/x", "b"])
    assert await store.read("m/a/x") is None
    assert [f.path.split("/", 2)[2] for f in await store.files(".trash")] == ["m/a/x"]


def test_a_part_that_was_closed_writes_into_no_other_file(tmp_path: Path) -> None:
    part = Partial(tmp_path / "f", size=10, resume=False, stop=threading.Event())
    part.write(b"12")
    part.close()
    with (tmp_path / "other").open("wb"):  # takes the number that became free
        for late in (lambda: part.write(b"34"), part.restart, part.keep):
            with pytest.raises(HybridError, match="stopped"):
                late()
        part.close()
    assert (tmp_path / "f.part").read_bytes() == b"12"
    assert (tmp_path / "other").read_bytes() == b""
