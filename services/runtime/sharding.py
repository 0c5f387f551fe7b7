"""A model split over the processes of a run, so that none of them holds all of it: PyTorch's ``fully_shard``.

Each process keeps a part of every layer; a layer is put together when it is computed and dropped after. A frozen
base is split, its adapter is not: that is small, and stays as without sharding, with its gradients summed. When all
weights are trained, gradients and the optimizer's moments are split with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from services.errors import BadInput, HybridError
from services.runs.types import TrainConfig
from services.runtime import loading, memory

FULL_BYTES = 16  # a trained weight in float32, its gradient and two moments


class Whole(torch.nn.Module):
    """Runs a piece of work with the parts of ``model`` outside its layers (embedding, head) put together."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns."""
        return work()


def wanted(config: TrainConfig, folder: Path, device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the model in ``folder`` is to be split over ``size`` processes.

    Raises BadInput when that was asked for and can't be, HybridError when not even a part of it fits a device.
    """
    reason = _obstacle(config, device, size)
    if config.shard == "on" and reason:
        raise BadInput(reason[0], hint=reason[1])
    if config.shard != "auto" or reason or device.type != "cuda":
        return config.shard == "on"
    free, _ = torch.cuda.mem_get_info(device)
    return needed(weights(folder), config.method == "full", dtype, int(free * memory.FILL), size)


def _obstacle(config: TrainConfig, device: torch.device, size: int) -> tuple[str, str] | None:
    """Why sharding can't be, and what to do."""
    if size == 1:
        return "Sharding needs several processes, and this run has one.", "Give processes=2 or more, or shard=off."
    if config.method == "qlora":
        return "A 4-bit base (method=qlora) can't be sharded.", "Use method=lora, or shard=off."
    if config.task == "classify":
        return "A model with a classification head can't be sharded.", "Use task=generate, or shard=off."
    if device.type == "mps":
        return "Sharding works on CUDA devices and CPUs.", "Use shard=off."
    return None


def needed(numbers: int, full: bool, dtype: torch.dtype, room: int, size: int) -> bool:
    """Whether a model of ``numbers`` weights is too large for ``room`` bytes but not when ``size`` devices share it.

    Activations are not counted. Raises HybridError when it is too large for all devices together.
    """
    bytes_ = numbers * (FULL_BYTES if full else dtype.itemsize)
    if bytes_ <= room:
        return False
    if bytes_ / size > room:
        raise HybridError(
            f"The model needs {bytes_ / 1e9:.1f} GB, and each of {size} devices has {room / 1e9:.1f} GB to give.",
            hint="Use a smaller model, more GPUs, or method=qlora." if not full else "Use method=lora, or more GPUs.",
        )
    return True


def weights(folder: Path) -> int:
    """How many numbers the weights in ``folder`` are, by the files' headers."""
    from safetensors import safe_open

    total = 0
    for file in loading.weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total


def split(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Whole:
    """Split ``model``, in place, over the processes that have met, and bring it to ``device`` layer by layer.

    Trained parameters of a model that is frozen otherwise stay whole. A model that is trained in all its weights is
    computed in ``dtype``; its gradients are summed over the processes in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    full = len(trained) == len(list(model.parameters()))
    policy = MixedPrecisionPolicy()
    if full and dtype != torch.float32:  # autocast would keep a narrow copy of every layer for the backward pass
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    kept = set() if full else trained
    for parameter in kept:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    whole = Whole(model)
    part: Any
    for part in [*_layers(model), whole]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=kept)
        part.set_gradient_divide_factor(1.0)  # a sum, as without sharding, and no mean
        part.set_force_sum_reduction_for_comms(True)
    return whole


def _layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The decoder's layers: the list of modules with the most parameters."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if lists:
        yield from max(lists, key=lambda module: sum(p.numel() for p in module.parameters()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the CPU, contiguous; a split one is put together, for which every process must call this.

    Processes other than the first get its shape alone then.
    """
    if is_split(tensor):
        tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
        if torch.distributed.get_rank():
            return torch.empty_like(tensor, device="meta")
    return tensor.detach().cpu().contiguous()


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """This process's part of ``tensor``, which all have whole, if ``model`` is split; else ``tensor`` itself."""
    if not is_split(model):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(model.device, model.dtype)
    mesh, placements = model.device_mesh, model.placements  # type: ignore[attr-defined]
    part: torch.Tensor = distribute_tensor(there, mesh, placements, src_data_rank=None)
    return part


def clip(parameters: Sequence[torch.nn.Parameter], most: float) -> float:
    """Scale the gradients so that the norm of all together, in all processes, is at most ``most``; the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_split(norm):
        norm = norm.full_tensor()  # type: ignore[attr-defined]
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return float(norm)


def is_split(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a DTensor; asked so because importing its module takes half a second."""
    return hasattr(tensor, "placements")
