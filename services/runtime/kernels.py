"""Triton kernels for NVIDIA GPUs: attention over short packed rows, and SwiGLU.

Flash attention starts from tiles of 128 positions of one row: on rows of 25 tokens, most of its work is on nothing.
Here a tile is 16 neighbouring packed positions, whatever rows they belong to; a position sees those of its own row
alone. Rotary embedding happens on the way, so neither rotated nor separated queries and keys are written to memory.
No sum depends on the order in which tiles are done: the same input gives the same bits.

The method is FlashAttention-2's (Dao 2023), without the sharing of tiles among rows.
"""

# Triton reads the types of its functions from their arguments at run time.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from services.runtime.loading import LlamaShape

BLOCK = 16  # the fastest of 16, 32, 64 for rows of 15 to 50 tokens on an H100
LAUNCH = {"num_warps": 1, "num_stages": 2}
NOTHING = tl.constexpr(-1.0e30)  # finite, so that a row without a key in a tile makes no NaN
LOG2_E = 1.4426950408889634


@triton.jit
def _row(positions, at, known):
    """The packed position where the row of each position begins."""
    return at - tl.load(positions + at, mask=known, other=0).to(tl.int32)


@triton.jit
def _turned(parts, cos, sin, at, known, width, HALF: tl.constexpr):
    """Both halves of the rotated vectors at ``at``; the tables (T × 2·HALF) repeat their first half."""
    column = tl.arange(0, HALF)
    mask = known[:, None]
    place = parts + at[:, None] * width + column[None, :]
    first, second = tl.load(place, mask=mask, other=0.0), tl.load(place + HALF, mask=mask, other=0.0)
    angle = at[:, None] * (2 * HALF) + column[None, :]
    c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    turned_first, turned_second = first * c - second * s, second * c + first * s
    return turned_first.to(parts.dtype.element_ty), turned_second.to(parts.dtype.element_ty)


@triton.jit
def _turn_back(first, second, target, cos, sin, at, known, width, HALF: tl.constexpr):
    """Write the gradient of what ``_turned`` was given from that of what it returned (float32)."""
    column = tl.arange(0, HALF)
    mask = known[:, None]
    angle = at[:, None] * (2 * HALF) + column[None, :]
    c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    place = target + at[:, None] * width + column[None, :]
    tl.store(place, first * c + second * s, mask=mask)
    tl.store(place + HALF, second * c - first * s, mask=mask)


@triton.jit
def _keys(head, cos, sin, k, known, width, KV: tl.constexpr, DIM: tl.constexpr):
    """Both halves of the rotated keys at ``k`` of the head whose keys begin at ``head``, and their values."""
    HALF: tl.constexpr = DIM // 2
    first, second = _turned(head, cos, sin, k, known, width, HALF)
    place = head + KV * DIM + k[:, None] * width + tl.arange(0, DIM)[None, :]
    return first, second, tl.load(place, mask=known[:, None], other=0.0)


@triton.jit
def _forward(
    qkv, cos, sin, positions, out, sums, tokens, scale,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = DIM // 2
    width: tl.constexpr = (HEADS + 2 * KV) * DIM
    tile, head = tl.program_id(0), tl.program_id(1)
    key_at = (HEADS + head // (HEADS // KV)) * DIM
    q, column = tile * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DIM)
    q_known = q < tokens
    q_row = _row(positions, q, q_known)
    q1, q2 = _turned(qkv + head * DIM, cos, sin, q, q_known, width, HALF)
    highest = tl.full([BLOCK], NOTHING, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, DIM], tl.float32)
    start = tile * BLOCK - tl.load(positions + tile * BLOCK).to(tl.int32)
    for k0 in range(start // BLOCK * BLOCK, tile * BLOCK + BLOCK, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        k1, k2, value = _keys(qkv + key_at, cos, sin, k, k < tokens, width, KV, DIM)
        seen = (q_row[:, None] == _row(positions, k, k < tokens)[None, :]) & (k[None, :] <= q[:, None])
        scores = tl.where(seen, (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale, NOTHING)
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
        fade = tl.exp2(highest - higher)
        total = total * fade + tl.sum(weights, 1)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(value.dtype), value)
        highest = higher
    place = out + q[:, None] * (HEADS * DIM) + head * DIM + column[None, :]
    tl.store(place, mixed / total[:, None], mask=q_known[:, None])
    tl.store(sums + head * tokens + q, highest + tl.log2(total), mask=q_known)


@triton.jit
def _backward_query(
    qkv, cos, sin, positions, out, sums, grad, deltas, result, tokens, scale, factor,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = DIM // 2
    width: tl.constexpr = (HEADS + 2 * KV) * DIM
    tile, head = tl.program_id(0), tl.program_id(1)
    key_at = (HEADS + head // (HEADS // KV)) * DIM
    q, column = tile * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DIM)
    q_known = q < tokens
    q_row = _row(positions, q, q_known)
    q1, q2 = _turned(qkv + head * DIM, cos, sin, q, q_known, width, HALF)
    own = q[:, None] * (HEADS * DIM) + head * DIM + column[None, :]
    slope = tl.load(grad + own, mask=q_known[:, None], other=0.0)
    mixed = tl.load(out + own, mask=q_known[:, None], other=0.0)
    delta = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
    tl.store(deltas + head * tokens + q, delta, mask=q_known)
    total = tl.load(sums + head * tokens + q, mask=q_known, other=0.0)
    grad1, grad2 = tl.zeros([BLOCK, HALF], tl.float32), tl.zeros([BLOCK, HALF], tl.float32)
    start = tile * BLOCK - tl.load(positions + tile * BLOCK).to(tl.int32)
    for k0 in range(start // BLOCK * BLOCK, tile * BLOCK + BLOCK, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        k1, k2, value = _keys(qkv + key_at, cos, sin, k, k < tokens, width, KV, DIM)
        seen = (q_row[:, None] == _row(positions, k, k < tokens)[None, :]) & (k[None, :] <= q[:, None])
        scores = (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale
        weights = tl.where(seen, tl.exp2(scores - total[:, None]), 0.0)
        change = (weights * (tl.dot(slope, tl.trans(value)) - delta[:, None])).to(k1.dtype)
        grad1 += tl.dot(change, k1)
        grad2 += tl.dot(change, k2)
    _turn_back(grad1 * factor, grad2 * factor, result + head * DIM, cos, sin, q, q_known, width, HALF)


@triton.jit
def _backward_key(
    qkv, cos, sin, positions, sums, grad, deltas, result, tokens, longest, scale, factor,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = DIM // 2
    GROUP: tl.constexpr = HEADS // KV
    width: tl.constexpr = (HEADS + 2 * KV) * DIM
    tile, kv = tl.program_id(0), tl.program_id(1)
    key_at = (HEADS + kv) * DIM
    k, column = tile * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DIM)
    k_known = k < tokens
    k_row = _row(positions, k, k_known)
    k1, k2, value = _keys(qkv + key_at, cos, sin, k, k_known, width, KV, DIM)
    grad1, grad2 = tl.zeros([BLOCK, HALF], tl.float32), tl.zeros([BLOCK, HALF], tl.float32)
    grad_value = tl.zeros([BLOCK, DIM], tl.float32)
    end = tile * BLOCK + BLOCK
    for q0 in range(tile * BLOCK, tl.minimum(tokens, end + longest), BLOCK):
        if q0 - tl.load(positions + q0).to(tl.int32) < end:  # the first row of these began before the keys' end
            q = q0 + tl.arange(0, BLOCK)
            q_known = q < tokens
            seen = (_row(positions, q, q_known)[:, None] == k_row[None, :]) & (k[None, :] <= q[:, None])
            seen = seen & q_known[:, None]
            for member in tl.static_range(GROUP):
                head = kv * GROUP + member
                q1, q2 = _turned(qkv + head * DIM, cos, sin, q, q_known, width, HALF)
                place = grad + q[:, None] * (HEADS * DIM) + head * DIM + column[None, :]
                slope = tl.load(place, mask=q_known[:, None], other=0.0)
                total = tl.load(sums + head * tokens + q, mask=q_known, other=0.0)
                delta = tl.load(deltas + head * tokens + q, mask=q_known, other=0.0)
                scores = (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale
                weights = tl.where(seen, tl.exp2(scores - total[:, None]), 0.0)
                grad_value += tl.dot(tl.trans(weights.to(slope.dtype)), slope)
                change = (weights * (tl.dot(slope, tl.trans(value)) - delta[:, None])).to(q1.dtype)
                grad1 += tl.dot(tl.trans(change), q1)
                grad2 += tl.dot(tl.trans(change), q2)
    _turn_back(grad1 * factor, grad2 * factor, result + key_at, cos, sin, k, k_known, width, HALF)
    place = result + key_at + KV * DIM + k[:, None] * width + column[None, :]
    tl.store(place, grad_value, mask=k_known[:, None])


class ShortRows(torch.autograd.Function):
    """Causal grouped-query attention of packed rows: (T × (heads + 2·kv)·head_dim) → (T × heads·head_dim).

    ``positions`` (T,) count from 0 in each row, ``longest`` is no smaller than any row, ``cos`` and ``sin`` are
    (T, 1, head_dim) with repeated halves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor,
        longest: int,
        shape: LlamaShape,
    ) -> torch.Tensor:
        tokens, sizes = len(qkv), (shape.heads, shape.kv_heads, shape.head_dim, BLOCK)
        out = qkv.new_empty(tokens, shape.heads * shape.head_dim)
        sums = qkv.new_empty(shape.heads, tokens, dtype=torch.float32)
        scale = shape.head_dim**-0.5 * LOG2_E
        grid = triton.cdiv(tokens, BLOCK), shape.heads
        _forward[grid](qkv, cos, sin, positions, out, sums, tokens, scale, *sizes, **LAUNCH)
        ctx.save_for_backward(qkv, cos, sin, positions, out, sums)
        ctx.longest, ctx.shape = longest, shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, cos, sin, positions, out, sums = ctx.saved_tensors
        shape: LlamaShape = ctx.shape
        tokens, sizes = len(qkv), (shape.heads, shape.kv_heads, shape.head_dim, BLOCK)
        factor = shape.head_dim**-0.5
        scale, tiles = factor * LOG2_E, triton.cdiv(tokens, BLOCK)
        grad, result, deltas = grad.contiguous(), torch.empty_like(qkv), torch.empty_like(sums)
        angles = qkv, cos, sin, positions
        _backward_query[tiles, shape.heads](
            *angles, out, sums, grad, deltas, result, tokens, scale, factor, *sizes, **LAUNCH
        )  # fmt: skip
        _backward_key[tiles, shape.kv_heads](
            *angles, sums, grad, deltas, result, tokens, ctx.longest, scale, factor, *sizes, **LAUNCH
        )  # fmt: skip
        return result, None, None, None, None, None


@triton.jit
def _silu_up(both, inner, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = column < width
    pair = token * (2 * width) + column
    gate = tl.load(both + pair, mask=known, other=0.0).to(tl.float32)
    up = tl.load(both + pair + width, mask=known, other=0.0).to(tl.float32)
    tl.store(inner + token * width + column, gate / (1 + tl.exp(-gate)) * up, mask=known)


def swiglu(both: torch.Tensor) -> torch.Tensor:
    """As ``pointwise.swiglu``: silu(gate) · up of (tokens × 2·inner), gate first."""
    tokens, width = len(both), both.shape[1] // 2
    inner = both.new_empty(tokens, width)
    _silu_up[tokens, triton.cdiv(width, 1024)](both, inner, width, 1024)
    return inner


@triton.jit
def _swiglu_slopes(grad, both, result, inner, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = column < width
    own, pair = token * width + column, token * (2 * width) + column
    slope = tl.load(grad + own, mask=known, other=0.0).to(tl.float32)
    gate = tl.load(both + pair, mask=known, other=0.0).to(tl.float32)
    up = tl.load(both + pair + width, mask=known, other=0.0).to(tl.float32)
    sigmoid = 1 / (1 + tl.exp(-gate))
    silu = gate * sigmoid
    tl.store(result + pair, slope * up * sigmoid * (1 + gate * (1 - sigmoid)), mask=known)
    tl.store(result + pair + width, slope * silu, mask=known)
    tl.store(inner + own, silu * up, mask=known)


def swiglu_backward(grad: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``pointwise.swiglu_backward``: gradient of (tokens × 2·inner), and silu(gate) · up once more; one pass."""
    tokens, width = grad.shape
    result, inner = torch.empty_like(both), torch.empty_like(grad)
    _swiglu_slopes[tokens, triton.cdiv(width, 1024)](grad, both, result, inner, width, 1024)
    return result, inner
