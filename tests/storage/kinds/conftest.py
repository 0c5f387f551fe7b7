"""A home folder that is nobody's, for the caches of the tests."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.storage.kinds import listing
from services.storage.reclaim import KindItems
from services.workspace import Workspace

_FOREIGN = (
    "PIP_", "UV_", "HF_", "HUGGINGFACE_", "TORCH", "TRITON_", "TRANSFORMERS_", "PYTORCH_", "XDG_", "CONDA_", "MAMBA_",
    "POETRY_", "YARN_", "PNPM_", "CARGO_", "GO", "npm_config_", "NPM_CONFIG_", "HYBRID_", "VSCODE_", "KERNELS_",
    "DOCKER_", "TMPDIR",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder and temporary folder, and none of the variables that move a cache."""
    for variable in list(os.environ):
        if variable.startswith(_FOREIGN):
            monkeypatch.delenv(variable)
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    yield folder


def du(*paths: Path) -> int:
    """What GNU du counts for ``paths`` together, in bytes."""
    out = subprocess.run(["du", "-c", "-s", "-B1", *paths], capture_output=True, text=True, check=True).stdout
    return int(out.splitlines()[-1].split()[0])


def fill(path: Path, size: int = 5000) -> Path:
    """A file with content, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def look(workspace: Workspace, home: Path) -> Callable[..., KindItems]:
    """One kind of this box, as ``list_kinds`` gives it."""

    def look_at(kind: str, where: Workspace = workspace) -> KindItems:
        return listing.list_kinds(where, (kind,), stop=threading.Event())[0]

    return look_at
