"""A run in a notebook whose store is Google Drive: the agent on the box sees what came there, late and in any order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.context import Context
from services.drive import google_init, google_session
from services.drive.google import DriveStore
from services.drive.open import open_store
from services.drive.store import Source, Wanted
from services.errors import BadInput
from services.runs import local, spec, view
from services.runs.notebook import layout, link
from services.runs.notebook.target import TARGET
from services.runs.train import StartParams
from services.runs.types import RunSpec, TrainConfig
from services.workspace import open_workspace
from tests.drive.google_bed import SignedIn, config, signed_in
from tests.drive_bed.serve import DriveServer
from tests.runs.conftest import CHECKOUT, TRAINER, ended
from tests.runs.test_notebook import Browser, steps, waiting
from tests.runtime.support import write_dataset

__all__ = ["config", "signed_in"]  # fixtures


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Drive's server, whose folder is the test's, stays for the next one."""
    yield


async def test_the_store_on_google_drive(
    signed_in: SignedIn, drive_server: DriveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook's mount is played by copying files to and fro, as Drive's mount does late and in any order."""
    account = drive_server.account(scope="drive")
    work = signed_in("work", account)
    await google_init.init(Context(work), google_init.InitParams())
    await google_session.close(work)
    with (work.root / "hybrid.toml").open("a") as file:
        file.write("[notebook]\npoll_seconds = 0.2\ndelay_seconds = 0.2\n")
    work = open_workspace(work.root)
    data = write_dataset(tmp_path / "intents")
    run_id = spec.make_run_id()
    run = RunSpec(
        1, run_id, "train", "notebook", TARGET.command(work.runs / run_id), str(CHECKOUT), TrainConfig(), "hub/tiny",
        "tiny", str(data), "0" * 64, 0, time.time(),
        remote=("python", "-P", str(TRAINER), "{run}", "steps=12", "pause=0.02"), grace_s=60.0,
    )  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    run_dir = local.submit(work, run)
    await asyncio.to_thread(waiting, run_dir)
    note = view.read(run_dir).note
    assert link.COLAB in note
    store, mount = open_store(work), tmp_path / "mount"
    assert isinstance(store, DriveStore)
    for folder in ("notebooks", "results/runs"):
        found = [one for one in await store.files(folder) if run_id in one.path]
        await store.get_files(
            [Wanted(f.path, str(mount / folder / f.path), f.size) for f in found], folder, lambda *_: None
        )
    assert note.rpartition("/")[2] == await store.id_of(layout.notebook_path(run_id))
    there = {path for path in mount.rglob("*") if path.is_file()}
    machine = Browser(work, tmp_path)
    machine.store = mount
    output, _ = await asyncio.to_thread(machine.open(run_id).communicate, timeout=60)
    made = [path for path in mount.rglob("*") if path.is_file() and path not in there]
    for path in sorted(made, reverse=True):  # the last first
        await store.put_files(
            [Source(str(path), path.relative_to(mount).as_posix().removeprefix("results/"), path.stat().st_size)],
            "results", lambda *_: None, replace=True,
        )  # fmt: skip
    await google_session.close(work)
    done = await asyncio.to_thread(ended, run_dir)
    assert done.phase == "succeeded", (done, output)
    assert steps(run_dir) == list(range(1, 13)) and not done.problems


async def test_drive_file_is_refused_first(signed_in: SignedIn) -> None:
    with pytest.raises(BadInput, match=r"drive\.file"):
        await TARGET.check(Context(signed_in("narrow")), StartParams(target="notebook"))
