"""Metadata on its way into a version: as plain JSON, over a folder that is not ours to change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.errors import BadInput
from services.registry import source

_NAME = "metadata.json"


def plain(metadata: dict[str, Any]) -> bytes:
    """JSON of what a notebook holds: numbers of numpy and torch, paths and dates too. Raises BadInput for the rest."""
    try:
        text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"The metadata can't be kept as JSON: {error}.", hint="Use plain numbers, texts, lists."
        ) from None
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    for method in ("tolist", "isoformat"):  # numpy and torch; dates
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is not plain data")


def mirrored(folder: Path, into: Path, metadata: dict[str, Any]) -> Path:
    """A folder of links to the files of ``folder``, with ``metadata`` over its own metadata.json.

    Raises BadInput where ``folder`` can't become a version.
    """
    for file in source.inspect(folder).files:
        link = into / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        if file.path != _NAME:
            link.symlink_to(os.path.realpath(file.local))
    own = folder / _NAME
    before = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    (into / _NAME).write_bytes(plain({**before, **metadata}))
    return into
