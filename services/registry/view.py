"""Files for people, rebuilt from the state at will: ``docs/model_registry.json`` and ``models/deployed/current``.

Each carries a checksum of itself, so an edit by hand is noticed without asking anything else. An edited file is moved
aside before a fresh one is written, and said; it never decides anything.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec

from services.drive.store import Store
from services.registry.fold import DEPLOYED, Member, State
from services.registry.log import Log

REGISTRY = "docs/model_registry.json"
CURRENT = "models/deployed/current"
_ABOUT = (
    "Made by hybrid-tui from docs/registry/log. Edits are set aside, not obeyed: use hybrid-tui --run registry.promote."
)


def registry_view(state: State) -> bytes:
    """The bytes of ``docs/model_registry.json``: every version of every model, by name and number."""
    models = [_entry(state, m) for _, members in sorted(state.models.items()) for m in members]
    return _render(state, {"models": models})


def deployed_pointer(state: State) -> bytes:
    """The bytes of ``models/deployed/current``: for each deployed model its version, folder and digest."""
    current = {}
    for model in sorted(state.models):
        member = state.member(model, state.target(model, DEPLOYED))
        if member is not None:
            current[model] = {
                "version": member.added.version,
                "path": member.added.path,
                "digest": member.added.digest,
            }
    return _render(state, {"deployed": current})


VIEWS: dict[str, Callable[[State], bytes]] = {REGISTRY: registry_view, CURRENT: deployed_pointer}


def is_ours(data: bytes) -> bool:
    """Whether a view's bytes are as they were written here."""
    checksum = _header(data).checksum
    return len(checksum) == 64 and hashlib.sha256(data.replace(checksum.encode(), b"", 1)).hexdigest() == checksum


async def edited(store: Store) -> tuple[str, ...]:
    """One sentence for each view that was edited by hand since it was written."""
    found = []
    for path in VIEWS:
        data = await store.read(path)
        if data is not None and not is_ours(data):
            found.append(
                f"{store.local(path)} was edited by hand; the registry does not follow it. "
                "The next write sets the edited file aside."
            )
    return tuple(found)


async def refresh(log: Log, state: State, fold: Callable[[], Any]) -> tuple[str, ...]:
    """Bring the views up to ``state`` and, when others wrote meanwhile, to what the log holds then.

    ``fold`` is an async function that reads the state again. Returns a sentence for each edited file set aside.
    """
    said: list[str] = []
    while True:
        for path, render in VIEWS.items():
            said += await _refresh_one(log, path, render(state), len(state.judged))
        now: State = await fold()
        if len(now.judged) <= len(state.judged):
            return tuple(said)
        state = now


async def _refresh_one(log: Log, path: str, fresh: bytes, records: int) -> list[str]:
    store = log.store
    standing = await store.read(path)
    if standing == fresh:
        return []
    said = []
    if standing is not None:
        if not is_ours(standing):
            said.append(await _set_aside(log, path))
        elif _header(standing).records > records and _header(standing).registry == _header(fresh).registry:
            return []  # another writer is ahead of us
    await store.write(path, fresh)
    return said


async def _set_aside(log: Log, path: str) -> str:
    stem, dot, suffix = path.rpartition("/")[2].partition(".")
    stamp = datetime.datetime.fromtimestamp(log.clock(), datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = path.rpartition("/")[0]
    for n in range(1, 1000):
        aside = f"{folder}/{stem}.edited-{stamp}{'' if n == 1 else f'-{n}'}{dot}{suffix}"
        if await log.store.rename(path, aside):
            return f"{log.store.local(path)} had been edited by hand: the edited file is now {log.store.local(aside)}."
        if await log.store.stat(path) is None:  # somebody else set it aside first
            break
    return f"{log.store.local(path)} had been edited by hand and was set aside."


class _Header(msgspec.Struct, frozen=True):
    checksum: str = ""
    records: int = 0
    registry: str = ""


def _header(data: bytes) -> _Header:
    try:
        return msgspec.json.decode(data, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Header()


def _render(state: State, content: dict[str, Any]) -> bytes:
    document = {
        "about": _ABOUT,
        "checksum": "",
        "records": len(state.judged),
        "registry": state.registry,
        **content,
    }
    blank = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    checksum = hashlib.sha256(blank).hexdigest()
    return blank.replace(b'"checksum": ""', b'"checksum": "' + checksum.encode() + b'"', 1)


def _entry(state: State, member: Member) -> dict[str, Any]:
    added = member.added
    return {
        "id": f"{added.model}@{added.version}",
        "type": added.type,
        "size_mb": round(added.size_bytes / 1e6, 3),
        "base_model": added.base_model,
        "training_date": added.training_date,
        "metrics": dict(sorted(added.metrics.items())),
        "status": state.status(added.model, added.version),
        "deployed_at": None if member.deployed_at is None else _utc(member.deployed_at),
        "version": added.version,
        "digest": added.digest,
        "aliases": list(state.aliases_of(added.model, added.version)),
        "model": added.model,
        "path": added.path,
        "note": added.note,
    }


def _utc(timestamp: float) -> str:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
