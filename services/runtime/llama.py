"""The Llama family's forward and backward pass for LoRA training, on packed rows.

Rows lie one after another: every linear, norm and MLP runs on the T real tokens (T × width), never on padding. Only
attention sees a padded view, and rows never see each other. What needs no gradient is not kept: the frozen weights are
no saved tensors, and the output head runs only where a label is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from services.runtime import loading
from services.runtime.loading import LlamaShape
from services.runtime.lora import Adapters, LoraLinear, apply, groups

HEAD_CHUNK = 512  # labelled positions whose logits exist at once
KEEP_SCORES = 128  # up to this row length the attention weights are kept for the backward pass, beyond recomputed


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


class Packing:
    """Where packed tokens lie in the padded view. ``lengths``: the rows' token counts, in order; T their sum."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        self.rows = len(lengths)
        self.longest = max(lengths)
        counts = torch.tensor(lengths)
        starts = torch.cumsum(counts, 0) - counts
        positions = torch.arange(sum(lengths)) - torch.repeat_interleave(starts, counts)
        row = torch.repeat_interleave(torch.arange(self.rows), counts)
        self.positions = positions.to(device)
        self.index = (row * self.longest + positions).to(device)
        self.ends = (starts + counts - 1).to(device)
        self.full = len(set(lengths)) == 1

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """(T, …) → (rows, longest, …), zeros where there is no token."""
        if self.full:
            return x.reshape(self.rows, self.longest, *x.shape[1:])
        padded = x.new_zeros(self.rows * self.longest, *x.shape[1:])
        padded.index_copy_(0, self.index, x)
        return padded.view(self.rows, self.longest, *x.shape[1:])

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, longest, …) → (T, …)."""
        flat = x.reshape(self.rows * self.longest, *x.shape[2:])
        return flat if self.full else flat.index_select(0, self.index)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (T, heads, head_dim) by the angles' (T, 1, head_dim); ``-sin`` turns back."""
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned


def turned_parts(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, shape: LlamaShape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated query (T, heads, head_dim), rotated key and plain value (T, kv heads, head_dim) of a fused product."""
    heads, kv = shape.heads, shape.kv_heads
    parts = qkv.view(-1, heads + 2 * kv, shape.head_dim)
    turned = rotate(parts[:, : heads + kv], cos, sin)
    return turned[:, :heads], turned[:, heads:], parts[:, heads + kv :]


class RmsNorm(torch.autograd.Function):
    """x / rms(x) · weight over the last dimension, weight frozen. Saves the input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse)
        ctx.weight = weight
        return (wide * inverse).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, inverse = ctx.saved_tensors
        unit = x * inverse
        wide = (grad * ctx.weight).float()
        mean = (wide * unit).mean(-1, keepdim=True)
        return wide.addcmul_(unit, mean, value=-1).mul_(inverse).to(x.dtype), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) · up of (T × 2·inner), gate first: (T × inner). Saves its input only."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        result = torch.empty_like(both)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(grad, torch.nn.functional.silu(gate), out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
        return result


class Attention(torch.autograd.Function):
    """Causal grouped-query attention of packed rows: (T × (heads + 2·kv)·head_dim) → (T × heads·head_dim).

    Written as batched products, heads that share a key head being rows of one product: on short rows this is ten
    times as fast on a CPU as the fused kernel, whose backward pass is slow there.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing, shape: LlamaShape
    ) -> torch.Tensor:
        query, key, value = _split(qkv, cos, sin, packing, shape)
        weights = _scores(query, key, packing.longest)
        out = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, weights if packing.longest <= KEEP_SCORES else None, cos, sin)
        ctx.packing, ctx.shape = packing, shape
        return _merge_heads(out, packing, shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, cos, sin = ctx.saved_tensors
        packing, shape = ctx.packing, ctx.shape
        if weights is None:
            weights = _scores(query, key, packing.longest)
        grad = packing.pad(grad.view(-1, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim))
        grad = grad.permute(0, 2, 3, 1, 4).reshape(query.shape)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_scores.mul_(shape.head_dim**-0.5)
        grad_query = torch.bmm(grad_scores, key)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        rows, kv, longest, dim = packing.rows, shape.kv_heads, packing.longest, shape.head_dim
        parts = [
            _merge_heads(grad_query, packing, shape).view(-1, shape.heads, dim),
            packing.unpad(grad_key.view(rows, kv, longest, dim).transpose(1, 2)),
            packing.unpad(grad_value.view(rows, kv, longest, dim).transpose(1, 2)),
        ]
        result = torch.cat(parts, dim=1)
        turned = shape.heads + kv
        result[:, :turned] = rotate(result[:, :turned], cos, -sin)
        return result.flatten(1), None, None, None, None


def _split(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing, shape: LlamaShape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query (rows·kv, group·longest, dim), key and value (rows·kv, longest, dim), rotated and padded."""
    kv, dim = shape.kv_heads, shape.head_dim
    query, key, value = turned_parts(qkv, cos, sin, shape)
    query = packing.pad(query.reshape(-1, kv, shape.heads // kv, dim)).permute(0, 2, 3, 1, 4)
    return (
        query.reshape(packing.rows * kv, -1, dim),
        packing.pad(key).transpose(1, 2).reshape(packing.rows * kv, -1, dim),
        packing.pad(value).transpose(1, 2).reshape(packing.rows * kv, -1, dim),
    )


def _scores(query: torch.Tensor, key: torch.Tensor, longest: int) -> torch.Tensor:
    """Softmax of the scaled products, each position seeing itself and what is before it in its row."""
    mask = query.new_full((longest, longest), float("-inf")).triu_(1).repeat(query.shape[1] // longest, 1)
    return torch.softmax(torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5), dim=-1)


def _merge_heads(x: torch.Tensor, packing: Packing, shape: LlamaShape) -> torch.Tensor:
    """(rows·kv, group·longest, dim) → (T, heads·dim)."""
    group = shape.heads // shape.kv_heads
    x = x.view(packing.rows, shape.kv_heads, group, packing.longest, shape.head_dim).permute(0, 3, 1, 2, 4)
    return packing.unpad(x).flatten(1)


def fused_attention(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing, shape: LlamaShape
) -> torch.Tensor:
    """``Attention`` by the device's fused kernel, which is the faster one on a GPU."""
    query, key, value = (packing.pad(part).transpose(1, 2) for part in turned_parts(qkv, cos, sin, shape))
    grouped = shape.heads != shape.kv_heads
    out = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    return packing.unpad(out.transpose(1, 2)).flatten(1)


class HeadLoss(torch.autograd.Function):
    """Sum of the cross-entropies of hidden states (N × width) against ``targets`` (N,), the head frozen.

    Logits exist for ``HEAD_CHUNK`` positions at a time; the gradient is found on the way, so none are kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        grad = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(hidden), HEAD_CHUNK):
            part, target = hidden[start : start + HEAD_CHUNK], targets[start : start + HEAD_CHUNK, None]
            log_p = torch.log_softmax((part @ head.t()).float(), dim=-1)
            total -= log_p.gather(1, target).sum()
            if grad is not None:
                p = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
                grad[start : start + HEAD_CHUNK] = p.to(hidden.dtype) @ head
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * scale.to(grad.dtype), None, None


class Llama:
    """A frozen model of the Llama family with or without trained adapters."""

    def __init__(self, shape: LlamaShape, weights: Weights) -> None:
        self.shape = shape
        self.weights = weights
        self.adapters: Adapters | None = None
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._table = loading.rope_table(shape, min(shape.max_positions, 1024), self.device)

    def angles(self, positions: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine at ``positions``: (…, 1, head_dim) in the compute precision."""
        if longest > len(self._table[0]):
            self._table = loading.rope_table(self.shape, 2 * longest, self.device)
        cos, sin = (part[positions].to(self.dtype).unsqueeze(-2) for part in self._table)
        return cos, sin

    def linear(self, number: int, group: str, x: torch.Tensor, *, dropout: bool = False) -> torch.Tensor:
        """One group of linears of layer ``number``, with its adapter if there is one."""
        weight = self.weights.layers[number].weights[group]
        if self.adapters is None:
            return x @ weight.t()
        pair, config = self.adapters.pairs[number][group], self.adapters.config
        keep = None
        if dropout and config.dropout > 0:
            keep = torch.empty_like(x).bernoulli_(1 - config.dropout).div_(1 - config.dropout)
        return apply(LoraLinear, x, weight, pair, pair.a, pair.b, config.scale, keep)

    def attend(self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Attention over packed rows, in the way that is fast on this device."""
        if qkv.is_cuda:
            return fused_attention(qkv, cos, sin, packing, self.shape)
        return apply(Attention, qkv, cos, sin, packing, self.shape)

    def hidden(
        self,
        ids: torch.Tensor,
        lengths: tuple[int, ...],
        wanted: torch.Tensor,
        *,
        training: bool = False,
        seen: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Normed last hidden states (N × width) at the packed positions ``wanted`` (N,) of ``ids`` (T,).

        The last layer's MLP runs at those positions only. ``seen`` is given each layer's number, keys and values, the
        latter two padded to (rows, longest, kv heads, head_dim), for decoding from here on.
        """
        packing = Packing(lengths, self.device)
        cos, sin = self.angles(packing.positions, packing.longest)
        x = self.weights.embedding[ids]
        for number, layer in enumerate(self.weights.layers):
            normed = apply(RmsNorm, x, layer.input_norm, self.shape.eps)
            qkv = self.linear(number, "qkv", normed, dropout=training)
            mixed = self.attend(qkv, cos, sin, packing)
            if seen is not None:
                _, key, value = turned_parts(qkv, cos, sin, self.shape)
                seen(number, packing.pad(key), packing.pad(value))
            if number == self.shape.layers - 1:
                x, mixed = x[wanted], mixed[wanted]
            x = x + self.linear(number, "o", mixed, dropout=training)
            normed = apply(RmsNorm, x, layer.post_norm, self.shape.eps)
            inner = apply(SwiGlu, self.linear(number, "gate_up", normed, dropout=training))
            x = x + self.linear(number, "down", inner, dropout=training)
        return apply(RmsNorm, x, self.weights.norm, self.shape.eps)

    def loss(
        self, ids: torch.Tensor, lengths: tuple[int, ...], at: torch.Tensor, targets: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        """Sum of the cross-entropies of ``targets`` (N,) predicted at the packed positions ``at`` (N,); float32."""
        hidden = self.hidden(ids, lengths, at, training=training)
        return apply(HeadLoss, hidden, self.weights.head, targets)
