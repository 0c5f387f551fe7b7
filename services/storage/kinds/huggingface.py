"""Hugging Face's caches.

Sources: huggingface_hub's "Environment variables" and "Understand caching" pages.
"""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.hub_items import list_hub
from services.storage.kinds.rule import Box, Kind, each_entry


def hub_place(box: Box) -> list[Path]:
    """The hub's cache; the second variable is the old name, still read."""
    return [places.variable(box, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or home(box) / "hub"]


def home(box: Box) -> Path:
    """``HF_HOME``."""
    return places.variable(box, "HF_HOME") or places.caches(box) / "huggingface"


def _xet(box: Box) -> list[Path]:
    return [places.variable(box, "HF_XET_CACHE") or home(box) / "xet"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "huggingface", "Hugging Face hub: models and datasets", hub_place, list_hub,
        "from_pretrained or `hf download` fetches them again; private ones need a sign-in.", usual=True,
    ),
    Kind(
        "huggingface-xet", "Hugging Face hub: chunks of transfers", _xet, each_entry,
        "It only speeds up downloads; the hub fills it again.", usual=True,
    ),
)  # fmt: skip
