"""The local folder that becomes a version: its files, and what they say about the model."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from services.drive.store import Source
from services.errors import BadInput
from services.registry import manifest
from services.registry.kinds import kind_of

_MOST_METRICS = 100


class Candidate(msgspec.Struct, frozen=True):
    """A folder that can be added. ``made`` are small files that the version gets because the folder lacks them."""

    files: tuple[Source, ...]
    type: str
    base_model: str
    training_date: str
    metrics: dict[str, Any]
    made: dict[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Bytes to copy."""
        return sum(f.size for f in self.files)


def inspect(folder: Path, *, base_model: str = "", note: str = "") -> Candidate:
    """List ``folder`` and read its metadata.json and benchmark.json.

    Links to files are followed (a Hugging Face snapshot is made of them); its own top-level manifest.json is left out,
    since every version gets a fresh one. Raises BadInput for a missing or empty folder, a link to a folder, a file
    that is neither file nor folder, and for damaged JSON.
    """
    if not folder.exists():
        raise BadInput(f"There is no folder {folder}.", hint="Give path=DIR with an adapter or weights, or run=ID.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder.", hint="Give the folder that holds the model's files.")
    files = _walk(folder)
    if not files:
        raise BadInput(f"The folder {folder} is empty.", hint="Give the folder that holds the model's files.")
    names = {f.path for f in files}
    metadata, benchmark, adapter = (
        _json(folder / n) for n in ("metadata.json", "benchmark.json", "adapter_config.json")
    )
    base = base_model or _text(metadata.get("base_model")) or _text(adapter.get("base_model_name_or_path"))
    metrics = {**_scalars(benchmark.get("metrics")), **_scalars(metadata.get("metrics"))}
    if not metrics:  # a benchmark.json of plain figures, with nothing more telling beside it
        metrics = {k: v for k, v in _scalars(benchmark).items() if not isinstance(v, str)}
    date = _text(metadata.get("training_date"))
    kind = kind_of(folder, names)
    made = {}
    if "metadata.json" not in names:
        about = {"type": kind, "base_model": base, "training_date": date, "metrics": metrics}
        made["metadata.json"] = json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n"
    if "README.md" not in names:
        made["README.md"] = _card(kind, base, date, metrics, note).encode()
    return Candidate(files, kind, base, date, metrics, made)


def _walk(folder: Path) -> tuple[Source, ...]:
    found: list[Source] = []

    def unreadable(error: OSError) -> None:
        raise BadInput(f"{error.filename} can't be read: {(error.strerror or str(error)).lower()}.") from error

    for here, folders, names in os.walk(folder, onerror=unreadable):
        for name in folders:
            if Path(here, name).is_symlink():
                raise BadInput(f"{Path(here, name)} is a link to a folder.", hint="Add a folder without such links.")
        for name in names:
            path = Path(here, name)
            relative = path.relative_to(folder).as_posix()
            if relative == manifest.NAME:
                continue
            if not relative.isprintable():
                raise BadInput(f"The file name {relative!r} in {folder} has characters that can't be kept safely.")
            try:
                info = path.stat()
            except OSError as error:
                raise BadInput(f"{path} can't be read: {(error.strerror or str(error)).lower()}.") from error
            if not stat.S_ISREG(info.st_mode):
                raise BadInput(f"{path} is not a regular file.", hint="A version holds plain files only.")
            found.append(Source(str(path), relative, info.st_size))
    return tuple(sorted(found, key=lambda f: f.path))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is not valid JSON ({error}).", hint="Mend or remove that file, then add again."
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} must hold a JSON object.", hint="Mend or remove that file, then add again.")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _scalars(value: Any) -> dict[str, Any]:
    """The plain figures of a JSON object; nested ones stay in the version's own files."""
    if not isinstance(value, dict):
        return {}
    plain = {
        str(k): (None if isinstance(v, float) and not math.isfinite(v) else v)
        for k, v in value.items()
        if isinstance(v, bool | int | float) or v is None or (isinstance(v, str) and len(v) <= 200)
    }
    return dict(sorted(plain.items())[:_MOST_METRICS])


def _card(kind: str, base: str, date: str, metrics: dict[str, Any], note: str) -> str:
    lines = ["# Model card", "", f"- Type: {kind}"]
    lines += [f"- Base model: {base or 'not stated'}", f"- Trained: {date or 'not stated'}"]
    lines += [f"- {name}: {value}" for name, value in metrics.items()]
    return "\n".join([*lines, *(["", note] if note else []), ""])
