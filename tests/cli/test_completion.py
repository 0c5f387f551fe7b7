"""Completion offers what the action table holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_tui.completion import candidates, script


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hybrid-tui --ru", ["--run"]),
        ("hybrid-tui --run storage.s", ["storage.scan"]),
        ("hybrid-tui --run storage.scan pa", ["path="]),
        ("hybrid-tui --run train.start dtype=b", ["dtype=bf16"]),
        ("hybrid-tui --progress j", ["json"]),
        ("hybrid-tui --run nothing.here x", []),
    ],
)
def test_candidates(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_a_parameter_is_offered_once() -> None:
    assert "path=" not in candidates("hybrid-tui --run storage.scan path=x ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_for_real(tmp_path: Path) -> None:
    command = tmp_path / "hybrid-tui"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m hybrid_tui "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    body = (
        script("bash") + '\nCOMP_LINE="hybrid-tui --run storage.sc"; COMP_POINT=${#COMP_LINE}; '
        'COMP_WORDS=(hybrid-tui --run storage.sc); COMP_CWORD=2; _hybrid_tui; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["bash", "-c", body], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.split() == ["storage.scan"]
