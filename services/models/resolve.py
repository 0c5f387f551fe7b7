"""From what a person types to a model the runtime can load: built-in name, folder, GGUF file or Hugging Face id."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from services.context import Context, Progress
from services.errors import BadInput, HybridError, nearest
from services.models import catalog, hub
from services.models.fetch import fetch
from services.models.types import BaseModel
from services.workspace import Workspace

_PACKAGES = Path(__file__).resolve().parents[2]  # from here "services" is ours, whatever lies in the user's folder
MODEL_STACK_HINT = "Install it with pip install 'hybrid-tui[models]' (CPU build of torch first), or run make run."


def resolve_base(workspace: Workspace, label: str) -> BaseModel:
    """The base model called ``label``, without fetching or converting anything. May ask the hub for some seconds.

    A GGUF file that was converted for this workspace already comes back as that folder. A built-in model that was
    not fetched yet comes back as kind "gguf" with ``size_bytes`` None. Raises BadInput with what was tried.
    """
    label = label.strip()
    built_in = catalog.BUILT_IN.get(label.lower())
    if built_in is not None:
        size = built_in.size_bytes if catalog.is_fetched(built_in) else None
        return _converted(workspace, BaseModel(built_in.name, "gguf", str(catalog.cached_file(built_in)), size))
    own = workspace.models / label
    if re.fullmatch(r"[\w.-]+", label) and hub.holds_model(own):
        return BaseModel(label, "folder", str(own), _folder_bytes(own))
    local = _local(workspace, label)
    if local is not None:
        return _converted(workspace, local)
    return _from_hub(label)


def _local(workspace: Workspace, label: str) -> BaseModel | None:
    """``label`` as a path from here or from the workspace. Raises BadInput when it is one that can't be used."""
    given = Path(label).expanduser()
    path = next((p for p in (given.absolute(), workspace.root / given) if label and p.exists()), None)
    if path is None:
        if label.startswith(("/", ".", "~")) or label.lower().endswith(".gguf"):
            near = [p.name for p in given.absolute().parent.glob("*")] if given.absolute().parent.is_dir() else []
            raise BadInput(f"There is no model at {label}{nearest(given.name, near) or '.'}", hint=_WHAT)
        return None
    if path.is_file():
        return BaseModel(label, "gguf", str(_gguf(path)), path.stat().st_size)
    if (path / "adapter_config.json").is_file() and not hub.holds_model(path):
        raise BadInput(f"{path} holds an adapter, not a base model.", hint="Use it with registry.add or as run:<id>.")
    if not hub.holds_model(path):
        if hub.is_id(label) and "/" in label and not label.startswith("."):
            return None  # a folder that merely happens to be called like a hub id
        raise BadInput(f"The folder {path} is no model: it needs config.json and *.safetensors.", hint=_WHAT)
    return BaseModel(label, "folder", str(path), _folder_bytes(path))


_WHAT = "A model is a built-in name, a folder with config.json and *.safetensors, a .gguf file or a Hugging Face id."


def _gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from None
    if magic != b"GGUF":
        raise BadInput(f"{path} is not a GGUF file.", hint=_WHAT)
    return path


def _from_hub(label: str) -> BaseModel:
    if not hub.is_id(label):
        raise BadInput(f"'{label}' names no model{nearest(label, list(catalog.BUILT_IN)) or '.'}", hint=_WHAT)
    folder = hub.cached(label)
    if folder is not None:
        return BaseModel(label, "folder", str(folder), _folder_bytes(folder))
    answer = hub.ask(label)
    if answer == "there":
        return BaseModel(label, "hub", label)
    why = {
        "offline": "HF_HUB_OFFLINE forbids asking the hub",
        "unreachable": f"{hub.endpoint()} can't be reached",
        "missing": f"{hub.endpoint()} knows no such model",
        "private": f"{hub.endpoint()} has no public model of that name",
    }[answer]
    raise BadInput(
        f"There is no model '{label}': it is neither built in, nor a folder or GGUF file here, nor in the Hugging Face "
        f"cache, and {why}{nearest(label, list(catalog.BUILT_IN)) or '.'}",
        hint=_WHAT,
    )


def prepared_path(workspace: Workspace, model: BaseModel) -> Path:
    """Where the GGUF file ``model`` lies as safetensors once converted: ``.hybrid/models/<name>/``.

    A built-in keeps its name; another file is known by its place, size and time, so that two of the same name differ.
    """
    if model.label in catalog.BUILT_IN:
        return workspace.models / model.label
    path = Path(model.path).resolve()
    stat = path.stat()
    mark = hashlib.sha256(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._").lower()[:48] or "model"
    return workspace.models / f"{stem}-{mark}"


def _converted(workspace: Workspace, model: BaseModel) -> BaseModel:
    """``model`` as its converted folder, if it is a GGUF file with one."""
    if model.kind != "gguf" or (model.size_bytes is None and model.label not in catalog.BUILT_IN):
        return model
    folder = prepared_path(workspace, model)
    if not hub.holds_model(folder):
        return model
    return BaseModel(model.label, "folder", str(folder), _folder_bytes(folder))


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


async def ensure_ready(ctx: Context, label: str) -> BaseModel:
    """The model ``label`` as the runtime loads it: kind "folder", or "hub" for an id that transformers will download.

    Fetches a built-in model and converts a GGUF file, once; both are reported as progress and cancellable.
    Raises BadInput (no such model), HybridError (fetching or converting failed, the model stack is missing) or
    Refused (it would have to write in a read-only session).
    """
    model = await asyncio.to_thread(resolve_base, ctx.workspace, label)
    if model.kind != "gguf":
        return model
    ctx.will_write("model.get")
    check_stack()
    built_in = catalog.BUILT_IN.get(model.label)
    if built_in is not None:
        await fetch(built_in, ctx.report)
    destination = prepared_path(ctx.workspace, model)
    ctx.workspace.ensure_state()
    await _convert(ctx, Path(model.path), destination)
    return msgspec.structs.replace(model, kind="folder", path=str(destination), size_bytes=_folder_bytes(destination))


def check_stack() -> None:
    """Raises HybridError when torch or transformers is not installed; imports neither."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise HybridError(
            f"The model stack is missing: {' and '.join(missing)} can't be found by this Python.", hint=MODEL_STACK_HINT
        )


async def _convert(ctx: Context, source: Path, destination: Path) -> None:
    """Run the converter as a child and pass its progress on. Raises HybridError with its cause."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.runtime.convert", str(source), str(destination),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=_PACKAGES, limit=1 << 20,
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    last: dict[str, Any] = {}
    noise = asyncio.ensure_future(child.stderr.read())
    try:
        async for line in child.stdout:
            last = _object(line) or last
            if isinstance(last.get("stage"), str) and last["stage"] != "done":
                note = f"convert {source.name}, once"
                ctx.report(Progress(last["stage"], last.get("done", 0), last.get("total"), "stages", note))
        code = await child.wait()
        said = (await noise).decode(errors="replace").strip().splitlines()
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()
        noise.cancel()
    if code != 0 or not hub.holds_model(destination):
        cause = last.get("error") or (said[-1] if said else f"exit code {code}")
        raise HybridError(f"Converting {source.name} failed: {cause}", hint=str(last.get("hint", "")))


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
