"""Moves in a bucket, cut off after any number of requests or made by several at once: nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services import settings
from services.context import Context
from services.drive.bucket import BucketStore
from services.drive.bucket_objects import Objects
from services.registry import manifest
from services.registry.actions import (
    AddParams,
    HistoryParams,
    ListParams,
    PromoteParams,
    add,
    history,
    list_versions,
    promote,
    resolve,
)
from services.registry.types import Version
from services.workspace import Workspace
from tests.drive.s3_bed import s3, s3_server
from tests.registry.conftest import MakeAdapter, adapter

__all__ = ["adapter", "s3", "s3_server"]
FILES = {"a": b"1", "b/c": b"22", "b/d": b"333", "manifest.json": b"{}"}


class CutOff(Exception):
    """The process died here."""


async def _staged(url: str) -> BucketStore:
    store = BucketStore.from_url(url, "R", patience=5)
    for name, data in FILES.items():
        await store.write(f"in/u/{name}", data)
    return store


async def _content(store: BucketStore, folder: str) -> dict[str, bytes | None]:
    return {f.path: await store.read(f"{folder}/{f.path}") for f in await store.files(folder)}


async def test_a_folder_moves_and_never_over_another(s3: str) -> None:
    store = await _staged(s3)
    assert not await store.rename("absent", "x")
    await store.write("other/a", b"foreign")
    assert not await store.rename("in/u", "other")
    await store.write("done/manifest.json", b"another")
    assert not await store.rename("in/u", "done")
    assert await _content(store, "in/u") == FILES
    assert await store.rename("in/u", "models/v")
    assert await _content(store, "models/v") == FILES
    assert await store.files("in/u") == ()
    assert await store.rename("other/a", "other/b")
    assert not await store.rename("other/b", "models/v/a")
    assert await store.read("models/v/a") == b"1"


@pytest.mark.parametrize("after", range(7))
async def test_a_move_cut_off_anywhere_is_readable_and_can_be_finished(
    s3: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await _staged(s3)
    left = after

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(Objects, name)

        async def call(self: Objects, *arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise CutOff
            left -= 1
            return await real(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "copy", dying("copy"))
        patch.setattr(Objects, "delete", dying("delete"))
        if after < 6:
            with pytest.raises(CutOff):
                await store.rename("in/u", "models/v")
        else:
            assert await store.rename("in/u", "models/v")
    there = "models/v" if await store.read("models/v/manifest.json") else "in/u"
    assert await _content(store, there) == FILES  # what a reader takes for whole is whole
    await store.rename("in/u", "models/v")
    assert await _content(store, "models/v") == FILES
    assert await store.files("in/u") == ()


async def test_what_s3_won_t_copy_in_one_request_goes_through_here(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BucketStore.from_url(s3, "R", patience=5)
    data = os.urandom(9 << 20)
    await store.objects.put("in/big", data, hashlib.sha256(data).hexdigest(), new=True)
    monkeypatch.setattr("services.drive.bucket_objects._COPY_MOST", 1000)
    assert await store.rename("in/big", "out/big")
    [moved] = await store.files("out")
    assert moved.sha256 == hashlib.sha256(data).hexdigest() and await store.read("out/big") == data
    assert await store.files("in") == ()


async def test_many_that_move_the_same_folder_at_once_move_it_once(s3: str) -> None:
    await _staged(s3)
    stores = [BucketStore.from_url(s3, "R", patience=5) for _ in range(6)]
    await asyncio.gather(*(store.rename("in/u", "models/v") for store in stores))
    assert await _content(stores[0], "models/v") == FILES
    assert await stores[0].files("in/u") == ()


@pytest.fixture
def in_bucket(workspace: Workspace, s3: str) -> Workspace:
    """A workspace whose store is the bucket."""
    (workspace.root / "hybrid.toml").write_text(f'[store]\nkind = "bucket"\nurl = "{s3}"\n')
    return Workspace(workspace.root, settings.Settings(store=settings.Store(kind="bucket", url=s3)))


def test_the_registry_lives_in_a_bucket(in_bucket: Workspace, adapter: MakeAdapter) -> None:
    ctx = Context(in_bucket)
    for n in range(2):
        added = asyncio.run(add(ctx, AddParams(model="banking", path=str(adapter(f"a{n}", size=100_000)))))
        assert isinstance(added, Version) and added.version == n + 1 and added.warnings == ()
        assert added.path == f"{in_bucket.settings.store.url}/Banking LLM/models/finetuned/banking-v{n + 1}"
    asyncio.run(promote(ctx, PromoteParams(model="banking", version="1")))
    listing = asyncio.run(list_versions(ctx, ListParams()))
    assert listing.problems == () and {v.version: v.aliases for v in listing.versions}[1] == ("deployed",)
    here = Path(asyncio.run(resolve(ctx, "banking", "deployed")).path)
    listed = manifest.read((here / "manifest.json").read_bytes())
    assert {f.path: f.size for f in listed.files} == {
        p.relative_to(here).as_posix(): p.stat().st_size
        for p in here.rglob("*")
        if p.is_file() and p.name != manifest.NAME
    }


SHELL = """
import asyncio, json, pathlib, sys, msgspec
from services import workspace
from services.context import Context
from services.errors import HybridError
from services.registry.actions import *
ctx = Context(workspace.open_workspace(pathlib.Path(sys.argv[1])))
async def run():
    for n in range(3):
        try:
            said = await (add(ctx, AddParams(model="banking", path=sys.argv[2])) if sys.argv[2] else
                          promote(ctx, PromoteParams(model="banking", version="latest", to="candidate")))
            print(msgspec.json.encode(said).decode(), flush=True)
        except HybridError as error:
            print(json.dumps({"error": str(error)}), flush=True)
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(run())
"""


def test_processes_that_add_and_promote_at_once_lose_nothing(in_bucket: Workspace, adapter: MakeAdapter) -> None:
    asyncio.run(add(Context(in_bucket), AddParams(model="banking", path=str(adapter("first")))))
    folders = [str(adapter("one")), str(adapter("two")), ""]
    shells = [
        subprocess.Popen(
            [sys.executable, "-c", SHELL, str(in_bucket.root), folder],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for folder in folders
    ]  # fmt: skip
    for shell in shells:
        assert shell.stdout is not None and shell.stdout.readline() == "ready\n"
    for shell in shells:
        assert shell.stdin is not None
        shell.stdin.write("\n")
        shell.stdin.flush()
    said = [[json.loads(line) for line in shell.communicate(timeout=60)[0].splitlines()] for shell in shells]
    added = [answer for answers in said[:2] for answer in answers]
    assert sorted(a.get("version", a) for a in added) == [2, 3, 4, 5, 6, 7], added
    listing = asyncio.run(list_versions(Context(in_bucket), ListParams()))
    assert listing.problems == ()
    assert {v.version: v.digest for v in listing.versions if v.version > 1} == {
        a["version"]: a["digest"] for a in added
    }
    assert all("/models/finetuned/banking-v" in v.path for v in listing.versions)  # all came home
    moves = sum(1 for a in said[2] if a.get("changed"))
    told = asyncio.run(history(Context(in_bucket), HistoryParams(limit=0)))
    assert told.total == 1 + 7 + moves and all(e.accepted for e in told.entries)
    store = BucketStore.from_url(in_bucket.settings.store.url, in_bucket.settings.store.root)
    assert asyncio.run(store.files("models/finetuned/.incoming")) == ()
    view = json.loads(asyncio.run(store.read("docs/model_registry.json")) or b"")
    assert view["records"] == told.total
