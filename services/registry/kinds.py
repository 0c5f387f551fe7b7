"""What a folder of model files is: an adapter, a classifier, a full model, a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

ADAPTER = "adapter_config.json"
HEAD = "head.safetensors"  # a classification head beside an adapter or a fully trained body


def kind_of(folder: Path, names: Collection[str] | None = None) -> str:
    """One of "adapter", "classifier", "full", "gguf" or "files" for ``folder``, which holds the files ``names``.

    "classifier" is a body with a classification head, be the body an adapter or fully trained; "full" a whole model.
    """
    if names is None:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    whole = "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names if name != HEAD)
    if ADAPTER in names:
        return "classifier" if HEAD in names or _task(folder) == "SEQ_CLS" else "adapter"
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    if whole:
        return "classifier" if HEAD in names else "full"
    return "files"


def _task(folder: Path) -> str:
    """What PEFT calls the adapter's task; "" when its config does not tell (a damaged one is named by its readers)."""
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(config.get("task_type") or "") if isinstance(config, dict) else ""
