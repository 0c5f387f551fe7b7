"""What a cluster needs for a run, as one zip file: code, data, the model if it is a folder, a checkpoint."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from services import formats
from services.errors import HybridError
from services.runs.notebook.parcel import SERVICES, plain_spec
from services.runs.types import RunSpec
from services.settings import Ray

MOST_BYTES = 450_000_000  # Ray keeps a package in the head's memory and refuses one of 512 MB
_BEAT_S = 10.0


def job(spec: RunSpec, settings: Ray, number: int, max_seconds: float) -> dict[str, Any]:
    """job.json: what the job is asked to do. ``max_seconds`` is what earlier starts have left of the budget."""
    told = plain_spec(spec) | {"max_seconds": max_seconds, "options": {"beat_s": _BEAT_S}, "grace_s": 120.0}
    told["model"] = "" if Path(spec.model).is_dir() else spec.model
    if max_seconds and not spec.budget:
        told["budget"] = f"{spec.max_seconds or max_seconds:g} s"
    return {
        "run": spec.id, "number": number, "spec": told, "command": list(spec.remote), "nodes": settings.nodes,
        "gpus": settings.gpus, "cpus": settings.cpus, "folder": settings.folder, "work": f"{settings.folder}-work",
    }  # fmt: skip


def pack(spec: RunSpec, about: dict[str, Any], checkpoint: Path | None) -> bytes:
    """The parcel's bytes. Raises HybridError when it is too large for Ray."""
    files = [(path, path.relative_to(SERVICES.parent).as_posix()) for path in SERVICES.rglob("*")]
    files += [(path, f"data/{path.name}") for path in Path(spec.data).iterdir()]
    if Path(spec.model).is_dir():
        files += [(path, f"model/{path.name}") for path in Path(spec.model).iterdir()]
    if checkpoint is not None:
        files += [(path, f"checkpoint/{path.relative_to(checkpoint.parent)}") for path in checkpoint.rglob("*")]
    files = [(path, name) for path, name in files if path.is_file() and "__pycache__" not in name]
    total = sum(path.stat().st_size for path, _ in files)
    if total > MOST_BYTES:
        raise HybridError(
            f"Code, data and model are {formats.size(total)}; Ray takes {formats.size(MOST_BYTES)} at most.",
            hint="Train from a model named by its Hugging Face id: the cluster then fetches it by itself.",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, name in sorted(files, key=lambda one: one[1]):
            how = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            _put(archive, name, path.read_bytes(), how)
        _put(archive, "job.json", json.dumps(about).encode(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _put(archive: zipfile.ZipFile, name: str, data: bytes, how: int) -> None:
    info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # the same bytes for the same parcel
    info.compress_type = how
    archive.writestr(info, data)
