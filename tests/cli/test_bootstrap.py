"""The set-up says in one line what is missing; the whole set-up is what `make test` itself has just run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "hybrid_tui" / "bootstrap.py"


def set_up(venv: Path, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", str(SCRIPT), str(venv), "run"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unknown_torch_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    said = set_up(tmp_path / "v", HYBRID_TORCH="rocm")
    assert said.returncode == 1
    assert "HYBRID_TORCH=rocm" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_no_cpu_build_stops_with_the_size_of_the_other(tmp_path: Path) -> None:
    """With no index to ask, no CPU wheel is to be had: the set-up must stop and not take another build."""
    said = set_up(tmp_path / "v", HYBRID_TORCH="cpu", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert said.returncode == 3
    assert "GB" in said.stderr
    assert "HYBRID_TORCH=none" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_no_network_is_one_line(tmp_path: Path) -> None:
    said = set_up(tmp_path / "v", HYBRID_TORCH="none", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert said.returncode == 1
    assert "could not be installed" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(shutil.which("python3.9") is None, reason="no Python older than 3.11 here")
def test_an_old_python_is_told_so(tmp_path: Path) -> None:
    said = set_up(tmp_path / "v", python="python3.9")
    if "pyenv" in said.stderr:
        pytest.skip("python3.9 is a shim without a version behind it")
    assert said.returncode == 1
    assert "3.11" in said.stderr
