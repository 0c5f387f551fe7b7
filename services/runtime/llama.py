"""The Llama family's forward and backward pass for LoRA training, on packed rows.

Rows lie one after another: every linear, norm and MLP runs on the T real tokens (T × width), never on padding. Only
attention sees a padded view, and rows never see each other. What needs no gradient is not kept: the frozen weights are
no saved tensors, and the output head runs only where a label is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from services.runtime import loading, lora, pointwise
from services.runtime.attention import Packing, attend, turned_parts
from services.runtime.loading import LlamaShape
from services.runtime.lora import Adapters, Pair, apply, groups

HEAD_CHUNK = 512  # labelled positions whose logits exist at once on a CPU
HEAD_NUMBERS = 1 << 27  # and logits at once on a GPU, which wants larger products


@dataclass
class Layer:
    """A layer's frozen weights: the norms (width,) and each group's matrices stacked (out × in)."""

    input_norm: torch.Tensor
    post_norm: torch.Tensor
    weights: dict[str, torch.Tensor]


@dataclass
class Weights:
    """A model's frozen weights. ``head`` is ``embedding`` itself where they are tied; both (vocab × width)."""

    embedding: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor


def arrange(raw: dict[str, torch.Tensor], shape: LlamaShape) -> Weights:
    """Stack the matrices of each group; ``raw`` (by Hugging Face's names) is emptied on the way to save memory."""
    layers = []
    for number in range(shape.layers):
        prefix = f"model.layers.{number}."
        stacked = {
            group.name: torch.cat([raw.pop(f"{prefix}{module}.weight") for module in group.modules])
            for group in groups(shape)
        }
        norms = raw.pop(f"{prefix}input_layernorm.weight"), raw.pop(f"{prefix}post_attention_layernorm.weight")
        layers.append(Layer(*norms, stacked))
    embedding = raw.pop("model.embed_tokens.weight")
    head = raw.pop("lm_head.weight", embedding)
    return Weights(embedding, layers, raw.pop("model.norm.weight"), embedding if shape.tied else head)


class NormLinear(torch.autograd.Function):
    """A group's linears with their adapter on the RMS norm of x. Saves x and one number a token; the norm is redone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        anchor: torch.Tensor,
        norm: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        pair: Pair,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        normed, inverse = pointwise.rms(x, norm, eps)
        y, low = lora.forward(normed, weight, pair, keep, None)
        ctx.save_for_backward(x, inverse, low, keep)
        ctx.norm, ctx.weight, ctx.pair = norm, weight, pair
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, inverse, low, keep = ctx.saved_tensors
        normed = pointwise.rms_again(x, inverse, ctx.norm)
        grad_normed, grad_low = lora.backward(grad, ctx.weight, ctx.pair, keep, inputs=ctx.needs_input_grad[0])
        lora.collect(ctx.pair, grad, grad_low, normed, low, keep)
        grad_x = None if grad_normed is None else pointwise.rms_backward(grad_normed, x, inverse, ctx.norm)
        return grad_x, None, None, None, None, None, None


class GluLinear(torch.autograd.Function):
    """``residual`` + the down projection with its adapter of silu(gate) · up. Saves gate and up, not their product."""

    @staticmethod
    def forward(
        ctx: Any,
        both: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        pair: Pair,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        y, low = lora.forward(pointwise.swiglu(both), weight, pair, keep, residual)
        ctx.save_for_backward(both, low, keep)
        ctx.weight, ctx.pair = weight, pair
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        both, low, keep = ctx.saved_tensors
        grad_inner, grad_low = lora.backward(grad, ctx.weight, ctx.pair, keep, inputs=True)
        grad_both, inner = pointwise.swiglu_backward(grad_inner, both)
        lora.collect(ctx.pair, grad, grad_low, inner, low, keep)
        return grad_both, grad, None, None, None


class LinearAdd(torch.autograd.Function):
    """``residual`` + a group's linears with their adapter of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        pair: Pair,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        y, low = lora.forward(x, weight, pair, keep, residual)
        ctx.save_for_backward(x, low, keep)
        ctx.weight, ctx.pair = weight, pair
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, keep = ctx.saved_tensors
        grad_x, grad_low = lora.backward(grad, ctx.weight, ctx.pair, keep, inputs=True)
        lora.collect(ctx.pair, grad, grad_low, x, low, keep)
        return grad_x, grad, None, None, None


class Norm(torch.autograd.Function):
    """The last RMS norm. Saves its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        normed, inverse = pointwise.rms(x, weight, eps)
        ctx.save_for_backward(x, inverse)
        ctx.weight = weight
        return normed  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return pointwise.rms_backward(grad, *ctx.saved_tensors, ctx.weight), None, None


class HeadLoss(torch.autograd.Function):
    """Sum of the cross-entropies of hidden states (N × width) against ``targets`` (N,), -1 for none; the head frozen.

    Logits exist for a chunk of positions at a time; the gradient is found on the way, so none are kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        grad = torch.empty_like(hidden) if wanted else None
        for start, end in chunks(len(hidden), len(head), hidden.device):
            logits = hidden[start:end] @ head.t()
            if grad is None:
                goal = targets[start:end]
                total += torch.nn.functional.cross_entropy(logits.float(), goal, reduction="sum", ignore_index=-1)
                continue
            loss, slope = pointwise.surprise(logits, targets[start:end, None])
            total += loss
            torch.mm(slope, head, out=grad[start:end])
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * scale, None, None


def chunks(count: int, vocabulary: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Equal portions of ``count`` positions whose logits may exist at once."""
    most = HEAD_CHUNK if device.type == "cpu" else max(256, HEAD_NUMBERS // vocabulary)
    parts = -(-count // most)
    for part in range(parts):
        yield part * count // parts, (part + 1) * count // parts


class Llama:
    """A frozen model of the Llama family with or without trained adapters."""

    def __init__(self, shape: LlamaShape, weights: Weights) -> None:
        self.shape = shape
        self.weights = weights
        self.adapters: Adapters | None = None
        self.checkpointing = False  # keep only the layers' inputs for the backward pass, and compute the rest again
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._table = loading.rope_table(shape, min(shape.max_positions, 1024), self.device)

    def angles(self, positions: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine at ``positions``: (…, 1, head_dim) in the compute precision."""
        if longest > len(self._table[0]):
            self._table = loading.rope_table(self.shape, 2 * longest, self.device)
        cos, sin = (part[positions].to(self.dtype).unsqueeze(-2) for part in self._table)
        return cos, sin

    def linear(self, number: int, group: str, x: torch.Tensor) -> torch.Tensor:
        """One group of linears of layer ``number``, with its adapter if there is one; no gradient."""
        pair = self.adapters.pairs[number][group] if self.adapters else None
        return lora.forward(x, self.weights.layers[number].weights[group], pair, None, None)[0]

    def _keep(self, rows: int, pair: Pair, training: bool) -> torch.Tensor | None:
        """A fresh dropout mask for the input of ``pair``, or None without dropout."""
        share = 1 - (self.adapters.config.dropout if training and self.adapters else 0.0)
        if share == 1:
            return None
        mask = torch.empty(rows, pair.group.inputs, dtype=self.dtype, device=self.device)
        return mask.bernoulli_(share).div_(share)

    def layer(
        self,
        number: int,
        x: torch.Tensor,
        anchor: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        packing: Packing,
        wanted: torch.Tensor | None,
        training: bool,
    ) -> torch.Tensor:
        """One layer on packed rows, with gradient; ``wanted`` are the positions that go on to the MLP, None: all."""
        assert self.adapters is not None
        own, pairs, eps = self.weights.layers[number], self.adapters.pairs[number], self.shape.eps
        drop = self._keep(len(x), pairs["qkv"], training)
        qkv = apply(NormLinear, x, anchor, own.input_norm, eps, own.weights["qkv"], pairs["qkv"], drop)
        mixed = attend(qkv, *angles, packing, self.shape)
        if wanted is not None:
            x, mixed = x.index_select(0, wanted), mixed.index_select(0, wanted)
        keep = [self._keep(len(x), pairs[name], training) for name in ("o", "gate_up", "down")]
        x = apply(LinearAdd, mixed, x, own.weights["o"], pairs["o"], keep[0])
        both = apply(NormLinear, x, anchor, own.post_norm, eps, own.weights["gate_up"], pairs["gate_up"], keep[1])
        return cast(torch.Tensor, apply(GluLinear, both, x, own.weights["down"], pairs["down"], keep[2]))

    def hidden(
        self,
        ids: torch.Tensor,
        packing: Packing,
        wanted: torch.Tensor,
        *,
        seen: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Normed last hidden states (N × width) at the packed positions ``wanted`` (N,) of ``ids`` (T,), no gradient.

        The last layer's MLP runs at those positions only. ``seen`` is given each layer's number, keys and values, the
        latter two padded to (rows, longest, kv heads, head_dim), for decoding from here on.
        """
        angles = self.angles(packing.positions, packing.longest)
        eps = self.shape.eps
        x = self.weights.embedding[ids]
        for number, layer in enumerate(self.weights.layers):
            qkv = self.linear(number, "qkv", pointwise.rms(x, layer.input_norm, eps)[0])
            mixed = attend(qkv, *angles, packing, self.shape)
            if seen is not None:
                _, key, value = turned_parts(qkv, *angles, self.shape)
                seen(number, packing.pad(key), packing.pad(value))
            if number == self.shape.layers - 1:
                x, mixed = x[wanted], mixed[wanted]
            x = x + self.linear(number, "o", mixed)
            both = self.linear(number, "gate_up", pointwise.rms(x, layer.post_norm, eps)[0])
            x = x + self.linear(number, "down", pointwise.swiglu(both))
        normed: torch.Tensor = pointwise.rms(x, self.weights.norm, eps)[0]
        return normed

    def train_hidden(
        self, ids: torch.Tensor, packing: Packing, wanted: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        """As ``hidden``, with gradient, which the backward pass adds to ``adapters.flat.grad``."""
        assert self.adapters is not None
        angles = self.angles(packing.positions, packing.longest)
        x = self.weights.embedding[ids]
        last = self.shape.layers - 1
        for number in range(self.shape.layers):
            some = wanted if number == last and not packing.everywhere else None
            arguments = (number, x, self.adapters.flat, angles, packing, some, training)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self.layer, *arguments, use_reentrant=False)
            else:
                x = self.layer(*arguments)
        return cast(torch.Tensor, apply(Norm, x, self.weights.norm, self.shape.eps))

    def loss(
        self, ids: torch.Tensor, packing: Packing, at: torch.Tensor, targets: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        """Sum of the cross-entropies of ``targets`` (N,) predicted at the packed positions ``at`` (N,); float32."""
        if self.adapters is None:
            hidden = self.hidden(ids, packing, at)
        else:
            hidden = self.train_hidden(ids, packing, at, training=training)
        return cast(torch.Tensor, apply(HeadLoss, hidden, self.weights.head, targets))
