"""What the registry's actions return."""

from __future__ import annotations

from typing import Any

import msgspec


class Version(msgspec.Struct, frozen=True):
    """One immutable member of a model. ``digest`` is the sha256 of its canonical manifest, hence its identity.

    ``id`` is "banking@2"; ``type`` "adapter", "classifier", "full", "gguf" or "files"; ``status`` "registered",
    "candidate", "deployed" or "retired" (was deployed, is no more); ``path`` is absolute; ``record`` is the log's
    record that made it and ``by`` who wrote it. ``warnings`` are sentences about this call (a hand-edited view set
    aside, …).
    """

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
    record: str = ""
    by: str = ""
    warnings: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True):
    """A named series: how many versions it has, its aliases (with ``latest``) and where they point."""

    model: str
    versions: int
    aliases: dict[str, int]
    size_bytes: int


class Listing(msgspec.Struct, frozen=True):
    """The registry at a glance. ``versions`` by model, then newest first; ``records`` counts the log's records;
    ``problems`` are sentences about damage and hand edits; ``store`` says where all this lies."""

    models: tuple[Model, ...]
    versions: tuple[Version, ...]
    records: int
    store: str
    problems: tuple[str, ...] = ()


class Promotion(msgspec.Struct, frozen=True):
    """An alias and where it points now. ``previous`` is where it pointed before (0: nowhere); ``changed`` is false when
    it pointed to ``version`` already and nothing was written."""

    model: str
    alias: str
    version: int
    previous: int
    changed: bool
    by: str
    at: float
    record: str
    note: str = ""
    warnings: tuple[str, ...] = ()


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


class History(msgspec.Struct, frozen=True):
    """Records in words, newest first; ``total`` counts those that match, shown or not."""

    entries: tuple[HistoryEntry, ...]
    total: int
    problems: tuple[str, ...] = ()
