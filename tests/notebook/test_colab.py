"""Colab: Drive is mounted, written late, and flushed.

``google.colab`` is imitated as far as that matters: what is written below the mount reaches Drive only when it is
flushed, and what the mount loses on the way can be asked for. In a real kernel the shared test bed's imitation is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.workspace import Workspace
from tests.conftest import SHARED
from tests.registry.conftest import MakeAdapter, adapter

__all__ = ["adapter"]
ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import os, pathlib, shutil
DRIVE, POINT = os.environ["STAND_IN_DRIVE"], os.environ["STAND_IN_POINT"]
def mount(mountpoint, force_remount=False, timeout_ms=120000, readonly=False):
    if os.environ.get("STAND_IN_REFUSED"):
        raise ValueError("mount failed")
    assert mountpoint == POINT
    if not os.path.isdir(mountpoint):
        shutil.copytree(DRIVE, mountpoint + "/MyDrive")
def flush_and_unmount(timeout_ms=24 * 60 * 60 * 1000):
    for lost in pathlib.Path(POINT).rglob(os.environ.get("STAND_IN_LOSES", "nothing at all")):
        lost.unlink()
    shutil.copytree(POINT + "/MyDrive", DRIVE, dirs_exist_ok=True)
    shutil.rmtree(POINT)
"""
CELL = """
import sys
from hybrid_tui import init_drive_manager
drive = init_drive_manager(project=sys.argv[1], mountpoint=sys.argv[2])
drive.upload_model(sys.argv[3], "banking")
print("waiting before:", len(drive.unsettled()) > 0)
print("missing:", drive.flush())
print("waiting after:", len(drive.unsettled()))
print(drive.list_models()[0]["id"])
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds ``google.colab``."""
    package = tmp_path / "site/google/colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "drive.py").write_text(STAND_IN)
    (tmp_path / "drive").mkdir()
    return {
        **os.environ,
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",
        "STAND_IN_DRIVE": str(tmp_path / "drive"),
        "STAND_IN_POINT": str(tmp_path / "content/drive"),
    }


def _run(env: dict[str, str], workspace: Workspace, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CELL, str(workspace.root), env["STAND_IN_POINT"], str(folder)],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_what_is_written_counts_as_safe_after_the_flush(
    stand_in: dict[str, str], workspace: Workspace, adapter: MakeAdapter, tmp_path: Path
) -> None:
    done = _run(stand_in, workspace, adapter())
    assert done.returncode == 0, done.stderr
    assert "The store is Google Drive mounted in Colab" in done.stdout and "call flush()" in done.stdout
    assert "waiting before: True" in done.stdout and "files are on their way to Drive" in done.stdout
    assert "missing: ()" in done.stdout and "waiting after: 0" in done.stdout and "banking@1" in done.stdout
    there = tmp_path / "drive/Banking LLM/models/finetuned/banking-v1"
    assert (there / "manifest.json").exists()


def test_what_the_mount_lost_is_named_and_stays_unsafe(
    stand_in: dict[str, str], workspace: Workspace, adapter: MakeAdapter
) -> None:
    done = _run({**stand_in, "STAND_IN_LOSES": "adapter_model.safetensors"}, workspace, adapter())
    assert done.returncode == 0, done.stderr
    lost = "models/finetuned/banking-v1/adapter_model.safetensors"
    assert f"Not on Drive as it was written: {lost}" in done.stdout
    assert f"missing: ('{lost}',)" in done.stdout and "waiting after: 1" in done.stdout


def test_a_refused_mount_is_one_sentence(stand_in: dict[str, str], workspace: Workspace, adapter: MakeAdapter) -> None:
    done = _run({**stand_in, "STAND_IN_REFUSED": "1"}, workspace, adapter())
    assert done.returncode != 0
    assert "Google Drive could not be mounted: mount failed." in done.stderr


def test_a_store_that_hybrid_toml_names_is_used_and_nothing_is_mounted(
    stand_in: dict[str, str], workspace: Workspace, adapter: MakeAdapter, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (workspace.root / "hybrid.toml").write_text(f'[store]\npath = "{tmp_path / "own"}"\n')
    done = _run(stand_in, workspace, adapter())
    assert done.returncode == 0, done.stderr
    assert "plain folder, not Google Drive" in done.stdout and not Path(stand_in["STAND_IN_POINT"]).exists()


def test_in_a_real_notebook(workspace: Workspace, adapter: MakeAdapter, tmp_path: Path) -> None:
    missing = [m for m in ("nbclient", "ipykernel") if importlib.util.find_spec(m) is None]
    site = SHARED / "colab-testbed/vm/site"
    if missing or not site.is_dir():
        what = f"{' and '.join(missing)} (100 MB, for this test alone)" if missing else "the Colab test bed"
        pytest.skip(f"missing: {what}")
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "vm/MyDrive").mkdir(parents=True)
    (tmp_path / "drive").symlink_to(tmp_path / "vm")  # mounted already, as the test bed sees it
    cell = (
        "from hybrid_tui import init_drive_manager\n"
        f"drive = init_drive_manager(project={str(workspace.root)!r}, mountpoint={str(tmp_path / 'drive')!r})\n"
        f"assert drive.upload_model({str(adapter())!r}, 'banking') == 1\n"
        f"drive.download_model('banking', {str(tmp_path / 'got')!r})\n"
        "import asyncio; asyncio.get_running_loop()  # Jupyter runs cells in one\n"
        "print([m['id'] for m in drive.list_models()])"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT), *filter(None, sys.path)))}
    NotebookClient(notebook, timeout=60).execute(env=env)
    said = "".join(o.get("text", "") for o in notebook.cells[0].outputs)
    assert "Google Drive mounted in Colab" in said and "['banking@1']" in said
    assert (tmp_path / "vm/MyDrive/Banking LLM/models/finetuned/banking-v1/manifest.json").exists()
    assert json.loads((tmp_path / "got/manifest.json").read_text())["format"] == 1
