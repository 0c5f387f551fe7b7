"""Models from a notebook: plain calls, also inside a running loop, on whatever store the project has."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import pytest

from hybrid_tui import GoogleDriveManager, init_drive_manager
from services.context import Context
from services.drive.errors import Corrupted
from services.errors import BadInput, HybridError
from services.notebook import bridge
from services.registry.actions import PromoteParams, promote
from services.workspace import Workspace
from tests.drive.s3_bed import s3, s3_server
from tests.registry.conftest import MakeAdapter, adapter

__all__ = ["adapter", "s3", "s3_server"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def drive(workspace: Workspace) -> GoogleDriveManager:
    return GoogleDriveManager(workspace)


def test_a_model_goes_up_and_comes_down_verified(
    drive: GoogleDriveManager, workspace: Workspace, adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = adapter()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert drive.upload_model(folder, "banking") == 1
    assert drive.upload_model(str(folder), "banking", {"metrics": {"accuracy": 0.9}, "seed": 7}) == 2
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    asyncio.run(promote(Context(workspace), PromoteParams(model="banking", version="1")))
    for version, wanted in ((None, 2), (1, 1), ("2", 2), ("deployed", 1)):
        got = drive.download_model("banking", tmp_path / f"got-{version}", version)
        assert (got / "adapter_model.safetensors").read_bytes() == before["adapter_model.safetensors"]
        assert ("seed" in json.loads((got / "metadata.json").read_text())) == (wanted == 2)
        assert not list(got.rglob("*.part"))
    models = drive.list_models()
    assert [(m["id"], m["aliases"]) for m in models] == [("banking@2", ["latest"]), ("banking@1", ["deployed"])]
    assert models[0]["metrics"]["accuracy"] == 0.9 and models[0]["base_model"] == "smollm2"


def test_what_is_there_and_right_is_left_alone(drive: GoogleDriveManager, adapter: MakeAdapter, tmp_path: Path) -> None:
    drive.upload_model(adapter(), "banking")
    got = drive.download_model("banking@1", tmp_path / "got")
    kept = (got / "adapter_model.safetensors").stat().st_ino
    (got / "benchmark.json").write_text("touched")
    (got / "mine.txt").write_text("notes")
    drive.download_model("banking@1", got)
    assert (got / "adapter_model.safetensors").stat().st_ino == kept
    assert "macro_f1" in (got / "benchmark.json").read_text()
    assert (got / "mine.txt").read_text() == "notes"


def test_damage_is_found_before_it_is_used(
    drive: GoogleDriveManager, workspace: Workspace, adapter: MakeAdapter, tmp_path: Path
) -> None:
    drive.upload_model(adapter(size=1000), "banking")
    weights = workspace.store_path / "models/finetuned/banking-v1/adapter_model.safetensors"
    weights.write_bytes(b"?" * 1000)
    with pytest.raises(Corrupted, match="not what its checksum says"):
        drive.download_model("banking", tmp_path / "got")
    assert not (tmp_path / "got/adapter_model.safetensors").exists()
    (weights.parent / "manifest.json").write_text("{}")
    with pytest.raises(Corrupted, match="banking@1 as it was added") as caught:
        drive.download_model("banking", tmp_path / "got")
    assert caught.value.hint in caught.value.__notes__  # a notebook shows it below the sentence


def test_metadata_is_kept_beside_the_versions(drive: GoogleDriveManager, adapter: MakeAdapter) -> None:
    drive.upload_model(adapter(), "banking", {"epochs": 3})
    drive.upload_model(adapter("two"), "banking")
    assert drive.load_metadata("banking@1")["epochs"] == 3
    assert "epochs" not in drive.load_metadata("banking")  # that of the latest
    drive.save_metadata("banking@v1", {"ok": True, "when": date(2026, 11, 25), "where": Path("/x")})
    assert drive.load_metadata("banking@1") == {"ok": True, "when": "2026-11-25", "where": "/x"}
    drive.save_metadata("banking", {"owner": "Ana"})
    assert drive.load_metadata("banking") == {"owner": "Ana"}
    drive.save_metadata("not-yet-added", {"plan": 1})
    assert drive.load_metadata("not-yet-added") == {"plan": 1}


def test_what_can_t_be_used_is_one_sentence(drive: GoogleDriveManager, adapter: MakeAdapter, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no model 'banking'"):
        drive.load_metadata("banking")
    with pytest.raises(BadInput, match="no folder"):
        drive.upload_model(tmp_path / "absent", "banking", {"a": 1})
    for bad in ({"a": float("nan")}, {"a": object()}, {("a",): 1}):
        with pytest.raises(BadInput, match="can't be kept as JSON"):
            drive.save_metadata("banking", bad)  # type: ignore[arg-type]
    for name in ("../x", "a/b", ""):
        with pytest.raises(BadInput):
            drive.save_metadata(name, {})
    drive.upload_model(adapter(), "banking")
    with pytest.raises(BadInput, match="no banking@9"):
        drive.download_model("banking", tmp_path / "got", 9)
    assert not (tmp_path / "got").exists()


async def test_calls_work_in_a_running_loop(drive: GoogleDriveManager, adapter: MakeAdapter, tmp_path: Path) -> None:
    assert drive.upload_model(adapter(), "banking") == 1
    assert [m["version"] for m in drive.list_models()] == [1]
    assert (drive.download_model("banking", tmp_path / "got") / "manifest.json").exists()


def test_numbers_of_numpy_are_plain_numbers(drive: GoogleDriveManager) -> None:
    numpy = pytest.importorskip("numpy")
    drive.save_metadata("x", {"loss": numpy.float32(0.5), "per_class": numpy.array([1, 2])})
    assert drive.load_metadata("x") == {"loss": 0.5, "per_class": [1, 2]}


def test_an_interrupt_stops_the_work_before_it_is_raised() -> None:
    begun, ended = threading.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    def interrupt() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def interrupted() -> None:
        await asyncio.to_thread(interrupt)

    async def both() -> None:
        await asyncio.gather(work(), interrupted())

    with pytest.raises(KeyboardInterrupt):
        bridge.call(both())
    assert ended == [True]


def test_it_says_which_store_it_is(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    drive = init_drive_manager(project=workspace.root, root="Other")
    said = capsys.readouterr().out
    assert "The store is a plain folder, not Google Drive" in said and "Other" in said and "drive.login" in said
    assert "Other" in repr(drive)
    with pytest.raises(BadInput, match="not a folder"):
        init_drive_manager(project=workspace.root / "absent")


def test_a_bucket_serves_as_well(
    workspace: Workspace, s3: str, adapter: MakeAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "hybrid.toml").write_text(f'[store]\nkind = "bucket"\nurl = "{s3}"\n')
    drive = init_drive_manager(project=workspace.root)
    assert "an S3 bucket" in capsys.readouterr().out
    assert drive.upload_model(adapter(), "banking") == 1
    assert (drive.download_model("banking", tmp_path / "got") / "adapter_config.json").exists()
    assert drive.flush() == ()


def test_a_plain_script_needs_nothing_heavy(workspace: Workspace, adapter: MakeAdapter) -> None:
    code = (
        "import sys, hybrid_tui\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('services', 'textual', 'msgspec', 'asyncio')]\n"
        "from hybrid_tui import init_drive_manager, GoogleDriveManager\n"
        "drive = init_drive_manager(project=sys.argv[1])\n"
        "print('version', drive.upload_model(sys.argv[2], 'banking', {'a': 1}))\n"
        "heavy = ('textual', 'torch', 'transformers', 'obstore', 'aiohttp', 'requests')\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in heavy], [m for m in heavy if m in sys.modules]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root), str(adapter())], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "version 1" in done.stdout
    with pytest.raises(AttributeError):
        import hybrid_tui

        hybrid_tui.absent  # noqa: B018


def test_an_error_names_the_unreachable_store(workspace: Workspace) -> None:
    (workspace.root / "hybrid.toml").write_text('[store]\npath = "/nowhere/at/all"\n')
    with pytest.raises(HybridError, match="can't be reached"):
        init_drive_manager(project=workspace.root)
