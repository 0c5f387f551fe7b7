"""The bucket store against a real S3 server on loopback, and where it makes sense on a folder too."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.drive import bucket_files
from services.drive.bucket import BucketStore
from services.drive.bucket_objects import Objects
from services.drive.errors import Corrupted
from services.drive.store import Source, Store, Wanted
from services.errors import BadInput, HybridError, StoreUnreachable
from tests.drive.s3_bed import s3, s3_server, unfinished_uploads

__all__ = ["s3", "s3_server"]
NAME = "Ω #%?+ [v1]{2}~ b.bin"


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketStore:
    if request.param == "s3":
        return BucketStore.from_url(request.getfixturevalue("s3"), "Banking LLM", patience=5)
    pytest.importorskip("obstore", reason="obstore missing: pip install 'hybrid-tui[bucket]' brings it")
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "buck et").mkdir()
    return BucketStore.from_url(f"file://{tmp_path}/buck et", "Banking LLM", patience=5)


def _source(folder: Path, name: str, data: bytes) -> Source:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Source(str(path), name, len(data))


class Heard:
    """Bytes told of, by path."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def __call__(self, n: int, path: str) -> None:
        self.bytes[path] = self.bytes.get(path, 0) + n


async def _wanted(store: Store, folder: str, to: Path) -> list[Wanted]:
    return [Wanted(f.path, str(to / f.path), f.size, f.sha256) for f in await store.files(folder)]


async def test_an_empty_bucket_reads_as_empty(store: BucketStore) -> None:
    assert await store.read("docs/x") is None
    assert await store.list("models") == ()
    assert await store.stat("models") is None
    assert await store.files("models") == ()
    status = await store.status()
    assert not status.created and status.free_bytes is None and "not Google Drive" in status.label


async def test_a_slot_is_taken_once_and_keeps_its_first_content(store: BucketStore) -> None:
    taken = await asyncio.gather(*(store.put_new("log", "a", f"{n}".encode()) for n in range(8)))
    assert sum(taken) == 1
    assert await store.read_slot("log", "a") == f"{taken.index(True)}".encode()
    assert [e.name for e in await store.list("log")] == ["a.json"]


async def test_a_chain_is_walked_to_its_first_empty_slot_and_seen_to_grow(store: BucketStore) -> None:
    for n in range(30):
        await store.put_new("log", str(n), f"{n + 1}".encode())
    seen: list[str] = []

    def follow(id: str, data: bytes) -> str:
        seen.append(id)
        return data.decode()

    await store.walk("log", "0", follow)
    assert seen == [str(n) for n in range(30)]
    await store.put_new("log", "30", b"31")
    await store.walk("log", "29", follow)
    assert seen[-2:] == ["29", "30"]


async def test_files_go_up_and_come_down_with_their_checksums(store: BucketStore, tmp_path: Path) -> None:
    contents = {NAME: os.urandom(12_000_001), "a/b/small": b"x", "empty": b""}
    sources = [_source(tmp_path / "in", name, data) for name, data in contents.items()]
    up, down = Heard(), Heard()
    copied = await store.put_files(sources, "models/v", up)
    assert {c.path: c.sha256 for c in copied} == {n: hashlib.sha256(d).hexdigest() for n, d in contents.items()}
    assert up.bytes == {n: len(d) for n, d in contents.items() if d}
    listed = {f.path: f for f in await store.files("models/v")}
    assert {n: f.size for n, f in listed.items()} == {n: len(d) for n, d in contents.items()}
    if store.objects.scheme == "s3":
        assert {f.path: f.sha256 for f in listed.values()} == {c.path: c.sha256 for c in copied}
    got = await store.get_files(await _wanted(store, "models/v", tmp_path / "out"), "models/v", down)
    assert {g.path: g.sha256 for g in got} == {c.path: c.sha256 for c in copied}
    assert {n: (tmp_path / "out" / n).read_bytes() for n in contents} == contents
    assert down.bytes == up.bytes
    assert not list((tmp_path / "out").rglob("*.part"))


async def test_what_is_there_is_refused_or_replaced_whole(store: BucketStore, tmp_path: Path) -> None:
    for size in (10, 9 << 20):
        old, new = os.urandom(size), os.urandom(size)
        await store.put_files([_source(tmp_path, "f", old)], "m", Heard())
        with pytest.raises(HybridError, match="there already"):
            await store.put_files([_source(tmp_path, "f", new)], "m", Heard())
        assert await store.read("m/f") == old
        await store.put_files([_source(tmp_path, "f", new)], "m", Heard(), replace=True)
        assert await store.read("m/f") == new
        await store.discard("m")
        assert await store.files("m") == ()


async def test_a_source_that_changes_while_it_is_sent_leaves_nothing(store: BucketStore, tmp_path: Path) -> None:
    source = _source(tmp_path, "f", bytes(18 << 20))

    def change(n: int, path: str) -> None:
        with (tmp_path / "f").open("r+b") as file:
            file.seek(17 << 20)
            file.write(b"changed")

    with pytest.raises(HybridError, match="changed while"):
        await store.put_files([source], "m", change)
    assert await store.files("m") == ()


async def test_an_upload_that_is_cancelled_leaves_nothing(store: BucketStore, tmp_path: Path) -> None:
    source = _source(tmp_path, "f", bytes(24 << 20))
    begun = asyncio.Event()
    task = asyncio.ensure_future(store.put_files([source], "m", lambda _, __: begun.set()))
    await asyncio.wait_for(begun.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.files("m") == ()
    if store.objects.scheme == "s3":  # nor parts that nobody sees and somebody pays for
        assert unfinished_uploads(store.objects.url) == []


async def test_a_download_that_was_cut_off_goes_on_where_it_was(s3: str, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    data = os.urandom(24 << 20)
    await store.put_files([_source(tmp_path, "f", data)], "m", Heard())
    [wanted] = await _wanted(store, "m", tmp_path / "out")
    enough = asyncio.Event()
    task = asyncio.ensure_future(store.get_files([wanted], "m", lambda _, __: enough.set()))
    await asyncio.wait_for(enough.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    came = (tmp_path / "out/f.part").stat().st_size
    assert 0 < came < len(data)
    asked: list[int] = []
    read_range = store.objects.read_range

    async def counted(key: str, start: int, end: int, etag: str) -> memoryview:
        asked.append(start)
        return await read_range(key, start, end, etag)

    store.objects.read_range = counted  # type: ignore[method-assign]
    heard = Heard()
    await store.get_files([wanted], "m", heard)
    assert min(asked) == came
    assert heard.bytes == {"f": len(data)}
    assert (tmp_path / "out/f").read_bytes() == data
    asked.clear()
    await store.get_files([wanted], "m", Heard())
    assert asked == []  # it is there and right


async def test_a_part_of_something_else_is_found_out(s3: str, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    data = os.urandom(10 << 20)
    await store.put_files([_source(tmp_path, "f", data)], "m", Heard())
    [wanted] = await _wanted(store, "m", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f.part").write_bytes(b"?" * (9 << 20))
    heard = Heard()
    await store.get_files([wanted], "m", heard)
    assert (tmp_path / "out/f").read_bytes() == data
    assert heard.bytes == {"f": len(data)}


async def test_bytes_that_differ_from_their_checksum_are_not_kept(s3: str, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    await store.objects.put("m/f", b"rotten", hashlib.sha256(b"fresh!").hexdigest(), new=True)
    [wanted] = await _wanted(store, "m", tmp_path / "out")
    with pytest.raises(Corrupted):
        await store.get_files([wanted], "m", Heard())
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(Corrupted):
        await store.get_files([Wanted("f", str(tmp_path / "x"), 7)], "m", Heard())


async def test_a_full_disk_is_said_before_anything_is_written(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    await store.put_files([_source(tmp_path, "f", b"1234")], "m", Heard())
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3, "total": usage.f_blocks})())
    with pytest.raises(HybridError, match="free and"):
        await store.get_files([Wanted("f", str(tmp_path / "out/f"), 4)], "m", Heard())
    assert not (tmp_path / "out").exists()


async def test_a_link_in_the_place_of_a_part_is_not_written_through(s3: str, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    await store.put_files([_source(tmp_path, "f", b"1234")], "m", Heard())
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f.part").symlink_to(tmp_path / "precious")
    with pytest.raises(HybridError, match="in the way"):
        await store.get_files(await _wanted(store, "m", tmp_path / "out"), "m", Heard())
    assert (tmp_path / "precious").read_text() == "mine"


async def test_uploads_are_read_back_when_the_answer_proves_nothing(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    monkeypatch.setattr(bucket_files._Reading, "etag", lambda *_, **__: "an ETag of another kind")
    data = os.urandom(100_000)
    read: list[str] = []
    stream = Objects.stream

    def seen(self: Objects, key: str) -> object:
        read.append(key)
        return stream(self, key)

    monkeypatch.setattr(Objects, "stream", seen)
    await store.put_files([_source(tmp_path, "f", data)], "m", Heard())
    assert read == ["m/f"]


async def test_trash_keeps_what_was_thrown_away(store: BucketStore) -> None:
    await store.write("m/a/x", b"1")
    await store.write("m/y", b"2")
    await store.trash("m", ["a/x", "gone"])
    assert await store.read("m/a/x") is None
    assert await store.read("m/y") == b"2"
    [kept] = [f for f in await store.files(".trash") if f.path.endswith("/m/a/x")]
    assert await store.read(f".trash/{kept.path}") == b"1"


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "", "a//b", "a/\n", "."])
async def test_paths_stay_inside(store: BucketStore, path: str) -> None:
    with pytest.raises(BadInput):
        await store.write(path, b"x")


async def test_a_folder_is_fetched_once(s3: str, tmp_path: Path) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    await store.write("m/v/a", b"1")
    await store.write("m/v/b/c", b"2")
    place = await store.fetch("m/v")
    assert (place / "b/c").read_bytes() == b"2"
    inode = (place / "a").stat().st_ino
    await store.write("m/v/b/c", b"3")
    assert await store.fetch("m/v") == place
    assert (place / "b/c").read_bytes() == b"3"
    assert (place / "a").stat().st_ino == inode
    await store.trash("m/v", ["a"])
    await store.fetch("m/v")
    assert not (place / "a").exists()
    with pytest.raises(HybridError, match="no folder"):
        await store.fetch("m/absent")


def test_a_claim_of_a_dead_process_is_abandoned(s3: str) -> None:
    code = (
        "import asyncio, os, sys; from services.drive.bucket import BucketStore\n"
        "s = BucketStore.from_url(sys.argv[1], 'R')\n"
        "asyncio.run(s.claim('in/dead')); print('held', flush=True); sys.stdin.read(); os._exit(9)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, s3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"held\n"
    store = BucketStore.from_url(s3, "R", patience=5)
    release = asyncio.run(store.claim("in/mine"))
    assert asyncio.run(store.abandoned("in")) == []
    child.stdin.close()
    child.wait()
    assert asyncio.run(store.abandoned("in")) == ["dead"]
    asyncio.run(store.discard("in/dead"))
    assert asyncio.run(store.abandoned("in")) == []
    release()


async def test_trouble_is_one_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreUnreachable, match="There is no bucket at s3://absent-bucket"):
        await BucketStore.from_url("s3://absent-bucket/x", "R", patience=1).read("a")
    with pytest.raises(StoreUnreachable, match="There is no bucket"):
        await BucketStore.from_url("s3://absent-bucket/x", "R", patience=1).status()
    with pytest.raises(StoreUnreachable, match="There is no bucket"):
        await BucketStore.from_url("file:///nowhere/at/all", "R").status()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachable, match="does not answer") as caught:
        await BucketStore.from_url(s3, "R", patience=0.2).read("a")
    assert caught.value.hint and "\n" not in str(caught.value)
    for wrong in ("", "team", "ftp://x/y", "s3://"):
        with pytest.raises(BadInput, match="not the address of a bucket"):
            BucketStore.from_url(wrong, "R")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(HybridError, match="obstore") as caught2:
        await BucketStore.from_url(s3, "R").read("a")
    assert "pip install" in caught2.value.hint


def test_a_process_ends_with_its_own_exit_code_when_the_bucket_does_not_answer(s3: str, tmp_path: Path) -> None:
    (tmp_path / "hybrid.toml").write_text(f'[store]\nkind = "bucket"\nurl = "{s3}"\n')
    code = (
        "import sys; from services.drive.bucket_objects import Objects\n"
        "Objects.__init__.__kwdefaults__['patience'] = 0.1\n"
        "from services.drive.bucket import BucketStore\n"
        "BucketStore.from_url.__func__.__kwdefaults__['patience'] = 0.1\n"
        "from hybrid_tui.cli import main; sys.exit(main(['--workspace', sys.argv[1], '--run', 'store.status']))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE,
            env={**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in started:
        assert "does not answer" in process.communicate(timeout=30)[1]
        assert process.returncode == 4
