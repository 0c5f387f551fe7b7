"""Low-rank adapters (LoRA): how they are laid out in memory, trained, and stored in PEFT's file format.

A layer's linears that read the same input form a group and run as one product: q, k, v; gate, up. A group of ``k``
modules has A (k·r × in), one block of r rows a module, and B (out × r), the modules' rows one below the other. All of
them are views of one flat float32 vector, so that clipping, the optimizer and the cast for bf16 are one operation each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from services import atomic
from services.errors import BadInput
from services.runtime import adapters
from services.runtime.loading import LlamaShape

PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraConfig:
    """``r`` rank, ``alpha`` / r the scale of the low-rank part, ``dropout`` of its input while training."""

    r: int
    alpha: float
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """What the low-rank part is multiplied by."""
        return self.alpha / self.r


@dataclass(frozen=True)
class Group:
    """Linears of one layer that read the same input. ``modules`` are their names below ``model.layers.N.``."""

    name: str
    modules: tuple[str, ...]
    rows: tuple[int, ...]
    inputs: int

    @property
    def blocks(self) -> Iterator[tuple[slice, int]]:
        """For each module: its rows in the group's output, and its index."""
        start = 0
        for index, rows in enumerate(self.rows):
            yield slice(start, start + rows), index
            start += rows


def groups(shape: LlamaShape) -> tuple[Group, ...]:
    """The four groups of a layer, in the order in which the layer uses them."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return (
        Group("qkv", attention, (q, kv, kv), shape.width),
        Group("o", ("self_attn.o_proj",), (shape.width,), q),
        Group("gate_up", ("mlp.gate_proj", "mlp.up_proj"), (shape.inner, shape.inner), shape.width),
        Group("down", ("mlp.down_proj",), (shape.width,), shape.inner),
    )


@dataclass
class Pair:
    """One group's adapter in one layer. ``a``, ``b`` are trained (float32); ``a_low``, ``b_low`` are what products use:
    in the compute precision, ``b_low`` as the block-diagonal (out × k·r)."""

    group: Group
    a: torch.Tensor
    b: torch.Tensor
    a_low: torch.Tensor
    b_low: torch.Tensor


class Adapters:
    """A model's ``pairs[layer][group name]``. ``flat`` holds every trained number, ``flat.grad`` its gradient."""

    def __init__(self, shape: LlamaShape, config: LoraConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.shape = shape
        per_layer = sum(len(g.modules) * config.r * g.inputs + sum(g.rows) * config.r for g in groups(shape))
        self.flat = torch.nn.Parameter(torch.zeros(per_layer * shape.layers, device=device))
        self.flat.grad = torch.zeros_like(self.flat)
        self._low = torch.zeros_like(self.flat, dtype=dtype)
        self.pairs: list[dict[str, Pair]] = []
        position = 0
        for _ in range(shape.layers):
            layer: dict[str, Pair] = {}
            for group in groups(shape):
                layer[group.name], position = self._pair(group, position)
            self.pairs.append(layer)

    def _pair(self, group: Group, position: int) -> tuple[Pair, int]:
        ranks = len(group.modules) * self.config.r
        a, a_low, position = self._leaf(position, ranks, group.inputs)
        b, b_plain, position = self._leaf(position, sum(group.rows), self.config.r)
        single = len(group.modules) == 1
        b_low = b_plain if single else b_plain.new_zeros(sum(group.rows), ranks)
        return Pair(group, a, b, a_low, b_low), position

    def _leaf(self, position: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """A trained matrix inside ``flat`` whose gradient is the same place of ``flat.grad``, and its low copy."""
        assert self.flat.grad is not None
        part = slice(position, position + rows * columns)
        leaf = self.flat.data[part].view(rows, columns).requires_grad_()
        leaf.grad = self.flat.grad[part].view(rows, columns)
        return leaf, self._low[part].view(rows, columns), part.stop

    def initialise(self, seed: int) -> None:
        """A uniform as in He et al. 2015 with a = √5 (PEFT's default), B zero: the model starts as the base."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.pairs:
            for pair in layer.values():
                bound = 1 / math.sqrt(pair.group.inputs)
                values = torch.empty(pair.a.shape).uniform_(-bound, bound, generator=generator)
                pair.a.data.copy_(values)
                pair.b.data.zero_()
        self.refresh()

    def refresh(self) -> None:
        """Bring the copies that products use up to date; call after every change of ``flat``."""
        self._low.copy_(self.flat.data)
        r = self.config.r
        for layer in self.pairs:
            for pair in layer.values():
                if len(pair.group.modules) > 1:
                    for rows, index in pair.group.blocks:
                        pair.b_low[rows, index * r : (index + 1) * r] = pair.b.data[rows]

    def named(self) -> dict[str, torch.Tensor]:
        """Views of ``flat`` by PEFT's tensor names."""
        tensors: dict[str, torch.Tensor] = {}
        r = self.config.r
        for number, layer in enumerate(self.pairs):
            for pair in layer.values():
                for (rows, index), module in zip(pair.group.blocks, pair.group.modules, strict=True):
                    name = f"{PREFIX}model.layers.{number}.{module}"
                    tensors[f"{name}.lora_A.weight"] = pair.a.data[index * r : (index + 1) * r]
                    tensors[f"{name}.lora_B.weight"] = pair.b.data[rows]
        return tensors

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over values by PEFT's names; modules that ``tensors`` does not name stay without effect.

        Raises BadInput for a tensor of another shape or of a module that this model does not have.
        """
        self.flat.data.zero_()
        own = self.named()
        for name, value in tensors.items():
            if name not in own or own[name].shape != value.shape:
                raise BadInput(f"The adapter's {name} {tuple(value.shape)} does not fit the model.")
            own[name].copy_(value)
        self.refresh()


def apply(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    """``function.apply`` with a type."""
    return cast(torch.Tensor, cast(Any, function).apply(*arguments))


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + scale · (x Aᵀ) Bᵀ for a group of linears, W frozen: (tokens × in) → (tokens × out).

    Saves the input and x Aᵀ only; W has no gradient and is no saved tensor. ``keep`` is the dropout's mask, already
    divided by the kept share, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        pair: Pair,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        y = x @ weight.t()
        low = (x if keep is None else x * keep) @ pair.a_low.t()
        y.addmm_(low, pair.b_low.t(), alpha=scale)
        ctx.save_for_backward(x, low, keep)
        ctx.weight, ctx.pair, ctx.scale = weight, pair, scale
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, keep = ctx.saved_tensors
        pair: Pair = ctx.pair
        r = pair.b.shape[1]
        grad_low = (grad @ pair.b_low).mul_(ctx.scale)
        grad_a = grad_low.t() @ (x if keep is None else x * keep)
        whole = grad.t() @ low
        blocks = [whole[rows, index * r : (index + 1) * r] for rows, index in pair.group.blocks]
        grad_b = (torch.cat(blocks) if len(blocks) > 1 else blocks[0]).float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.weight
            if keep is None:
                grad_x.addmm_(grad_low, pair.a_low)
            else:
                grad_x.addcmul_(grad_low @ pair.a_low, keep)
        return grad_x, None, None, grad_a.float(), grad_b, None, None


def target_modules(shape: LlamaShape) -> list[str]:
    """Names of the adapted linears, as PEFT's config lists them."""
    return sorted(module.rpartition(".")[2] for group in groups(shape) for module in group.modules)


def write_config(folder: Path, config: LoraConfig, modules: list[str], base_model: str) -> None:
    """``adapter_config.json`` as ``peft.PeftModel.from_pretrained`` reads it."""
    atomic.write_text(
        folder / adapters.CONFIG,
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": base_model,
                "r": config.r,
                "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
                "lora_dropout": config.dropout,
                "target_modules": modules,
                "bias": "none",
                "fan_in_fan_out": False,
                "inference_mode": True,
                "use_rslora": False,
                "use_dora": False,
            },
            indent=2,
        ),
    )
