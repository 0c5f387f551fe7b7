"""Checkpoints that appear whole or not at all, and are checked before they are believed.

``checkpoints/step-NNNNNN/`` holds ``adapter.safetensors`` (PEFT's names), ``optimizer.safetensors`` and
``state.json``: the step, what was done so far, and each file's sha256. The data's position and all random numbers
follow from the run's seed and the step, so nothing else is needed to go on exactly.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from services import atomic
from services.errors import HybridError
from services.runtime import sharding
from services.runtime.watch import Watch

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``state.json``: ``step`` steps are done, ``tokens`` real tokens read, in ``seconds`` of training.

    ``micro`` tokens are computed at once (0: a whole step); ``watch`` is what the run remembers of its figures. Pass
    ``epoch`` over the data began after ``epoch_step`` steps: earlier ones need not be gone through to find the place.
    """

    step: int
    tokens: int
    seconds: float
    files: dict[str, str] = {}
    micro: int = 0
    watch: Watch | None = None
    epoch: int = 0
    epoch_step: int = 0


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk. ``sha256`` is that of its state.json, which holds those of the other files."""

    path: Path
    step: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Restored:
    """A checkpoint in memory: the adapter by PEFT's names, the optimizer by ``<parameter's index>.<name>``."""

    state: State
    adapter: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by ``<parameter's index>.<name>``; see ``sharding.whole`` for a model that is split."""
    states: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": sharding.whole(torch.as_tensor(value))
        for index, values in states.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give the optimizer back what ``optimizer_tensors`` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        of = parameters[int(index)]
        state.setdefault(int(index), {})[name] = sharding.like(value, of) if value.shape == of.shape else value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def write(
    folder: Path,
    state: State,
    adapter: dict[str, torch.Tensor],
    optimizer: dict[str, torch.Tensor],
    *,
    keep: int,
    best: int = 0,
) -> Written:
    """Write ``folder/step-NNNNNN`` and keep the last ``keep`` checkpoints, and that of step ``best``.

    Raises HybridError when the disk is full or not writable; earlier checkpoints are untouched then.
    """
    target = path(folder, state.step)
    temporary = folder / f".{target.name}.tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*.tmp-*"):  # one trainer writes here, so it is a killed one's
            shutil.rmtree(leftover)
        temporary.mkdir()
        contents = {ADAPTER: save(adapter), OPTIMIZER: save(optimizer)}
        files = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        contents[STATE] = msgspec.json.encode(msgspec.structs.replace(state, files=files))
        for name, data in contents.items():
            atomic.write_bytes(temporary / name, data)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        atomic.sync_directory(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _failed(folder, state.step, error) from error
    for old in steps(folder)[:-keep]:
        if old != path(folder, best):
            shutil.rmtree(old, ignore_errors=True)
    total = sum(len(data) for data in contents.values())
    return Written(target, state.step, total, hashlib.sha256(contents[STATE]).hexdigest())


def path(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is or would be."""
    return folder / f"step-{step:06d}"


def is_last(folder: Path, step: int) -> bool:
    """Whether the newest checkpoint is that of ``step``."""
    found = steps(folder)
    return bool(found) and found[-1] == path(folder, step)


def _failed(folder: Path, step: int, error: OSError) -> HybridError:
    earlier = steps(folder)
    safe = f"the last one is {earlier[-1].name}" if earlier else "there is no earlier one"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HybridError(
            f"The disk is full: the checkpoint at step {step} could not be written; {safe}.",
            hint="Free space, then resume the run.",
        )
    return HybridError(
        f"The checkpoint at step {step} could not be written ({error.strerror}); {safe}.",
        hint="Make the run's folder writable, then resume the run.",
    )


def steps(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    found = [p for p in folder.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def read(place: Path) -> Restored:
    """Read and check one checkpoint. Raises HybridError naming what is wrong with it."""
    try:
        state = msgspec.json.decode((place / STATE).read_bytes(), type=State)
        contents = {name: (place / name).read_bytes() for name in (ADAPTER, OPTIMIZER)}
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != state.files.get(name):
                raise HybridError(f"{place / name} is damaged: its checksum differs.")
        return Restored(state, load(contents[ADAPTER]), load(contents[OPTIMIZER]))
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise HybridError(f"The checkpoint {place} is damaged: {error}.") from error


def last_good(folder: Path) -> tuple[Restored | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    A damaged one is renamed to ``damaged-step-NNNNNN``, so that it is never taken for good and can be looked at.
    """
    complaints: list[str] = []
    for found in reversed(steps(folder)):
        try:
            return read(found), complaints
        except HybridError as error:
            aside = found.with_name(f"damaged-{found.name}")
            shutil.rmtree(aside, ignore_errors=True)
            found.rename(aside)
            complaints.append(f"{error} It was set aside as {aside.name}.")
    return None, complaints
