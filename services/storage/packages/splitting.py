"""The actions on requirements files: env.split and env.check."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import atomic
from services.context import Context, Plan
from services.errors import BadInput, CheckFailed
from services.storage.packages import check, places, records, requirements, split
from services.storage.packages.graph import Graph
from services.storage.packages.places import Place
from services.storage.packages.split import Split
from services.storage.packages.types import EnvCheck, SplitFile, SplitResult


class SplitParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``env.split``."""

    source: Annotated[
        str,
        Meta(description="A requirements file, or 'environment'; requirements.txt when left out and it is there."),
    ] = ""
    out: Annotated[str, Meta(min_length=1, description="The folder of base.txt and gpu.txt.")] = "requirements"
    env: Annotated[str, Meta(description="The environment to read; this program's own when left out.")] = ""


class CheckParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``env.check``."""

    folder: Annotated[str, Meta(min_length=1, description="The folder of base.txt and gpu.txt.")] = "requirements"
    env: Annotated[
        str, Meta(description="The environment that tells what packages need; this program's own when left out.")
    ] = ""


async def split_requirements(ctx: Context, params: SplitParams) -> SplitResult:
    """Make base.txt (CPU) and gpu.txt (Colab) of a requirements file or an environment; the same again changes nothing.

    Raises BadInput for a source that can't be read (with the line), NeedsYes before a file is changed.
    """
    return await asyncio.to_thread(_split, ctx, params)


async def check_requirements(ctx: Context, params: CheckParams) -> EnvCheck:
    """Check that base.txt holds nothing for GPUs and agrees with gpu.txt. Raises CheckFailed with the whole result."""

    def work() -> EnvCheck:
        place = places.chosen(params.env, ctx.workspace.root, os.environ)
        return check.check(_path(ctx, params.folder), Graph(_records(place), place.python))

    result = await asyncio.to_thread(work)
    if not result.ok:
        count = len(result.problems)
        raise CheckFailed(
            f"{params.folder}: {count} problem{'s' * (count != 1)}.", result, hint="env.split makes both files anew."
        )
    return result


def _split(ctx: Context, params: SplitParams) -> SplitResult:
    out = _path(ctx, params.out)
    title, made = _made(ctx, params, out)
    texts = {out / "base.txt": made.base, out / "gpu.txt": made.gpu}
    changes = [change for path, text in texts.items() if (change := split.diff(path, text))]
    result = SplitResult(
        title, tuple(_row(path, text) for path, text in texts.items()), made.moved, tuple(changes), made.sentences
    )
    if ctx.dry_run or all(row.state == "unchanged" for row in result.files):
        return result
    ctx.will_write("env.split")
    if changes:
        changed = " and ".join(row.path for row in result.files if row.state == "changed")
        ctx.approve(Plan("env.split", f"{changed} would be overwritten.", tuple(changes)))
    for row, (path, text) in zip(result.files, texts.items(), strict=True):
        if row.state != "unchanged":
            try:
                atomic.write_text(path, text)
            except OSError as error:
                raise BadInput(f"{path} can't be written: {error.strerror}.") from error
    return result


def _made(ctx: Context, params: SplitParams, out: Path) -> tuple[str, Split]:
    """The source's name and its two halves."""
    root = ctx.workspace.root
    default = root / "requirements.txt"
    if params.source == "environment" or (not params.source and not default.exists()):
        place = places.chosen(params.env, root, os.environ)
        title = "the installed packages"
        return title, split.make(split.from_records(_records(place), root), title, default, out)
    source = _path(ctx, params.source) if params.source else default
    if source.parent == out and source.name in ("base.txt", "gpu.txt"):
        raise BadInput(f"{source} is what env.split writes.", hint="Name the file it was made from: source=PATH")
    lines = requirements.read(source)
    if bad := next((line for line in lines if line.kind == "bad"), None):
        raise BadInput(f"{source} line {bad.number} can't be read: {bad.text.strip()[:80]!r}. {bad.problem}")
    title = os.path.relpath(source, out)
    return str(source), split.make(lines, title, source, out)


def _records(place: Place) -> list[records.Record]:
    return [record for folder in place.folders for record in records.read_all(folder)]


def _row(path: Path, text: str) -> SplitFile:
    lines = sum(line.kind == "requirement" for line in requirements.parse(text))
    if not path.exists():
        return SplitFile(str(path), lines, "new")
    return SplitFile(str(path), lines, "unchanged" if path.read_bytes() == text.encode() else "changed")


def _path(ctx: Context, words: str) -> Path:
    return (ctx.workspace.root / Path(words).expanduser()).resolve()
