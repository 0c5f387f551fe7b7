"""Records of the log and how one becomes a slot's bytes.

A slot holds ``{"sha256": …, "record": …}``: the digest is over the record's bytes as they stand in the file, so damage
is found without knowing the record's kind. Each record names, in ``next``, the id of its only legal successor, and in
``prev`` the digest of the record before it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from services.errors import HybridError

FORMAT = 1


class Record(msgspec.Struct, frozen=True):
    """One immutable entry. ``seq`` counts from 0; ``at`` is Unix time (shown, never ordered by); ``uid`` is made once
    per intended change, so that a retry is recognised; ``payload`` is by ``kind`` (see below)."""

    v: int
    id: str
    next: str
    prev: str
    seq: int
    uid: str
    who: str
    at: float
    kind: str
    payload: dict[str, Any]


class Opened(msgspec.Struct, frozen=True):
    """Kind "opened": the registry's beginning; ``registry`` identifies it."""

    registry: str


class Added(msgspec.Struct, frozen=True):
    """Kind "added": a version. ``path`` is where its folder belongs in the store, ``staged`` where its verified bytes
    lay when this record was written (they are moved to ``path`` right after)."""

    model: str
    version: int
    type: str
    digest: str
    size_bytes: int
    files: int
    base_model: str
    training_date: str
    metrics: dict[str, Any]
    note: str
    path: str
    staged: str


class Moved(msgspec.Struct, frozen=True):
    """Kind "moved": an alias goes from version ``expected`` (0: it pointed nowhere) to ``version``.

    ``rollback`` true takes back the last move instead of adding one.
    """

    model: str
    alias: str
    version: int
    expected: int
    rollback: bool
    note: str


class _Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    record: msgspec.Raw


class DamagedRecord(HybridError):
    """A slot whose content is not the record that was written there."""


def encode(record: Record) -> bytes:
    """The slot's bytes for ``record``, one line."""
    raw = msgspec.json.encode(record, order="sorted")
    return msgspec.json.encode(_Slot(hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw))) + b"\n"


def digest(data: bytes) -> str:
    """The digest that a slot's bytes state; valid after ``decode``."""
    return msgspec.json.decode(data, type=_Slot).sha256


def decode(data: bytes, *, id: str) -> Record:
    """The record in a slot's bytes. Raises DamagedRecord, saying what is wrong with them."""
    try:
        slot = msgspec.json.decode(data, type=_Slot)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DamagedRecord("it is empty" if not data.strip() else "it is not a record") from None
    raw = bytes(slot.record)
    if hashlib.sha256(raw).hexdigest() != slot.sha256:
        raise DamagedRecord("its content does not match its checksum")
    try:
        record = msgspec.json.decode(raw, type=Record)
    except msgspec.DecodeError as error:
        raise DamagedRecord(f"it lacks what a record needs ({error})") from None
    if not 0 <= record.at < 1e11:
        raise DamagedRecord("its time is impossible")
    if record.id != id:
        raise DamagedRecord(f"it is the record of another slot ({record.id})")
    return record
