"""Where the workspace is, and that making one never overwrites."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import atomic, workspace
from services.errors import BadInput


def test_the_nearest_folder_with_settings_is_the_workspace(tmp_path: Path) -> None:
    made = workspace.init(tmp_path / "box")
    deep = made.root / "a" / "b"
    deep.mkdir(parents=True)
    assert workspace.find(deep) == made.root
    assert workspace.find(tmp_path) == tmp_path


def test_init_keeps_settings_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "hybrid.toml").write_text("[disk]\nbudget_gb = 99\n", encoding="utf-8")
    assert workspace.init(tmp_path).settings.disk.budget_gb == 99
    assert (tmp_path / "hybrid.toml").read_text(encoding="utf-8") == "[disk]\nbudget_gb = 99\n"


def test_state_is_ignored_by_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    made = workspace.init(tmp_path)
    (made.state / "big.bin").write_bytes(b"x")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ".hybrid" not in status.stdout


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        workspace.open_workspace(tmp_path / "nowhere")


def test_state_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".hybrid").write_text("in the way", encoding="utf-8")
    with pytest.raises(BadInput, match="can't be written"):
        workspace.open_workspace(tmp_path).ensure_state()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails half-way."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from services import atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), b'n' * 100_000)\n"
        "except OSError: sys.exit(7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(target)], env={**os.environ, "PYTHONPATH": os.getcwd()})  # noqa: PTH109
    assert ended.returncode == 7
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_mode_asked_for_is_the_mode_there(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "secret", "x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
