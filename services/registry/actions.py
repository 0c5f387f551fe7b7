"""Actions on the registry. Writing ones live in ``adding`` and ``aliases``; reading ones here."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context
from services.errors import BadInput
from services.registry import view
from services.registry.adding import AddParams, add
from services.registry.aliases import PromoteParams, RollbackParams, promote, rollback
from services.registry.fold import Judged, fold, parse
from services.registry.records import Added, Moved
from services.registry.registry import find_model, find_version, open_registry, split_reference
from services.registry.types import History, HistoryEntry, Listing, Model, Version

__all__ = [
    "AddParams",
    "HistoryParams",
    "ListParams",
    "PromoteParams",
    "RollbackParams",
    "ShowParams",
    "add",
    "history",
    "list_versions",
    "promote",
    "resolve",
    "rollback",
    "show",
]


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models to list."""

    model: Annotated[str, Meta(description="Only this model.")] = ""


class ShowParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version: ``model`` and ``version``, or ``ref``."""

    model: Annotated[str, Meta(description="Name of the model.")] = ""
    version: Annotated[str, Meta(description="Number or alias; the latest when left out.")] = ""
    ref: Annotated[str, Meta(description="Both in one word: banking@2 or banking@deployed.")] = ""


class HistoryParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which records to tell."""

    model: Annotated[str, Meta(description="Only records about this model.")] = ""
    limit: Annotated[int, Meta(ge=0, description="At most so many, newest first; 0 for all.")] = 50


async def list_versions(ctx: Context, params: ListParams) -> Listing:
    """Models, versions, aliases and metrics. An empty registry is an empty listing; damage is in ``problems``."""
    registry = open_registry(ctx.workspace)
    state, chain = await registry.read()
    wanted = [find_model(state, params.model)] if params.model else sorted(state.models)
    models = tuple(
        Model(m, len(state.models[m]), state.aliases(m), sum(v.added.size_bytes for v in state.models[m]))
        for m in wanted
    )
    versions = await registry.versions(state, [(m.model, n) for m in models for n in range(m.versions, 0, -1)])
    problems = (*((chain.damage,) if chain.damage else ()), *await view.edited(registry.store))
    where = f"{registry.store.label}: {registry.store.local('docs').removesuffix('/docs')}"
    return Listing(models, tuple(versions), len(chain.records), where, problems)


async def show(ctx: Context, params: ShowParams) -> Version:
    """One version, whole. Raises BadInput when there is no such model, version or alias."""
    if bool(params.ref) == bool(params.model):
        raise BadInput("registry.show needs model=NAME or ref=NAME@VERSION.")
    model, version = split_reference(params.ref or params.model, params.version)
    return await resolve(ctx, model, version)


async def resolve(ctx: Context, model: str, version_or_alias: str | int = "") -> Version:
    """The version that a reference means now, with the absolute local ``path`` of its folder (fetched if remote).

    ``version_or_alias`` is a number, "v2", an alias, or "" for the latest. Raises BadInput when there is none.
    """
    registry = open_registry(ctx.workspace)
    state, chain = await registry.read()
    number = find_version(state, model, str(version_or_alias) or "latest")
    [place] = await registry.places([state.models[model][number - 1].added])
    found = await registry.version(state, model, number, warnings=(chain.damage,) if chain.damage else ())
    return msgspec.structs.replace(found, path=str(await registry.store.fetch(place)))


async def history(ctx: Context, params: HistoryParams) -> History:
    """Every record of the log in words, newest first, rejected ones included."""
    registry = open_registry(ctx.workspace)
    chain = await registry.log.read()
    state = fold(chain.records)
    if params.model:
        find_model(state, params.model)
    entries = [_entry(j) for j in reversed(state.judged)]
    entries = [e for e in entries if not params.model or e.model == params.model]
    shown = entries[: params.limit] if params.limit else entries
    return History(tuple(shown), len(entries), (chain.damage,) if chain.damage else ())


def _entry(judged: Judged) -> HistoryEntry:
    record = judged.record
    payload = parse(record.kind, record.payload)
    model, version, alias, note = "", None, "", ""
    if isinstance(payload, Added):
        model, version, note = payload.model, payload.version, payload.note
        what = f"added {model}@{version}"
    elif isinstance(payload, Moved):
        model, version, alias, note = payload.model, payload.version, payload.alias, payload.note
        origin = f"from {payload.expected} " if payload.expected else ""
        what = f"{'rolled back' if payload.rollback else 'moved'} {model}@{alias} {origin}to {version}"
    else:
        what = "opened the registry" if record.kind == "opened" else f"wrote a record of the kind {record.kind!r}"
        model = str(record.payload.get("model", ""))
    return HistoryEntry(
        seq=record.seq,
        record=record.id,
        at=record.at,
        who=record.who,
        what=what,
        model=model,
        version=version,
        alias=alias,
        note=note,
        accepted=not judged.why,
        why=judged.why,
    )
