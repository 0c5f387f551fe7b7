"""Downloads against every fault: what gets its name is what Drive's checksum says, and what came is kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.drive.api import downloads, parts
from services.drive.api.placing import flushed
from services.drive.api.types import DriveFile
from services.drive.errors import Corrupted, DriveLimit, DriveRefused
from services.errors import BadInput, HybridError, Refused, StoreUnreachable
from tests.drive.api.conftest import Bench, found
from tests.drive_bed.serve import CHECKOUT

KB, MB = 1 << 10, 1 << 20
MEDIA = "alt=media"


@pytest.fixture(autouse=True, params=["on one line", "on four lines"])
def _small_ranges(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Files of a few megabytes come in several ranges, so that the tests are quick."""
    monkeypatch.setattr(downloads, "_RANGE", 1 * MB + 70 * KB)
    if request.param == "on four lines":
        monkeypatch.setattr(downloads, "_LOOK", 0)
        monkeypatch.setattr(downloads, "_FAST", 1e18)


async def fetch(bench: Bench, id: str, name: str = "model.bin") -> Path:
    """Download to a place of its own; nothing but the file may be left there."""
    client = bench.client()
    local = bench.place / "down" / name
    await client.download(await found(client, id), local, bench.on_bytes)
    assert [path.name for path in local.parent.iterdir()] == [name]
    assert not list((bench.place / "state/downloads").iterdir())
    return local


@pytest.mark.parametrize("size", [0, 1, 100 * KB, 1 * MB, 1 * MB + 1, 7 * MB + 5])
async def test_arrives_as_it_is(bench: Bench, size: int, sha: Callable[[Path], str]) -> None:
    id, data = bench.remote("model.bin", size)
    local = await fetch(bench, id)
    assert local.read_bytes() == data
    assert bench.shown == size


FAULTS = {
    "500": {"status": 500, "times": 2},
    "503 with Retry-After": {"status": 503, "retry_after": 0},
    "429": {"status": 429, "reason": "rateLimitExceeded"},
    "403 rateLimitExceeded": {"status": 403, "reason": "rateLimitExceeded"},
    "403 userRateLimitExceeded": {"status": 403, "reason": "userRateLimitExceeded"},
    "401": {"status": 401, "reason": "authError"},
    "line breaks at the first byte": {"drop_response_at": 0},
    "line breaks in the middle": {"drop_response_at": 150 * KB, "times": 2},
    "line is reset": {"drop_response_at": 150 * KB, "reset": True},
    "bytes are corrupted": {"corrupt_at": 70 * KB},
    "answer is cut short": {"truncate_at": 70 * KB},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("size", [200 * KB, 5 * MB], ids=["small", "large"])
async def test_every_fault_leaves_the_whole_file(bench: Bench, fault: dict[str, object], size: int) -> None:
    id, data = bench.remote("model.bin", size)
    rule = bench.server.fault(path=MEDIA, after=2 if size > MB else 0, **fault)
    local = await fetch(bench, id)
    assert bench.server.hits(rule)
    assert local.read_bytes() == data
    assert bench.shown == size


async def test_a_broken_line_is_gone_on_from(bench: Bench) -> None:
    for name, size in (("small", 800 * KB), ("large", 6 * MB)):
        id, data = bench.remote(name, size)
        bench.server.fault(path=f"{id}.*{MEDIA}", drop_response_at=500 * KB, times=3)
        client = bench.client()
        await client.download(await found(client, id), bench.place / name, bench.on_bytes)
        assert (bench.place / name).read_bytes() == data
        assert client.stats.received_bytes == size


async def test_another_process_goes_on_with_what_came(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 8 * MB)
    bench.server.fault(path=MEDIA, status=503, after=4, times=0)
    with pytest.raises(StoreUnreachable):
        await fetch(bench, id)
    bench.server.clear()
    bench.shown = 0
    client = bench.client()
    local = bench.place / "down/model.bin"
    await client.download(await found(client, id), local, bench.on_bytes)
    assert local.read_bytes() == data
    assert bench.shown == 8 * MB
    assert client.stats.received_bytes <= 5 * MB


_KILLED = """
import asyncio, sys
from pathlib import Path
from services.drive.api.client import DriveClient
from tests.drive_bed.serve import DriveServer

async def main(url, place, id):
    server = DriveServer(url, Path(place))
    account = server.account()
    async with DriveClient(server.tokens(account), server.settings(account), Path(place) / "state") as client:
        file = await client.get(id)
        await client.download(file, Path(place) / "down/model.bin", lambda n: print(n, flush=True))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_process_was_told_of_is_not_fetched_again(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 6 * MB + 77)
    rule = bench.server.fault(path=MEDIA, rate=3 * MB, times=0)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED, bench.server.url, str(bench.place), id, cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    kept, steps = 0, []
    while kept < 2 * MB:
        steps.append(int(await child.stdout.readline()))
        kept += steps[-1]
    child.kill()
    await child.wait()
    assert bench.server.hits(rule)
    bench.server.clear()
    assert max(steps) < 700 * KB  # a slow line's bytes do not wait for a whole block
    client = bench.client()
    local = bench.place / "down/model.bin"
    await client.download(await found(client, id), local, bench.on_bytes)
    assert local.read_bytes() == data
    assert client.stats.received_bytes <= len(data) - kept


async def test_a_disk_that_can_not_be_written_past_its_cache(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    id, data = bench.remote("model.bin", 5 * MB)
    monkeypatch.setattr(parts, "_direct", lambda fd: -1)
    assert (await fetch(bench, id)).read_bytes() == data


async def test_an_error_of_the_disk_ends_it_and_nothing_gets_its_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second descriptor can't be written to: one that refuses all."""
    id, data = bench.remote("model.bin", 5 * MB)
    client = bench.client()
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_direct", lambda fd: os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(HybridError, match="can't be written"):
            await client.download(await found(client, id), bench.place / "down/model.bin", bench.on_bytes)
    assert not (bench.place / "down/model.bin").exists()
    assert (await fetch(bench, id)).read_bytes() == data


async def test_torn_parts_are_fetched_again(bench: Bench) -> None:
    """After a power failure the disk may not hold what the journal says."""
    id, data = bench.remote("model.bin", 8 * MB)
    bench.server.fault(path=MEDIA, status=503, after=6, times=0)
    with pytest.raises(StoreUnreachable):
        await fetch(bench, id)
    bench.server.clear()
    part = bench.place / "down/model.bin.part"
    with part.open("r+b") as file:
        file.seek(1 * MB + 100)
        file.write(bytes(1000))
    journal = next((bench.place / "state/downloads").iterdir())
    with journal.open("ab") as file:
        file.write(b"[5242880,629")
    assert (await fetch(bench, id)).read_bytes() == data


async def test_parts_of_another_file_are_not_taken(bench: Bench) -> None:
    id, _ = bench.remote("model.bin", 4 * MB)
    bench.server.fault(path=MEDIA, status=503, after=2, times=0)
    with pytest.raises(StoreUnreachable):
        await fetch(bench, id)
    bench.server.clear()
    other, data = bench.remote("model.bin", 4 * MB, seed=2)
    assert (await fetch(bench, other)).read_bytes() == data


async def test_cancelled_then_gone_on_with(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 8 * MB)
    reached = asyncio.Event()
    client = bench.client()
    local = bench.place / "down/model.bin"
    task = asyncio.create_task(client.download(await found(client, id), local, lambda n: reached.set()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not local.exists()
    assert (await fetch(bench, id)).read_bytes() == data


async def test_what_is_there_and_right_is_not_fetched(bench: Bench) -> None:
    id, _ = bench.remote("model.bin", 3 * MB)
    await fetch(bench, id)
    before = bench.paths("GET", MEDIA)
    bench.shown = 0
    await fetch(bench, id)
    assert (bench.paths("GET", MEDIA), bench.shown) == (before, 3 * MB)


async def test_what_is_there_and_wrong_is_replaced_whole(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 300 * KB)
    local = bench.file("down/model.bin", 300 * KB, seed=5)
    await fetch(bench, id)
    assert local.read_bytes() == data


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_what_is_always_corrupted_is_not_accepted(bench: Bench, size: int) -> None:
    id, _ = bench.remote("model.bin", size)
    bench.server.fault(path=MEDIA, corrupt_at=1000, times=0)
    old = bench.file("down/model.bin", 10)
    with pytest.raises(Corrupted, match="checksum"):
        await fetch(bench, id)
    assert old.stat().st_size == 10
    assert [p.name for p in old.parent.iterdir() if p.suffix == ".part" and p.stat().st_size] == []


@pytest.mark.parametrize("size", [200 * KB, 3 * MB])
async def test_md5_where_there_is_no_sha256(bench: Bench, size: int) -> None:
    id, data = bench.remote("model.bin", size)
    client = bench.client()
    file = await found(client, id)
    file = DriveFile(id=file.id, name=file.name, mime=file.mime, size=file.size, md5=file.md5)
    local = bench.place / "down/model.bin"
    digest = await client.download(file, local, bench.on_bytes)
    assert local.read_bytes() == data
    assert digest == (await found(client, id)).sha256
    assert await client.download(file, local, bench.on_bytes) == digest


async def test_malware_is_fetched_only_when_the_risk_is_acknowledged(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 1000)
    bench.server.call("edit", id=id, abusive=True)
    with pytest.raises(DriveRefused, match="malware") as caught:
        await fetch(bench, id)
    assert caught.value.hint
    client = bench.client()
    local = bench.place / "down/model.bin"
    await client.download(await found(client, id), local, bench.on_bytes, abuse=True)
    assert local.read_bytes() == data


async def test_a_download_quota_is_said_at_once(bench: Bench) -> None:
    id, _ = bench.remote("model.bin", 3 * MB)
    bench.server.fault(path=MEDIA, status=403, reason="downloadQuotaExceeded", times=0)
    with pytest.raises(DriveLimit):
        await fetch(bench, id)
    assert bench.paths("GET", MEDIA) <= downloads._LINES


async def test_a_full_disk_is_said_before_anything_is_fetched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    id, _ = bench.remote("model.bin", 3 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=65 * MB))
    with pytest.raises(HybridError, match=r"has .* free"):
        await fetch(bench, id)
    assert bench.paths("GET", MEDIA) == 0


async def test_a_place_that_can_not_be_written(bench: Bench) -> None:
    id, _ = bench.remote("model.bin", 3 * MB)
    small, _ = bench.remote("small.bin", 30)
    client = bench.client()
    bench.file("wall", 3)
    for one in (id, small):
        with pytest.raises(HybridError, match="can't be written"):
            await client.download(await found(client, one), bench.place / "wall/model.bin", bench.on_bytes)


async def test_one_file_is_fetched_once_at_a_time(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 4 * MB)
    local = bench.place / "down/model.bin"

    async def one() -> str:
        client = bench.client()
        return await client.download(await found(client, id), local, bench.on_bytes)

    done = await asyncio.gather(one(), one(), one(), return_exceptions=True)
    assert all(isinstance(d, str | Refused) for d in done)
    assert any(isinstance(d, str) for d in done)
    assert local.read_bytes() == data


async def test_a_link_in_place_of_the_part_is_not_followed(bench: Bench) -> None:
    """Somebody else's link in a shared folder must not make us write elsewhere."""
    victim = bench.file("victim", 10)
    before = victim.read_bytes()
    for name, size in (("small.bin", 100), ("large.bin", 3 * MB)):
        id, _ = bench.remote(name, size)
        part = bench.place / f"down/{name}.part"
        part.parent.mkdir(exist_ok=True)
        part.symlink_to(victim)
        client = bench.client()
        with pytest.raises(HybridError):
            await client.download(await found(client, id), bench.place / "down" / name, bench.on_bytes)
    assert victim.read_bytes() == before


async def test_what_has_no_bytes_is_refused_and_a_shortcut_is_followed(bench: Bench) -> None:
    id, data = bench.remote("model.bin", 1000)
    link = bench.account.put("link", mime="application/vnd.google-apps.shortcut", target=id, parent=bench.folder)
    doc = bench.account.put("doc", mime="application/vnd.google-apps.document", parent=bench.folder)
    client = bench.client()
    local = bench.place / "down/model.bin"
    await client.download(await found(client, link), local, bench.on_bytes)
    assert local.read_bytes() == data
    for one in (doc, bench.folder):
        with pytest.raises(BadInput):
            await client.download(await found(client, one), bench.place / "none", bench.on_bytes)


@pytest.mark.parametrize("size", [100 * KB, 700 * KB])
async def test_many_small_files_wait_for_the_disk_once_and_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def noted(fd: int) -> None:
        sync(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", noted)
    client, places = bench.client(), [bench.place / "down" / f"{n}.bin" for n in range(5)]
    contents = []
    for local in places:
        id, data = bench.remote(local.name, size)
        await client.download(await found(client, id), local, bench.on_bytes, flush_name=False)
        contents.append(data)
    assert synced == [] and [local.read_bytes() for local in places] == contents
    flushed(places)
    assert sorted(synced[:-1]) == places and synced[-1] == places[0].parent

    alone = bench.place / "alone" / "one.bin"
    await client.download(await found(client, bench.remote("one.bin", size)[0]), alone, bench.on_bytes)
    assert [path.name for path in synced[6:]] == ["one.bin.part", "alone"]  # the bytes before the name


def test_a_disk_that_can_not_have_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(HybridError, match="gone can't be written"):
        flushed([tmp_path / "gone"])
    flushed([])
