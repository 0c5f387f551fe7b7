"""Adding a version: bytes copied, checksum verified, manifest written, then the record, which is the commit."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.drive.store import INCOMING, Copied
from services.errors import BadInput, HybridError
from services.registry import manifest, names
from services.registry.fold import State
from services.registry.records import Added, Record
from services.registry.registry import FOLDERS, Registry, open_registry
from services.registry.source import Candidate, inspect
from services.registry.types import Version


class AddParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes a version: a folder (``path``) or a finished run's result (``run``)."""

    model: Annotated[str, Meta(description="Name of the model, e.g. banking; made when it is new.")]
    path: Annotated[str, Meta(description="Folder with the adapter or the weights.")] = ""
    run: Annotated[str, Meta(description="Id of a run; its output folder is taken.")] = ""
    note: Annotated[str, Meta(max_length=500, description="Why this version is worth keeping.")] = ""
    base_model: Annotated[str, Meta(max_length=300, description="Base model; else metadata.json says.")] = ""
    key: Annotated[
        str, Meta(max_length=100, description="Adding again with the same key gives the same version, not a new one.")
    ] = ""


async def add(ctx: Context, params: AddParams) -> Version | Plan:
    """Add a folder or a run's result as the next version of a model.

    Raises BadInput for a bad name or folder, HybridError for a damaged registry or a full disk, StoreUnreachable.
    Interrupted at any moment before the record is written, nothing is added.
    """
    ctx.will_write("registry.add")
    name = _checked(params.model)
    registry = open_registry(ctx.workspace)
    state = await registry.writable()
    _same_letters(state, name)
    uid = f"{name}:{params.key}" if params.key else uuid.uuid4().hex
    if params.key and (standing := _by_uid(state, uid)):
        return await registry.version(state, name, standing, warnings=("This key was added before: nothing is new.",))
    folder = _folder(ctx, params)
    found = inspect(folder, base_model=params.base_model, note=params.note)
    if ctx.dry_run:
        return _plan(registry, state, name, folder, found)
    await _sweep(registry)
    await _room(registry, found)
    if ctx.workspace.store_path.is_relative_to(ctx.workspace.state):
        ctx.workspace.ensure_state()
    await registry.store.make_folders(FOLDERS)
    staged = f"{INCOMING}/{uuid.uuid4().hex}"
    release = await registry.store.claim(staged)
    try:
        return await _add(ctx, registry, params, found, staged, uid)
    finally:
        release()


async def _add(ctx: Context, registry: Registry, params: AddParams, found: Candidate, staged: str, uid: str) -> Version:
    """From the first byte to the view."""
    name = params.model
    try:
        copied = await _stage(ctx, registry, found, staged)
        listed = manifest.build(copied)
        await registry.store.write(f"{staged}/{manifest.NAME}", listed)
        record = await registry.append("added", lambda s: _draft(s, name, params, found, copied, listed, staged), uid)
    except BaseException:
        await _forget(registry, staged)
        raise
    if record.payload["staged"] != staged:  # the same key was committed by somebody else while we copied
        await registry.store.discard(staged)
    warnings = await registry.settle()
    return await registry.version(await registry.state(), name, int(record.payload["version"]), warnings=warnings)


def _checked(model: str) -> str:
    try:
        names.check_model(model)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    return model


def _same_letters(state: State, name: str) -> None:
    """Folders on many systems ignore case: two models may not differ in it alone."""
    twin = next((m for m in state.models if m != name and m.lower() == name.lower()), None)
    if twin is not None:
        raise BadInput(f"The model is called {twin!r} already, in other letters.", hint=f"Use model={twin}.")


def _folder(ctx: Context, params: AddParams) -> Path:
    if bool(params.path) == bool(params.run):
        raise BadInput("registry.add needs path=DIR or run=ID, one of them.")
    if params.path:
        return Path(params.path).expanduser().absolute()
    if "/" in params.run or params.run in ("", ".", ".."):
        raise BadInput(f"{params.run!r} is not a run's id.", hint="hybrid-tui --run train.list shows the runs.")
    run = ctx.workspace.runs / params.run
    if not run.is_dir():
        raise BadInput(f"There is no run {params.run!r}.", hint="hybrid-tui --run train.list shows the runs.")
    if not (run / "output").is_dir():
        raise BadInput(f"Run {params.run!r} has no result to add.", hint="Wait until it has succeeded, or resume it.")
    return run / "output"


async def _room(registry: Registry, found: Candidate) -> None:
    free = (await registry.store.status()).free_bytes
    if free is not None and free < found.size_bytes:
        need = formats.size(found.size_bytes)
        raise HybridError(
            f"The store has {formats.size(free)} free and the version needs {need}.", hint="Free some space first."
        )


async def _stage(ctx: Context, registry: Registry, found: Candidate, staged: str) -> tuple[Copied, ...]:
    done = 0

    def told(n: int, path: str) -> None:
        nonlocal done
        done += n
        ctx.report(Progress("copying", done, found.size_bytes, "bytes", path))

    copied = list(await registry.store.put_files(found.files, staged, told))
    for name, data in found.made.items():
        await registry.store.write(f"{staged}/{name}", data)
        if await registry.store.read(f"{staged}/{name}") != data:
            raise HybridError(f"{registry.store.local(f'{staged}/{name}')} differs after it was written.")
        copied.append(Copied(name, len(data), hashlib.sha256(data).hexdigest()))
    return tuple(copied)


def _draft(
    state: State, name: str, params: AddParams, found: Candidate, copied: tuple[Copied, ...], listed: bytes, staged: str
) -> Added:
    _same_letters(state, name)
    number = len(state.models.get(name, [])) + 1
    return Added(
        model=name,
        version=number,
        type=found.type,
        digest=manifest.digest(listed),
        size_bytes=sum(c.size for c in copied),
        files=len(copied),
        base_model=found.base_model,
        training_date=found.training_date,
        metrics=found.metrics,
        note=params.note,
        path=f"models/finetuned/{name}-v{number}",
        staged=staged,
    )


async def _sweep(registry: Registry) -> None:
    """Remove copies whose writer died before its record; what a record names stays, whoever wrote it.

    The log is read after the writers are known to be dead: then no record of theirs can follow.
    """
    dead = {f"{INCOMING}/{name}" for name in await registry.store.abandoned(INCOMING)}
    if dead:
        state = await registry.writable()
        for staged in dead - {j.record.payload.get("staged") for j in state.judged}:
            await registry.store.discard(staged)


async def _forget(registry: Registry, staged: str) -> None:
    """Remove the copy of a failed addition, unless its record got through after all."""
    try:
        state = await registry.state()
        if not any(j.record.payload.get("staged") == staged for j in state.judged):
            await registry.store.discard(staged)
    except HybridError:  # the store is gone or full: the bytes stay and store.status counts them
        return


def _by_uid(state: State, uid: str) -> int:
    record: Record | None = next((j.record for j in state.judged if j.record.uid == uid and not j.why), None)
    return int(record.payload["version"]) if record is not None and record.kind == "added" else 0


def _plan(registry: Registry, state: State, name: str, folder: Path, found: Candidate) -> Plan:
    number = len(state.models.get(name, [])) + 1
    target = f"models/finetuned/{name}-v{number}"
    return Plan(
        action="registry.add",
        summary=f"{folder} becomes {name}@{number} ({found.type}, {formats.size(found.size_bytes)}).",
        steps=(
            f"copy {len(found.files)} files to {registry.store.local(target)} and compare each by sha256",
            *(f"write {made}, which the folder lacks" for made in found.made),
            "write manifest.json, then the record",
            f"latest moves to {number}",
        ),
        written_bytes=found.size_bytes,
    )
