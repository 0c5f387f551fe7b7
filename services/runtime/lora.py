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
    """``r`` rank, ``alpha`` its scale, ``dropout`` of the low-rank part's input while training."""

    r: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False

    @property
    def scale(self) -> float:
        """What the low-rank part is multiplied by: alpha / r, for rsLoRA alpha / √r (Kalajdzievski 2023)."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


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
    """One group's adapter in one layer. ``a``, ``b`` are trained (float32), ``a_grad``, ``b_grad`` where their
    gradients are summed; ``a_low``, ``b_low`` are what products use: in the compute precision, ``b_low`` as the
    block-diagonal (out × k·r), already multiplied by the adapter's scale."""

    group: Group
    scale: float
    a: torch.Tensor
    b: torch.Tensor
    a_grad: torch.Tensor
    b_grad: torch.Tensor
    a_low: torch.Tensor
    b_low: torch.Tensor


class Adapters:
    """A model's ``pairs[layer][group name]``. ``flat`` holds every trained number, first all A, then all B; its
    gradient ``flat.grad`` is summed by the backward functions themselves, not by autograd."""

    def __init__(self, shape: LlamaShape, config: LoraConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.shape = shape
        per_a = sum(len(g.modules) * config.r * g.inputs for g in groups(shape))
        per_b = sum(sum(g.rows) * config.r for g in groups(shape))
        self._split = per_a * shape.layers
        self.flat = torch.nn.Parameter(torch.zeros(self._split + per_b * shape.layers, device=device))
        self.flat.grad = torch.zeros_like(self.flat)
        self._low = torch.zeros_like(self.flat, dtype=dtype)
        self._blocks: list[tuple[torch.Tensor, torch.Tensor]] = []  # (part of a b_low, its place in _low)
        self.pairs: list[dict[str, Pair]] = []
        at_a, at_b = 0, self._split
        for _ in range(shape.layers):
            layer: dict[str, Pair] = {}
            for group in groups(shape):
                layer[group.name] = self._pair(group, at_a, at_b)
                at_a, at_b = at_a + layer[group.name].a.numel(), at_b + layer[group.name].b.numel()
            self.pairs.append(layer)

    def _pair(self, group: Group, at_a: int, at_b: int) -> Pair:
        r = self.config.r
        ranks = len(group.modules) * r
        a, a_grad, a_low = self._leaf(at_a, ranks, group.inputs)
        b, b_grad, b_low = self._leaf(at_b, sum(group.rows), r)
        if len(group.modules) > 1:
            plain, b_low = b_low, b_low.new_zeros(sum(group.rows), ranks)
            self._blocks += [(b_low[rows, i * r : (i + 1) * r], plain[rows]) for rows, i in group.blocks]
        return Pair(group, self.config.scale, a, b, a_grad, b_grad, a_low, b_low)

    def _leaf(self, position: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A trained matrix inside ``flat``, the place of its gradient, and its low copy."""
        assert self.flat.grad is not None
        part = slice(position, position + rows * columns)
        whole = (self.flat.data, self.flat.grad, self._low)
        a, b, c = (vector[part].view(rows, columns) for vector in whole)
        return a, b, c

    def initialise(self, seed: int) -> None:
        """A uniform as in He et al. 2015 with a = √5 (PEFT's default), B zero: the model starts as the base."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.pairs:
            for pair in layer.values():
                bound = 1 / math.sqrt(pair.group.inputs)
                values = torch.empty(pair.a.shape).uniform_(-bound, bound, generator=generator)
                pair.a.copy_(values)
                pair.b.zero_()
        self.refresh()

    def refresh(self) -> None:
        """Bring the copies that products use up to date; call after every change of ``flat``."""
        self._low.copy_(self.flat.data)
        self._low[self._split :].mul_(self.config.scale)
        if self._blocks:
            torch._foreach_copy_([block for block, _ in self._blocks], [plain for _, plain in self._blocks])

    def named(self) -> dict[str, torch.Tensor]:
        """Views of ``flat`` by PEFT's tensor names."""
        tensors: dict[str, torch.Tensor] = {}
        r = self.config.r
        for number, layer in enumerate(self.pairs):
            for pair in layer.values():
                for (rows, index), module in zip(pair.group.blocks, pair.group.modules, strict=True):
                    name = f"{PREFIX}model.layers.{number}.{module}"
                    tensors[f"{name}.lora_A.weight"] = pair.a[index * r : (index + 1) * r]
                    tensors[f"{name}.lora_B.weight"] = pair.b[rows]
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


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply`` with a type."""
    return cast(Any, function).apply(*arguments)


def forward(
    x: torch.Tensor, weight: torch.Tensor, pair: Pair | None, keep: torch.Tensor | None, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``residual`` + x Wᵀ + scale · (x Aᵀ) Bᵀ for a group of linears: (tokens × in) → (tokens × out); and x Aᵀ.

    ``keep`` is the dropout's mask, already divided by the kept share, or None.
    """
    y = x @ weight.t() if residual is None else torch.addmm(residual, x, weight.t())
    if pair is None:
        return y, None
    low = (x if keep is None else x * keep) @ pair.a_low.t()
    return y.addmm_(low, pair.b_low.t()), low


def backward(grad: torch.Tensor, weight: torch.Tensor, pair: Pair, keep: torch.Tensor | None, *, inputs: bool) -> Any:
    """From the output's gradient: that of x (None unless ``inputs``), and that of x Aᵀ for ``collect``."""
    grad_low = grad @ pair.b_low
    if not inputs:
        return None, grad_low
    grad_x = grad @ weight
    if keep is None:
        grad_x.addmm_(grad_low, pair.a_low)
    else:
        grad_x.addcmul_(grad_low @ pair.a_low, keep)
    return grad_x, grad_low


def collect(
    pair: Pair,
    grad: torch.Tensor,
    grad_low: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    keep: torch.Tensor | None,
) -> None:
    """Add the gradients of A and B to what is there."""
    r = pair.b.shape[1]
    pair.a_grad.add_(grad_low.t() @ (x if keep is None else x * keep))
    whole = grad.t() @ low
    for rows, index in pair.group.blocks:
        pair.b_grad[rows].add_(whole[rows, index * r : (index + 1) * r], alpha=pair.scale)


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
                "use_rslora": config.rslora,
                "use_dora": False,
            },
            indent=2,
        ),
    )
