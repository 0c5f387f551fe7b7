"""What a notebook needs, put into the store: code, data, model, and job.json that makes it whole."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from services.drive.store import Copied, OnBytes, Source, Store
from services.errors import HybridError
from services.runs.notebook import cells, layout
from services.runs.types import RunSpec

SERVICES = Path(__file__).resolve().parents[2]  # the package "services"
# What the trainer imports, and the versions that it is tested with; CUDA's torch of the machine is left alone.
PACKAGES = {"torch": "2.4", "transformers": "5.20", "peft": "0.21", "accelerate": "1.15", "safetensors": "0.8",
            "msgspec": "0.20", "psutil": "6", "jinja2": "3.1"}  # fmt: skip
_GRACE_S = 120.0  # a stopped trainer's time for its checkpoint


def code_zip() -> bytes:
    """Our services as one archive, the same bytes for the same code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(SERVICES.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                info = zipfile.ZipInfo(path.relative_to(SERVICES.parent).as_posix(), (2020, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes())
    return buffer.getvalue()


def plain_spec(spec: RunSpec) -> dict[str, Any]:
    """The spec as the other side gets it: without this box's paths."""
    told: dict[str, Any] = msgspec.to_builtins(spec)
    return told | {"command": [], "cwd": "", "remote": [], "options": {}, "max_cost": 0.0}


async def send(
    store: Store, spec: RunSpec, on_bytes: OnBytes, say: Callable[[str], None], *, delay_s: float, beat_s: float
) -> None:
    """Put everything into the store; what lies there already with the same bytes is not sent again.

    job.json comes last: a notebook that finds it finds all the rest. Raises HybridError, StoreUnreachable.
    """
    top = layout.run_folder(spec.id)
    say("sending code and data to the store")
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code.zip"
        code.write_bytes(code_zip())
        digest = layout.sha256(code)
        await store.put_files([_source(code, "code.zip")], f"{top}/in", on_bytes, replace=True)
    data = _sources(Path(spec.data), ("dataset.json", "*.jsonl"))
    sent = await store.put_files(data, f"{top}/in/data", on_bytes, replace=True)
    files = [_file(f"{top}/in/data", one, "data") for one in sent]
    model = "" if _is_local(spec.model) else spec.model
    if not model:
        say("sending the model to the store, once for all runs")
        files += await _send_model(store, spec, on_bytes)
    job = {
        "run": spec.id, "spec": plain_spec(spec), "command": list(spec.remote), "model": model, "files": files,
        "code_sha256": digest, "packages": PACKAGES, "delay_s": delay_s, "beat_s": beat_s, "grace_s": _GRACE_S,
    }  # fmt: skip
    await store.write(f"{top}/{layout.JOB}", json.dumps(job, indent=1).encode())


async def write_notebook(store: Store, spec: RunSpec, mounted: str) -> str:
    """Write the notebook into the store; its path there. ``mounted`` is where the notebook will find the store."""
    document = cells.notebook(run=spec.id, store=mounted, model=spec.model_label, data=Path(spec.data).name)
    path = layout.notebook_path(spec.id)
    await store.write(path, cells.encode(document))
    return path


async def _send_model(store: Store, spec: RunSpec, on_bytes: OnBytes) -> list[dict[str, Any]]:
    """The base model's files; their folder's name has a digest of them, so that it is sent once for all runs."""
    sources = _sources(Path(spec.model), ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"))
    if not any(source.path.endswith(".safetensors") for source in sources):
        raise HybridError(f"{spec.model} holds no *.safetensors to send.", hint="Train from another model.")
    digests = {source.path: layout.sha256(Path(source.local)) for source in sources}
    mark = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.model_label.rpartition("/")[2]).strip("-.") or "model"
    folder = f"models/base-models/{name}-{mark}"
    there = {one.path: one.size for one in await store.files(folder)}
    missing = [source for source in sources if there.get(source.path) != source.size]
    if missing:
        await store.put_files(missing, folder, on_bytes, replace=True)
    return [_file(folder, Copied(s.path, s.size, digests[s.path]), "model") for s in sources]


def _is_local(model: str) -> bool:
    return Path(model).is_dir()


def _sources(folder: Path, patterns: tuple[str, ...]) -> list[Source]:
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return [_source(path, path.name) for path in found]


def _source(path: Path, name: str) -> Source:
    return Source(str(path), name, path.stat().st_size)


def _file(folder: str, copied: Copied, to: str) -> dict[str, Any]:
    return {"from": f"{folder}/{copied.path}", "to": f"{to}/{copied.path}", "sha256": copied.sha256}
