"""A base model as the runtime can load it."""

from __future__ import annotations

from typing import Literal

import msgspec


class BaseModel(msgspec.Struct, frozen=True):
    """``label`` is what the person named; ``path`` a local folder (config.json, safetensors, tokenizer), a GGUF file,
    or, for ``kind`` "hub", the Hugging Face id."""

    label: str
    kind: Literal["folder", "gguf", "hub"]
    path: str
    size_bytes: int | None = None
