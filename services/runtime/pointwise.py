"""The parts of a layer that are no matrix products: norms, SwiGLU, rotation, softmax. Memory-bound, so fused.

Each is a plain function of tensors, right on every device. ``compile_all`` replaces them by kernels that torch.compile
makes of them: one pass over memory instead of five to ten. That takes a C++ compiler on a CPU and Triton on a GPU;
without one the plain functions stay. The number of tokens is marked as varying, so that every batch, and every attempt
of a run, is computed by the same kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]


class Fused:
    """A function of tensors whose first argument's first dimension is the number of tokens.

    ``source`` is what gets compiled, where that is better written otherwise than what runs fast uncompiled.
    """

    def __init__(self, plain: Callable[..., Any], source: Callable[..., Any] | None = None) -> None:
        self.plain = self.run = plain
        self.source = source or plain

    def __call__(self, first: torch.Tensor, *rest: Any) -> Any:
        if self.run is not self.plain:
            for tensor in (first, *rest):
                if isinstance(tensor, torch.Tensor) and len(tensor) == len(first):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self.run(first, *rest)


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Tensors:
    """x / rms(x) · weight over the last dimension, and 1 / rms(x) (tokens × 1, float32)."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * inverse).to(x.dtype) * weight, inverse


def _rms_again(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``rms`` once more from what it returned."""
    return (x.float() * inverse).to(x.dtype) * weight


def _rms_backward(grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    unit = x.float() * inverse
    wide = (grad * weight).float()
    mean = (wide * unit).mean(-1, keepdim=True)
    return wide.addcmul_(unit, mean, value=-1).mul_(inverse).to(x.dtype)


def _swiglu(both: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up of (tokens × 2·inner), gate first."""
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _swiglu_backward(grad: torch.Tensor, both: torch.Tensor) -> Tensors:
    """Gradient of (tokens × 2·inner), and ``swiglu`` once more."""
    gate, up = both.chunk(2, dim=-1)
    silu = torch.nn.functional.silu(gate)
    result = torch.empty_like(both)
    grad_gate, grad_up = result.chunk(2, dim=-1)
    torch.mul(grad, silu, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
    return result, silu.mul_(up)


def _swiglu_backward_source(grad: torch.Tensor, both: torch.Tensor) -> Tensors:
    gate, up = both.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate.float())
    silu = gate * sigmoid
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    both_grad = torch.cat([grad * up * slope, grad * silu], dim=-1).to(grad.dtype)
    return both_grad, (silu * up).to(grad.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (tokens, heads, head_dim) by (tokens, 1, head_dim); ``-sin`` turns back."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _split(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv: int) -> Tensors:
    """Rotated query and key, plain value, each (tokens, its heads, head_dim), of (tokens × all heads · head_dim)."""
    parts = qkv.view(len(qkv), heads + 2 * kv, -1)
    turned = _rotate(parts[:, : heads + kv], cos, sin)
    return turned[:, :heads].contiguous(), turned[:, heads:].contiguous(), parts[:, heads + kv :].contiguous()


def _join(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """The gradient of ``split``'s input from those of what it returned."""
    turned = [_rotate(part, cos, -sin) for part in (query, key)]
    return torch.cat([*turned, value], dim=1).flatten(1)


def _surprise(logits: torch.Tensor, targets: torch.Tensor) -> Tensors:
    """Sum of the cross-entropies of (N × vocabulary) against (N, 1), and its gradient in the logits' precision.

    A target below zero is none: it counts nothing.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    real, targets = (targets >= 0).float(), targets.clamp(min=0)
    loss = -(log_p.gather(1, targets) * real).sum()
    slope = log_p.exp_().scatter_add_(1, targets, log_p.new_full(targets.shape, -1.0))
    return loss, slope.mul_(real).to(logits.dtype)


def _surprise_source(logits: torch.Tensor, targets: torch.Tensor) -> Tensors:
    log_p = torch.log_softmax(logits.float(), dim=-1)
    real = (targets >= 0).float()
    loss = -(log_p.gather(1, targets.clamp(min=0)) * real).sum()
    hit = torch.arange(logits.shape[1], device=logits.device) == targets
    return loss, ((log_p.exp() - hit.float()) * real).to(logits.dtype)


rms, rms_again, rms_backward = Fused(_rms), Fused(_rms_again), Fused(_rms_backward)
swiglu, swiglu_backward = Fused(_swiglu), Fused(_swiglu_backward, _swiglu_backward_source)
split, join, surprise = Fused(_split), Fused(_join), Fused(_surprise, _surprise_source)
ALL = (rms, rms_again, rms_backward, swiglu, swiglu_backward, split, join, surprise)
kernels: ModuleType | None = None  # services.runtime.kernels, from ``compile_all`` on where Triton works


def compile_all(device: torch.device) -> str:
    """Use compiled kernels from now on. Returns "" or, when there is no compiler, why the plain functions stay."""
    try:
        probe = Fused(_swiglu)
        probe.run = torch.compile(_swiglu)
        probe(torch.zeros(8, 16, device=device))
    except Exception as error:  # a missing compiler shows in many ways
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    for fused in ALL:
        fused.run = torch.compile(fused.source)
    if device.type == "cuda":  # torch.compile worked, so Triton is there
        from services.runtime import kernels as found

        global kernels
        kernels, swiglu.run, swiglu_backward.run = found, found.swiglu, found.swiglu_backward
    return ""


def compile_none() -> None:
    """Use the plain functions again."""
    global kernels
    kernels = None
    for fused in ALL:
        fused.run = fused.plain
