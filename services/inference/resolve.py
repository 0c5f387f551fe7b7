"""From what a person types to a subject: base, a built-in, a folder, a GGUF file, a hub id, a run, a version."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from services.context import Context
from services.errors import BadInput, nearest
from services.inference.types import Subject
from services.registry.kinds import ADAPTER, HEAD, kind_of

METADATA = "metadata.json"
_WHAT = (
    "A model is base, a built-in name, a folder, a .gguf file, a Hugging Face id, run:ID, or MODEL@VERSION or "
    "MODEL@ALIAS from the registry."
)


class _Metadata(msgspec.Struct):
    """What counts here of a result's metadata.json."""

    base_model: str = ""
    model_path: str = ""
    prompt: str = ""
    format: str = "text"
    labels: tuple[str, ...] = ()


async def resolve(ctx: Context, reference: str) -> Subject:
    """The subject that ``reference`` means now; its model is ready to be loaded (fetched and converted if need be).

    Raises BadInput naming the nearest thing there is, HybridError when fetching or converting fails.
    """
    reference = reference.strip()
    if not reference:
        raise BadInput("No model is named.", hint=_WHAT)
    if reference == "base":
        return await _base(ctx, "base", ctx.workspace.settings.model.base)
    if reference.startswith("run:"):
        return await _run(ctx, reference)
    folder = await asyncio.to_thread(_result_folder, ctx.workspace.root, reference)
    if folder is not None:
        return await _result(ctx, folder.name, folder)
    if "@" in reference and not _exists(ctx.workspace.root, reference):
        return await _version(ctx, reference)
    try:
        return await _base(ctx, reference, reference)
    except BadInput as error:
        if "/" in reference or reference.startswith((".", "~")) or reference.endswith(".gguf"):
            raise
        known = await _known(ctx)
        raise BadInput(f"'{reference}' names no model{nearest(reference, known) or '.'}", hint=_WHAT) from error


async def _base(ctx: Context, label: str, model: str) -> Subject:
    from services.models.resolve import ensure_ready

    return Subject(label, (await ensure_ready(ctx, model)).path)


async def _run(ctx: Context, reference: str) -> Subject:
    from services.runs import spec

    folder = await asyncio.to_thread(spec.find_run, ctx.workspace, reference.removeprefix("run:"))
    output = folder / "output"
    if not _is_result(output):
        raise BadInput(
            f"The run {folder.name} has no finished result yet.",
            hint=f"hybrid-tui --run train.show run={folder.name} says how far it is; train.resume goes on.",
        )
    return await _result(ctx, f"run:{folder.name}", output)


async def _version(ctx: Context, reference: str) -> Subject:
    from services.registry import actions
    from services.registry.registry import split_reference

    found = await actions.resolve(ctx, *split_reference(reference))
    folder = Path(found.path)
    if _is_result(folder):
        return await _result(ctx, found.id, folder)
    files = await asyncio.to_thread(lambda: sorted(folder.glob("*.gguf")))
    if len(files) == 1:
        return await _base(ctx, found.id, str(files[0]))
    raise BadInput(
        f"{found.id} can't be talked to: {folder} holds neither an adapter, nor a model, nor one GGUF file.",
        hint="hybrid-tui --run registry.show tells what it is.",
    )


async def _result(ctx: Context, label: str, folder: Path) -> Subject:
    """What training wrote into ``folder``: a fully trained model is its own base; an adapter's is named by its
    metadata (by path if that is here, else by name)."""
    about = await asyncio.to_thread(_read_metadata, folder)
    head = await asyncio.to_thread(kind_of, folder) == "classifier"
    if not (folder / ADAPTER).is_file():
        return Subject(label, str(folder), None, about.prompt, about.labels, head)
    local = Path(about.model_path) if about.model_path else None
    if local is not None and (local / "config.json").is_file():
        model = str(local)
    elif about.base_model:
        try:
            model = (await _base(ctx, "", about.base_model)).model
        except BadInput as error:
            raise BadInput(f"The base model of {label} is not to be had: {error}", hint=error.hint) from error
    else:
        raise BadInput(
            f"{folder} doesn't say which base model it belongs to.", hint=f"Put base_model into its {METADATA}."
        )
    return Subject(label, model, str(folder), about.prompt, about.labels, head, about.format == "chat")


def _read_metadata(folder: Path) -> _Metadata:
    """metadata.json, with what PEFT's own config says of the base model where that is silent."""
    path = folder / METADATA
    try:
        about = msgspec.json.decode(path.read_bytes(), type=_Metadata)
    except FileNotFoundError:
        about = _Metadata()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is damaged: {error}.", hint="Fetch the adapter again, or repair the file.") from error
    if not about.base_model and (folder / ADAPTER).is_file():
        about.base_model = str(_json(folder / ADAPTER).get("base_model_name_or_path") or "")
    return about


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {error}.", hint="Fetch the adapter again.") from error
    return value if isinstance(value, dict) else {}


def _result_folder(root: Path, reference: str) -> Path | None:
    """The folder called ``reference``, if it tells of a task or a base; others are base models."""
    given = Path(reference).expanduser()
    found = next((p for p in (given.absolute(), root / given) if p.is_dir()), None)
    told = found is not None and any((found / name).is_file() for name in (ADAPTER, HEAD, METADATA))
    return found if found is not None and told and _is_result(found) else None


def _is_result(folder: Path) -> bool:
    return kind_of(folder) in ("adapter", "classifier", "full")


def _exists(root: Path, reference: str) -> bool:
    given = Path(reference).expanduser()
    return given.exists() or (root / given).exists()


async def _known(ctx: Context) -> list[str]:
    """References that would work, to suggest one. A registry that can't be read suggests nothing."""
    from services.errors import HybridError
    from services.models import catalog
    from services.registry.registry import open_registry
    from services.runs import spec

    known = ["base", *catalog.BUILT_IN, *(f"run:{path.name}" for path in spec.folders(ctx.workspace))]
    try:
        state, _ = await open_registry(ctx.workspace).read()
    except HybridError:
        return known
    for model in state.models:
        known += [f"{model}@{alias}" for alias in state.aliases(model)]
    return known
