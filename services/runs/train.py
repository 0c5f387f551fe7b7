"""From what a person asks for to a checked, frozen spec of a training run."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.data import store
from services.data.types import DatasetInfo
from services.errors import BadInput, HybridError
from services.models import resolve
from services.runs import spec, targets
from services.runs.types import RunSpec, TargetName, TrainConfig
from services.workspace import Workspace

_PACKAGES = Path(__file__).resolve().parents[2]  # run from here, "services" is ours and not a folder of the user's
REMOTE_GRACE_S = 900.0  # a cancelled run elsewhere still has its checkpoint to bring here, and its machine to free
_CEILINGS = ("-m", "services.runs.ceilings")
_SECRETS = ("HF_TOKEN",)  # what a trainer elsewhere may need of this box's environment
_NEEDED_BYTES = 300_000_000  # three checkpoints of the demo's adapter with its optimiser, the result and the log
_FULL_BYTES = 12  # of a weight in a checkpoint of full training: fp32, and the optimiser's two moments


class StartParams(TrainConfig, frozen=True, forbid_unknown_fields=True):
    """What to train on, from which model, where, and how."""

    data: Annotated[str, Meta(description="A dataset's name or folder; empty: the newest one.")] = ""
    model: Annotated[
        str, Meta(description="Built-in name, folder, GGUF file or Hugging Face id; empty: the one in the settings.")
    ] = ""
    target: Annotated[
        TargetName, Meta(description="Where to run: local, or colab, notebook, ray (see docs/runs.md).")
    ] = "local"
    accelerator: Annotated[
        str, Meta(description="What to ask the target for: T4, L4, A100, H100, G4, or none; empty: as in its settings.")
    ] = ""
    mount_drive: Annotated[
        bool, Meta(description="Mount your Google Drive on the machine (colab); needs your consent once a run.")
    ] = False
    budget_seconds: Annotated[float, Meta(ge=0, description="Stop the run after so long, all told; 0 = never.")] = 0.0
    budget_cost: Annotated[
        float, Meta(ge=0, description="Stop the run after so many units (colab) or so much money; 0 = never.")
    ] = 0.0
    wait: Annotated[bool, Meta(description="Return when the run has ended, with its progress until then.")] = False


async def make_spec(ctx: Context, params: StartParams) -> RunSpec | Plan:
    """A spec for ``params`` after every check; under ``--dry-run`` a Plan instead.

    Fetches and converts the model when it isn't ready yet. Raises BadInput (data or model) or HybridError (model
    stack missing, too little space).
    """
    workspace = ctx.workspace
    data = await asyncio.to_thread(_dataset, workspace, params.data)
    info = await asyncio.to_thread(store.load_info, data)
    if not info.counts.get("train"):
        raise BadInput(f"The dataset {info.name} has no training rows.", hint="data.show tells what it holds.")
    place = targets.target(params.target)
    if params.target == "local":
        resolve.check_stack()
    for warning in await place.check(ctx, params):
        ctx.report(Progress("check", note=warning))
    check_space(workspace.root)
    label = params.model or workspace.settings.model.base
    if ctx.dry_run:
        found = await asyncio.to_thread(resolve.resolve_base, workspace, label)
        needed = needed_bytes(params, found.path)
        check_space(workspace.root, needed)
        return _plan(info, label, params, needed)
    model = await resolve.ensure_ready(ctx, label)
    elsewhere = params.target != "local"
    check_space(workspace.root, needed_bytes(params, model.path))
    commit, dirty = await asyncio.to_thread(spec.git_state, workspace.root)
    run_id = spec.make_run_id()
    run_dir = workspace.runs / run_id
    return RunSpec(
        v=1,
        id=run_id,
        kind="train",
        target=params.target,
        command=place.command(run_dir),
        cwd=str(_PACKAGES),
        config=_config(params),
        model=model.path,
        model_label=model.label,
        data=str(data),
        data_sha256=info.sha256,
        seed=params.seed,
        created_at=time.time(),
        git_commit=commit,
        git_dirty=dirty,
        remote=("python", *targets.TRAINER, "{run}") if elsewhere else (),
        options={"accelerator": params.accelerator, "mount_drive": params.mount_drive} if elsewhere else {},
        max_seconds=params.budget_seconds,
        max_cost=params.budget_cost or (workspace.settings.colab.budget_units if params.target == "colab" else 0.0),
        env_names=tuple(name for name in _SECRETS if elsewhere and os.environ.get(name)),
        grace_s=REMOTE_GRACE_S if elsewhere else 60.0,
        ceilings=(sys.executable, *_CEILINGS, str(workspace.root), str(run_dir)) if elsewhere else (),
    )


def needed_bytes(config: TrainConfig, model: str) -> int:
    """Most bytes that a run on the model folder ``model`` puts on the disk at once, roughly.

    Full training writes all weights: into every checkpoint that is kept, the best one, the one being written, and the
    result. A model that is not here yet is not counted.
    """
    weights = _parameters(Path(model)) if config.method == "full" else 0
    checkpoints = config.keep_checkpoints + 1 + bool(config.eval_steps)
    return _NEEDED_BYTES + weights * (_FULL_BYTES * checkpoints + 4)


def _parameters(folder: Path) -> int:
    """How many numbers the safetensors files in ``folder`` hold, by their headers; 0 for one that can't be read."""
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
            continue  # the trainer says what is wrong with it
    return total


def check_space(folder: Path, needed: int = _NEEDED_BYTES) -> None:
    """Raises HybridError when less than ``needed`` bytes are free on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HybridError(
            f"{formats.size(free)} are free at {folder}; a run needs {formats.size(needed)} for its checkpoints.",
            hint="storage.scan shows what fills the disk; train.delete removes old runs.",
        )


def _dataset(workspace: Workspace, word: str) -> Path:
    if word:
        return store.resolve(workspace, word)
    known = store.all_datasets(workspace).datasets
    if not known:
        raise BadInput("There is no dataset yet.", hint="Make one with data.generate or data.prepare source=FILE.")
    return store.resolve(workspace, max(known, key=lambda info: info.created_at).name)


def _config(params: StartParams) -> TrainConfig:
    return TrainConfig(**{field.name: getattr(params, field.name) for field in msgspec.structs.fields(TrainConfig)})


_ADAPTERS = {"lora": "a LoRA", "rslora": "an rsLoRA", "dora": "a DoRA", "qlora": "a QLoRA"}


def _what(config: TrainConfig, label: str) -> str:
    """What ``config`` trains, in words."""
    head = " and a classification head" if config.task == "classify" else ""
    if config.method == "full":
        return f"all weights of {label}{head}"
    return f"{_ADAPTERS[config.method]} adapter (r={config.r}){head} for {label}"


def _plan(info: DatasetInfo, label: str, params: StartParams, needed: int) -> Plan:
    rows = formats.count(info.counts["train"])
    data, disk = f"data {info.name} {info.sha256[:12]}", f"up to {formats.size(needed)} of disk"
    return Plan(
        "train.start",
        f"train {_what(params, label)} on {info.name}, {rows} rows, {params.epochs:g} epochs",
        steps=(data, f"model {label}", f"target {params.target}", disk),
    )
