"""Bind mounts, a full disk, a read-only one, another one, an overlay: each in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
UNSHARE = ["unshare", "--mount", "--propagation", "private"]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    try:
        tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no unshare here: {error}")
    if tried.returncode:
        pytest.skip(f"mount namespaces are not allowed here: {tried.stderr.strip()}")


@pytest.mark.parametrize(
    "case", ["bind_inside", "bind_after_the_plan", "full_disk", "read_only", "another_disk", "overlay"]
)
def test_mounted(case: str, tmp_path: Path) -> None:
    command = [*UNSHARE, sys.executable, "-m", "tests.storage.cleaning.in_namespace", case, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
