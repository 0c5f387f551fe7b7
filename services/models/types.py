"""A base model as the runtime can load it."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["folder", "gguf", "hub"]
State = Literal["ready", "fetched", "not here"]


class BaseModel(msgspec.Struct, frozen=True):
    """``label`` is what the person named; ``path`` a local folder (config.json, safetensors, tokenizer), a GGUF file,
    or, for ``kind`` "hub", the Hugging Face id. ``size_bytes`` is that of the files, None when they are not here."""

    label: str
    kind: Kind
    path: str
    size_bytes: int | None = None


class ModelEntry(msgspec.Struct, frozen=True):
    """A line of the list of models. ``state``: "ready" (the runtime loads it at once), "fetched" (a GGUF file, to be
    converted once) or "not here" (``model.get`` brings it). ``base``: it is the settings' base model."""

    label: str
    state: State
    path: str
    size_bytes: int | None
    base: bool = False
    note: str = ""


class Models(msgspec.Struct, frozen=True):
    """Base models that this workspace can use without naming a path."""

    models: tuple[ModelEntry, ...]
