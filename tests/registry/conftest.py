"""A folder that looks like a trained adapter; workspaces whose store is the Drive server of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drive.google_bed import config, signed_in

__all__ = ["MakeAdapter", "config", "signed_in"]

MakeAdapter = Callable[..., Path]


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """Makes adapter folders: ``adapter("one", accuracy=0.8, size=1000)``."""

    def make(name: str = "adapter", *, accuracy: float = 0.858, size: int = 4000) -> Path:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base-from-peft"}))
        (folder / "adapter_model.safetensors").write_bytes((name.encode() * size)[:size])
        about = {"base_model": "smollm2", "training_date": "2026-11-23", "metrics": {"accuracy": accuracy}}
        (folder / "metadata.json").write_text(json.dumps(about))
        (folder / "benchmark.json").write_text(json.dumps({"metrics": {"macro_f1": accuracy - 0.01}, "rows": 10}))
        return folder

    return make
