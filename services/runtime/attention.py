"""Attention over packed rows that never see each other, in the way that is fast on the device.

On a CPU: batched products over a padded view, which on short rows is ten times as fast as the fused kernel. On a GPU
with flash attention: our own kernel for short rows, where Triton is; its variable-length kernel on the packed rows
themselves, or cuDNN's kernel where all rows are equally long. On other GPUs: torch's fused kernel over the padded view.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from services.runtime import pointwise
from services.runtime.loading import LlamaShape
from services.runtime.lora import apply

KEEP_SCORES = 128  # up to this row length the attention weights are kept for the backward pass, beyond recomputed
SHORT = 128  # up to this row length our own kernel is faster than flash attention
LONG = 512  # rows of one length from here on go to the dense kernels


class Packing:
    """Where packed tokens lie in the padded view. ``lengths``: the rows' token counts, in order; T their sum.

    ``longest`` may be given larger than it is, so that batches of slightly different rows have the same shapes.
    """

    def __init__(self, lengths: tuple[int, ...], device: torch.device, longest: int = 0) -> None:
        self.rows = len(lengths)
        self.longest = max(longest, *lengths)
        counts = np.array(lengths)  # numpy: these are small, and torch would wake its threads for each
        starts = np.cumsum(counts) - counts
        positions = np.arange(sum(lengths)) - np.repeat(starts, counts)
        index = np.repeat(np.arange(self.rows) * self.longest, counts) + positions
        bounds = np.append(starts, sum(lengths)).astype(np.int32)
        placed = (torch.from_numpy(array).to(device) for array in (positions, index, starts + counts - 1, bounds))
        self.positions, self.index, self.ends, self.bounds = placed
        self.full = min(lengths) == self.longest
        self.dense = self.full and self.longest >= LONG
        self.everywhere = False  # every position is labelled, in order
        self._mask: torch.Tensor | None = None

    def mask(self, like: torch.Tensor) -> torch.Tensor:
        """What to add to the scores of ``like`` (…, group · longest, …): each position sees itself and before."""
        if self._mask is None:
            square = like.new_full((self.longest, self.longest), float("-inf")).triu_(1)
            self._mask = square.repeat(like.shape[1] // self.longest, 1)
        return self._mask

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
        weights = _scores(query, key, packing)
        out = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, weights if packing.longest <= KEEP_SCORES else None, cos, sin)
        ctx.packing, ctx.shape = packing, shape
        return _merge_heads(out, packing, shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, cos, sin = ctx.saved_tensors
        packing, shape = ctx.packing, ctx.shape
        if weights is None:
            weights = _scores(query, key, packing)
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


def _scores(query: torch.Tensor, key: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Softmax of the scaled products, each position seeing itself and what is before it in its row."""
    products = torch.baddbmm(packing.mask(query), query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    return torch.softmax(products, dim=-1)


def _merge_heads(x: torch.Tensor, packing: Packing, shape: LlamaShape) -> torch.Tensor:
    """(rows·kv, group·longest, dim) → (T, heads·dim)."""
    group = shape.heads // shape.kv_heads
    x = x.view(packing.rows, shape.kv_heads, group, packing.longest, shape.head_dim).permute(0, 3, 1, 2, 4)
    return packing.unpad(x).flatten(1)


class Rotated(torch.autograd.Function):
    """Rotated query and key, and value, of a fused product: three tensors (T, heads, head_dim)."""

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, shape: LlamaShape
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        parts: tuple[torch.Tensor, ...] = pointwise.split(qkv, cos, sin, shape.heads, shape.kv_heads)
        return parts

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return pointwise.join(*grads, *ctx.saved_tensors), None, None, None


class Flash(torch.autograd.Function):
    """Causal flash attention on packed rows, (T, heads, head_dim) each; key and value may have fewer heads."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing
    ) -> torch.Tensor:
        bounds, longest = packing.bounds, packing.longest
        out, sums, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, 0.0, True, False
        )
        ctx.save_for_backward(query, key, value, out, sums, seed, offset)
        ctx.packing = packing
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, sums, seed, offset = ctx.saved_tensors
        bounds, longest = ctx.packing.bounds, ctx.packing.longest
        grads = torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, sums, bounds, bounds, longest, longest, 0.0, True, seed, offset
        )
        return *grads, None


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether flash attention's kernels run there: half precision on NVIDIA's Ampere or later."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def attend(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing, shape: LlamaShape
) -> torch.Tensor:
    """Causal grouped-query attention of packed rows: (T × (heads + 2·kv)·head_dim) → (T × heads·head_dim)."""
    if qkv.device.type == "cpu":
        return cast(torch.Tensor, apply(Attention, qkv, cos, sin, packing, shape))
    packed = has_flash(qkv.device, qkv.dtype) and not packing.dense
    if packed and pointwise.kernels is not None and packing.longest <= SHORT and shape.head_dim in (32, 64, 128):
        short_rows = pointwise.kernels.ShortRows
        return cast(torch.Tensor, apply(short_rows, qkv, cos, sin, packing.positions, packing.longest, shape))
    query, key, value = apply(Rotated, qkv, cos, sin, shape)
    if packed:
        return cast(torch.Tensor, apply(Flash, query, key, value, packing)).flatten(1)
    query, key, value = (packing.pad(part).transpose(1, 2) for part in (query, key, value))
    with sdpa_kernel(_KERNELS, set_priority=True):
        grouped = shape.heads != shape.kv_heads
        out = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    return packing.unpad(out.transpose(1, 2)).flatten(1)


_KERNELS = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip
