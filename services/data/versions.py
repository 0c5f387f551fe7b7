"""Datasets to and from the store: every content once, under its own hash, and never changed. See ``shelf``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.data import shelf, store
from services.data.shelf import LATEST, LETTERS, MANIFEST, PLACE, Manifest, StoredFile
from services.data.types import DatasetInfo
from services.drive.open import open_store
from services.drive.store import Source, Store, Wanted
from services.errors import BadInput, HybridError

_FILES = (*(f"{split}.jsonl" for split in store.SPLITS), store.INFO)


class PushParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dataset to put into the store."""

    name: Annotated[str, Meta(description="Name of a dataset, or its folder.")]


class PullParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dataset to fetch from the store."""

    name: Annotated[str, Meta(description="NAME, the one pushed last, or NAME@HASH (its first letters will do).")]


class VersionsParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose versions to list."""

    name: Annotated[str, Meta(description="Name of a dataset; empty: all in the store.")] = ""


class Pushed(msgspec.Struct, frozen=True):
    """``sent_bytes`` is 0 when the store had this content already."""

    name: str
    version: str
    sha256: str
    sent_bytes: int
    size_bytes: int
    where: str


class Pulled(msgspec.Struct, frozen=True):
    """``fetched_bytes`` is 0 when this content was here already."""

    name: str
    version: str
    sha256: str
    fetched_bytes: int
    path: str


class DatasetVersion(msgspec.Struct, frozen=True):
    """A line of the list. ``latest``: pushed last; ``here``: the workspace's dataset of this name has this content."""

    name: str
    version: str
    rows: int
    size_bytes: int
    pushed_at: float
    latest: bool
    here: bool


class DatasetVersions(msgspec.Struct, frozen=True):
    """Newest first by name. ``problems`` names what lies in the store's place for datasets and is no version."""

    versions: tuple[DatasetVersion, ...]
    where: str
    problems: tuple[str, ...] = ()


async def push(ctx: Context, params: PushParams) -> Pushed | Plan:
    """Put a dataset into the store under its content's hash; content that is there already is not sent again.

    Raises BadInput when the files are not those that ``dataset.json`` describes, StoreUnreachable or HybridError as the
    store does. Cancelled, it goes on from there the next time.
    """
    ctx.will_write("data.push")
    folder = store.resolve(ctx.workspace, params.name)
    info = await asyncio.to_thread(_checked, folder)
    place = f"{PLACE}/{store.check_name(info.name)}/{info.sha256[:LETTERS]}"
    target = open_store(ctx.workspace)
    about = _portable(info)
    files = await asyncio.to_thread(_describe, folder, about)
    there = await shelf.read_manifest(target, place)
    if there is not None and (there.task, there.prompt, there.sha256) != (info.task, info.prompt, info.sha256):
        raise BadInput(
            f"{target.local(place)} holds these rows with another task or prompt.", hint="Push it under another name."
        )
    size = sum(file.size for file in files)
    missing = await _missing(target, place, there.files if there else files)
    if there is not None and missing:  # somebody took files away by hand: ours come with our own description
        there, missing = None, files
    if ctx.dry_run:
        return _push_plan(target, place, missing)
    if there is None:
        ctx.workspace.ensure_state()
        await _send(ctx, target, place, folder, about, missing)
        record = Manifest(info.name, info.sha256, info.task, info.prompt, info.counts, files, time.time())
        await target.write(f"{place}/{MANIFEST}", _json(record))
    if await shelf.latest(target, info.name) != info.sha256[:LETTERS]:
        await target.write(f"{PLACE}/{info.name}/{LATEST}", _json({"version": info.sha256[:LETTERS]}))
    sent = sum(file.size for file in missing)
    return Pushed(info.name, info.sha256[:LETTERS], info.sha256, sent, size, target.local(place))


async def pull(ctx: Context, params: PullParams) -> Pulled | Plan:
    """Fetch a dataset into the workspace, verified. Other content under its name there needs a yes.

    Raises BadInput when the store has no such dataset or version, Corrupted when bytes are not what was pushed.
    """
    ctx.will_write("data.pull")
    name, _, version = params.name.partition("@")
    source = open_store(ctx.workspace)
    found = await shelf.find(source, store.check_name(name), version)
    folder = ctx.workspace.datasets / found.name
    here = await asyncio.to_thread(_content, folder)
    result = Pulled(found.name, found.version, found.sha256, 0, str(folder))
    size = sum(file.size for file in found.files)
    if here == found.sha256:
        return Plan("data.pull", f"nothing: {folder} holds {found.version} already") if ctx.dry_run else result
    plan = Plan(
        "data.pull",
        f"fetch {found.name}@{found.version}" + (f" and replace other content in {folder}" if folder.exists() else ""),
        (*((f"delete {folder}",) if folder.exists() else ()), f"write {folder}"),
        written_bytes=size,
    )
    if ctx.dry_run:
        return plan
    if folder.exists():
        ctx.approve(plan)
    await _fetch(ctx, source, found, folder)
    return msgspec.structs.replace(result, fetched_bytes=size)


async def versions(ctx: Context, params: VersionsParams) -> DatasetVersions:
    """The versions in the store. An empty store is an empty list. Raises StoreUnreachable."""
    source = open_store(ctx.workspace)
    names = [params.name] if params.name else [e.name for e in await source.list(PLACE) if e.folder]
    listed: list[DatasetVersion] = []
    problems: list[str] = []
    for name in names:
        latest = await shelf.latest(source, name)
        here = await asyncio.to_thread(_content, ctx.workspace.datasets / name)
        found = []
        for manifest, problem in await shelf.manifests(source, name):
            if manifest is None:
                problems.append(problem)
                continue
            found.append(
                DatasetVersion(
                    name=name,
                    version=manifest.version,
                    rows=sum(manifest.counts.values()),
                    size_bytes=sum(file.size for file in manifest.files),
                    pushed_at=manifest.pushed_at,
                    latest=manifest.version == latest,
                    here=manifest.sha256 == here,
                )
            )
        listed += sorted(found, key=lambda v: (not v.latest, -v.pushed_at))
    return DatasetVersions(tuple(listed), f"{source.label}: {source.local(PLACE)}", tuple(problems))


def _checked(folder: Path) -> DatasetInfo:
    """The description of a dataset whose files are those it describes."""
    info = store.load_info(folder)
    try:
        same = store.file_digest(folder) == info.sha256
    except OSError as error:
        raise BadInput(f"{error.filename} can't be read ({error.strerror}).") from None
    if not same:
        raise BadInput(
            f"The files in {folder} are not those that were stored: their SHA-256 differs.",
            hint="Prepare the dataset again, then push it.",
        )
    return info


def _content(folder: Path) -> str:
    """The hash of what lies in ``folder``, "" when that is no whole dataset."""
    with contextlib.suppress(HybridError):
        return _checked(folder).sha256
    return ""


def _portable(info: DatasetInfo) -> bytes:
    """``dataset.json`` for others: without this machine's paths."""
    source = Path(info.source).name if info.source.startswith("/") else info.source
    return _json(msgspec.structs.replace(info, path="", source=source))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def _describe(folder: Path, about: bytes) -> tuple[StoredFile, ...]:
    files = []
    for name in _FILES[:-1]:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(StoredFile(name, (folder / name).stat().st_size, digest))
    return (*files, StoredFile(store.INFO, len(about), hashlib.sha256(about).hexdigest()))


async def _missing(target: Store, place: str, files: tuple[StoredFile, ...]) -> tuple[StoredFile, ...]:
    """Those of ``files`` that are not whole in the store, as far as it knows without reading them.

    A file whose checksum the store doesn't know counts as whole only beside a manifest, which is written last.
    """
    stored = {file.path: file for file in await target.files(place)}
    settled = MANIFEST in stored

    def whole(file: StoredFile) -> bool:
        found = stored.get(file.path)
        if found is None or found.size != file.size:
            return False
        return found.sha256 == file.sha256 if found.sha256 else settled

    return tuple(file for file in files if not whole(file))


def _push_plan(target: Store, place: str, missing: tuple[StoredFile, ...]) -> Plan:
    if not missing:
        return Plan("data.push", f"nothing: {target.local(place)} holds this content already")
    steps = tuple(f"write {target.local(f'{place}/{file.path}')}" for file in missing)
    size = sum(file.size for file in missing)
    return Plan("data.push", f"send {len(missing)} files to {target.label}", steps, written_bytes=size)


async def _send(
    ctx: Context, target: Store, place: str, folder: Path, about: bytes, missing: tuple[StoredFile, ...]
) -> None:
    with store.temporary(ctx.workspace.state, "push") as beside:
        (beside / store.INFO).write_bytes(about)
        sources = [
            Source(str((beside if file.path == store.INFO else folder) / file.path), file.path, file.size)
            for file in missing
        ]
        copied = await target.put_files(
            sources, place, _counter(ctx, "push", sum(f.size for f in missing)), replace=True
        )
    wanted = {file.path: file.sha256 for file in missing}
    if changed := [file.path for file in copied if file.sha256 != wanted[file.path]]:
        raise HybridError(
            f"{changed[0]} changed while it was being sent.", hint="Push again when nothing writes to it."
        )


async def _fetch(ctx: Context, source: Store, found: Manifest, folder: Path) -> None:
    ctx.workspace.ensure_state()
    ctx.workspace.datasets.mkdir(parents=True, exist_ok=True)
    place = f"{PLACE}/{found.name}/{found.version}"
    with store.temporary(ctx.workspace.datasets, found.name) as beside:
        wanted = [Wanted(f.path, str(beside / f.path), f.size, f.sha256) for f in found.files if f.path in _FILES]
        await source.get_files(wanted, place, _counter(ctx, "pull", sum(f.size for f in wanted)))
        info = await asyncio.to_thread(_checked, beside)
        if info.sha256 != found.sha256:
            raise HybridError(
                f"{source.local(place)} holds other rows than its name says.", hint="Push the dataset again."
            )
        await asyncio.to_thread(store.put, beside, folder)


def _counter(ctx: Context, stage: str, total: int) -> Callable[[int, str], None]:
    done = 0

    def count(number: int, path: str) -> None:
        nonlocal done
        done += number
        ctx.report(Progress(stage, done, total, "bytes", path))

    return count
