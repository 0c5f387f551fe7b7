"""The machine's facts: real ones here, and parsing of what isn't here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.advisor.machine import Gpu, look, memory_limit, parse_gpus


async def test_facts_of_this_machine() -> None:
    machine = await look()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.gpu_note
    assert set(machine.model_stack) == {"torch", "transformers", "peft"}


async def test_a_failing_gpu_tool_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine = await look()
    assert machine.gpus == ()
    assert "finds no GPU" in machine.gpu_note


async def test_gpus_are_read_from_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "NVIDIA L4, 23034"\necho "[Not Supported], [N/A]"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (await look()).gpus == (Gpu("NVIDIA L4", 23034 * 1024**2),)


def test_names_with_commas_and_foreign_lines() -> None:
    assert parse_gpus("A, B, 10\n\nnonsense\n") == (Gpu("A, B", 10 * 1024**2),)


@pytest.mark.parametrize(("text", "limit"), [("8000000\n", 8_000_000), ("max\n", None), (None, None)])
def test_memory_limit(tmp_path: Path, text: str | None, limit: int | None) -> None:
    file = tmp_path / "memory.max"
    if text is not None:
        file.write_text(text)
    assert memory_limit(file) == limit
