"""The notebook's side on Google Drive, on the stand-in of its API on loopback; and a mount checked against it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_tui import init_drive_manager
from services.context import Context
from services.drive import google_init, mounts
from services.drive.folder import FolderStore
from services.drive.open import open_store
from services.drive.store import Source
from services.workspace import Workspace
from tests.drive.google_bed import SignedIn, again, config, signed_in
from tests.registry.conftest import MakeAdapter, adapter

__all__ = ["adapter", "config", "signed_in"]


@pytest.fixture
def work(signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(google_init, "SETTLE", 0.02)
    made = signed_in("work")
    asyncio.run(google_init.init(Context(made), google_init.InitParams()))
    return again(made)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    mounts._by_notebook.clear()


def test_models_go_up_and_down(
    work: Workspace, adapter: MakeAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = init_drive_manager(project=work.root)
    assert "The store is Google Drive of " in capsys.readouterr().out
    assert drive.upload_model(adapter(size=300_000), "banking", {"epochs": 3}) == 1
    got = drive.download_model("banking", tmp_path / "got", "latest")
    assert json.loads((got / "metadata.json").read_text())["epochs"] == 3
    assert (got / "adapter_model.safetensors").stat().st_size == 300_000
    drive.save_metadata("banking@1", {"ok": True})
    assert drive.load_metadata("banking@1") == {"ok": True}
    assert [m["id"] for m in drive.list_models()] == ["banking@1"]
    assert drive.flush() == () and drive.unsettled() == []


async def test_a_mount_s_files_settle_when_the_api_shows_them(work: Workspace, tmp_path: Path) -> None:
    """The mount is a folder here; what "reaches Drive" is sent by the API's own client, one of two files damaged."""
    mounts.mounted_by_colab(tmp_path / "mount")
    (tmp_path / "mount").mkdir()
    mounted = FolderStore(tmp_path / "mount/R", tmp_path / "mount", tmp_path / "state")
    sources = []
    for name in ("whole", "damaged"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        sources.append(Source(str(tmp_path / name), name, len(name) * 1000))
    await mounted.put_files(sources, "datasets/x", lambda n, p: None)
    late = tmp_path / "late"
    shutil.copytree(mounted.root / "datasets/x", late)
    (late / "damaged").write_bytes(b"?" * 7000)
    drive = open_store(work)
    assert await mounted.seen("datasets/x", await drive.files("datasets/x")) == 0
    arrived = [Source(str(late / s.path), s.path, s.size) for s in sources]
    await drive.put_files(arrived, "datasets/x", lambda n, p: None)
    assert await mounted.seen("datasets/x", await drive.files("datasets/x")) == 1
    assert {f.path: f.settled for f in await mounted.files("datasets/x")} == {"whole": True, "damaged": False}
