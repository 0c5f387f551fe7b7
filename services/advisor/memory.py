"""How much memory a training run needs, part by part, from the model's dimensions. All in bytes.

The parts follow what the two ways of computing keep: our own path for the Llama family (``services.runtime.llama``),
and transformers with PEFT for everything else, which keeps more. ``docs/costs.md`` sets estimates beside real runs.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.advisor.shapes import Shape

Method = Literal["lora", "rslora", "dora", "qlora", "full"]
Place = Literal["cpu", "gpu"]

UNSURE = 1.3  # by which factor an estimate may be wrong: measured ones were within it
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_NF4 = 0.5 + 0.127 / 8  # bytes a parameter in 4 bit with doubly quantised constants (Dettmers et al. 2023)
_PROCESS = {"own": 420e6, "general": 720e6}  # a process with torch, and with transformers and PEFT, before any model
_CPU_MORE = 1.35  # of the activations: attention's padded views, what malloc keeps; from two real runs (docs/costs.md)
_HEAD_CHUNK = 512  # labelled positions whose logits exist at once on a CPU
_HEAD_NUMBERS = 1 << 27  # logits at once on a GPU


class Plan(msgspec.Struct, frozen=True):
    """What is computed: ``tokens`` at once in rows of about ``row_tokens``, ``labels`` of them predicted."""

    method: Method
    dtype: Literal["bf16", "fp16", "fp32"]
    rank: int
    tokens: int
    row_tokens: int
    labels: int
    checkpointing: bool = False
    head_labels: int = 0  # classes of a classification head, 0: answers are written


class Memory(msgspec.Struct, frozen=True):
    """Bytes by part. ``process`` and ``checkpoint`` (copies of what is written) count on a CPU only: a GPU's context is
    no part of its usable memory."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    checkpoint: int
    process: int

    @property
    def total(self) -> int:
        """All parts together."""
        return (
            self.weights + self.adapter + self.gradients + self.optimizer
            + self.activations + self.logits + self.checkpoint + self.process
        )  # fmt: skip


def estimate(shape: Shape, plan: Plan, place: Place) -> Memory:
    """The memory at the peak of a step."""
    own = shape.own and plan.method in ("lora", "rslora")
    number = _BYTES[plan.dtype]
    trained = trained_parameters(shape, plan)
    full = plan.method == "full"
    return Memory(
        weights=_weights(shape, plan, number, place),
        adapter=0 if full else int(trained * (4 + (number if own and number < 4 else 0))),
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=int(_activations(shape, plan, own, number) * (_CPU_MORE if place == "cpu" else 1)),
        logits=_logits(shape, plan, number, place),
        checkpoint=12 * trained if place == "cpu" else 0,
        process=int(_PROCESS["own" if own else "general"]) if place == "cpu" else 0,
    )


def trained_parameters(shape: Shape, plan: Plan) -> int:
    """How many parameters the optimizer changes."""
    head = plan.head_labels * (shape.width + 1)
    if plan.method == "full":
        return shape.parameters + head
    return shape.adapter_parameters(plan.rank, dora=plan.method == "dora") + head


def _weights(shape: Shape, plan: Plan, number: int, place: Place) -> int:
    if plan.method == "full":  # kept in fp32; autocast holds a copy of the matrices in the lower precision
        copies = 4 * shape.parameters
        return copies + (number * shape.linear_parameters if number < 4 else 0)
    if plan.method == "qlora":
        return int(_NF4 * shape.linear_parameters + number * (shape.parameters - shape.linear_parameters))
    return number * shape.parameters


def _activations(shape: Shape, plan: Plan, own: bool, number: int) -> int:
    """What the forward pass keeps for the backward pass, and what one layer needs on top while it is computed."""
    heads, keys = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    w, inner = shape.width, shape.inner
    ranks = 3 * plan.rank + plan.rank + 2 * plan.rank + plan.rank
    if own:  # x, qkv turned, attention's output, x again, gate and up, the adapters' low-rank products
        kept = number * (2 * w + 2 * (heads + keys) + heads + 2 * inner + ranks)
        working = number * (4 * inner + 3 * w + heads + keys)
    else:  # norms in fp32, each linear's input in fp32 for its adapter, gate, up, activation and product
        kept = number * (6 * w + 3 * (heads + keys) + heads + 4 * inner) + 4 * 4 * w
        if plan.method != "full":
            kept += 4 * (5 * w + heads + inner + ranks)
        working = number * (4 * inner + 4 * w) + 4 * 2 * w
        if plan.method == "dora":  # the magnitude's path: the base's output once more for each linear
            kept += number * (2 * (heads + keys + w) + 3 * inner)
    layers = number * w * shape.layers + kept if plan.checkpointing else kept * shape.layers
    per_token = layers + working
    one = 0
    if plan.method == "qlora" and shape.linears:
        one = max(i * o for i, o in shape.linears) * number  # a matrix is unpacked to be used
    if plan.method == "dora" and shape.linears:
        one = 2 * max(i * o for i, o in shape.linears) * number  # its norm needs base and product of the adapter
    return int(per_token * plan.tokens) + one


def _logits(shape: Shape, plan: Plan, number: int, place: Place) -> int:
    """A portion of logits, in the compute precision and in fp32 with their gradient."""
    if not shape.vocab or plan.head_labels:
        return 0
    most = _HEAD_CHUNK if place == "cpu" else max(256, _HEAD_NUMBERS // shape.vocab)
    rows = min(plan.labels, most)
    return rows * shape.vocab * (2 * number + 4)


def flops_per_token(shape: Shape, plan: Plan) -> float:
    """Operations for a token: 4 for each parameter it passes with a frozen base, 6 if all is trained, 2 more if layers
    are computed again. The embedding is looked up, not multiplied; the output head runs where a label is."""
    share = min(plan.labels / plan.tokens, 1.0) if plan.tokens else 1.0
    head = shape.width * (shape.vocab if not plan.head_labels else plan.head_labels) * share
    each = (6 if plan.method == "full" else 4) + (2 if plan.checkpointing else 0)
    return each * (shape.linear_parameters + head)
