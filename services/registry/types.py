"""What the registry's actions return."""

from __future__ import annotations

from typing import Any

import msgspec


class Version(msgspec.Struct, frozen=True):
    """One immutable member of a model. ``digest`` is the sha256 of its canonical manifest, hence its identity."""

    model: str
    version: int
    id: str
    type: str
    digest: str
    size_bytes: int
    base_model: str
    training_date: str
    metrics: dict[str, Any]
    status: str
    aliases: tuple[str, ...]
    path: str
    added_at: float
    deployed_at: float | None = None
    note: str = ""
    files: int = 0


class HistoryEntry(msgspec.Struct, frozen=True):
    """One record in words: who did what, when; ``accepted`` false for a record that the fold rejected, with why."""

    seq: int
    record: str
    at: float
    who: str
    what: str
    model: str
    version: int | None = None
    alias: str = ""
    note: str = ""
    accepted: bool = True
    why: str = ""
