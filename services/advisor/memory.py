"""How much memory a training run needs, part by part, from the model's dimensions. All in bytes.

The parts follow what the two ways of computing keep: our own path for the Llama family (``services.runtime.llama``),
and transformers with PEFT for everything else, which keeps more. ``docs/costs.md`` sets estimates beside real runs.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.advisor.shapes import Shape

Method = Literal["lora", "rslora", "dora", "qlora", "full"]
Dtype = Literal["bf16", "fp16", "fp32"]
Place = Literal["cpu", "gpu"]

UNSURE = 1.3  # by which factor an estimate may be wrong: measured ones were within it
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_NF4 = 0.5 + 0.127 / 8  # bytes a parameter in 4 bit with doubly quantised constants (Dettmers et al. 2023)
_PROCESS = {"own": 300e6, "general": 450e6}  # torch, the data and a tokenizer; with transformers and PEFT
_COMPILED = 110e6  # torch's compiler beside it
_SPLITTING = (
    800e6  # on a CPU: torch's distributed parts, and what splitting and putting together leave; one run's figure
)
# In 16 bit on a CPU oneDNN keeps the code of every product's shape, up to 1,024, and what is kept so holds back what
# malloc would return. Own: so much for one size of a batch, growing with the fourth root of how many have come (12 to
# 256 measured), and two more copies of the output head, by what classes took less; general: so much once 100 have.
_PRODUCTS = {"own": 215e6, "general": 350e6}
_SIZES = {"own": 256, "general": 100}
_CPU_MORE = 1.35  # of the activations: what malloc keeps beside them; from real runs (docs/costs.md)
_KEPT_SCORES = 128  # up to this row length our own path keeps the attention's weights on a CPU
_FILL = 0.85  # of a GPU's memory that the trainer's weights may take before ``shard=auto`` splits them
_FULL_BYTES = 16  # a trained weight in fp32, its gradient and two moments
_HEAD_CHUNK = 512  # labelled positions whose logits exist at once on a CPU
_HEAD_NUMBERS = 1 << 27  # logits at once on a GPU


class Plan(msgspec.Struct, frozen=True):
    """What a process computes: ``tokens`` at once in rows of at most ``row_tokens``, ``labels`` of them predicted.

    ``positions`` are the tokens and what fills the shorter rows up (0: nothing does), ``pairs`` of them those that
    attention weighs (0: as if all rows were the longest). ``sizes`` of different batches come one after the other.
    ``processes`` share a run, and with ``split`` also the model.
    """

    method: Method
    dtype: Dtype
    rank: int
    tokens: int
    row_tokens: int
    labels: int
    checkpointing: bool = False
    head_labels: int = 0  # classes of a classification head, 0: answers are written
    positions: int = 0
    pairs: int = 0
    sizes: int = 100
    compiled: bool = False
    processes: int = 1
    split: bool = False


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
    """The memory at the peak of a process's step: that of one GPU, or of each process on a CPU."""
    own = is_own(shape, plan)
    number = _BYTES[plan.dtype]
    trained = trained_parameters(shape, plan)
    full, cpu = plan.method == "full", place == "cpu"
    part = plan.processes if plan.split and full else 1  # an adapter is not split, only its frozen base is
    kept, layer, one = _activations(shape, plan, own, number, place)
    logits = _logits(shape, plan, number, place)
    if plan.checkpointing:  # no layer is being computed while the logits are
        logits = max(0, logits - layer)
    return Memory(
        weights=_weights(shape, plan, own, number, place),
        adapter=0 if full else int(trained * (4 + (number if own and number < 4 else 0))),
        gradients=4 * trained // part,
        optimizer=8 * trained // part,
        activations=int((kept + layer) * (_CPU_MORE if cpu else 1)) + one,
        logits=logits,
        checkpoint=20 * trained if cpu else 0,  # the files' bytes, and the larger one's once more while it is made
        process=_process(shape, plan, own) if cpu else 0,
    )


def _process(shape: Shape, plan: Plan, own: bool) -> int:
    """Bytes of the trainer's process on a CPU that are neither the model's nor the batch's."""
    path = "own" if own else "general"
    compiled = _COMPILED if plan.compiled and own else 0
    products = 0.0
    if _BYTES[plan.dtype] < 4:
        share = min(plan.sizes, _SIZES[path])
        products = _PRODUCTS[path] * (share**0.25 if own else share / _SIZES[path])
        if own and not plan.head_labels:
            products += 2 * _BYTES[plan.dtype] * shape.vocab * shape.width
    return int(_PROCESS[path] + compiled + products + (_SPLITTING if plan.split else 0))


def is_own(shape: Shape, plan: Plan) -> bool:
    """Whether our own forward pass computes it, and not transformers and PEFT."""
    return shape.own and plan.method in ("lora", "rslora") and not plan.split


def obstacle(plan: Plan) -> str:
    """Why the model can't be split over the processes; "" when it can."""
    if plan.processes == 1:
        return "Sharding needs several processes"
    if plan.method == "qlora":
        return "A 4-bit base (method=qlora) can't be sharded"
    return "A model with a classification head can't be sharded" if plan.head_labels else ""


def split(plan: Plan, *, checkpointing: bool = True) -> Plan:
    """``plan`` with the model split over its processes."""
    return msgspec.structs.replace(plan, split=True, checkpointing=checkpointing)


def splits_itself(shape: Shape, plan: Plan, usable: int) -> bool:
    """Whether ``shard=auto`` splits the model on GPUs with so much to give. The trainer's rule: it counts weights."""
    if obstacle(plan):
        return False
    needed = shape.parameters * (_FULL_BYTES if plan.method == "full" else _BYTES[plan.dtype])
    return needed > usable * _FILL >= needed / plan.processes


def trained_parameters(shape: Shape, plan: Plan) -> int:
    """How many parameters the optimizer changes."""
    head = plan.head_labels * (shape.width + 1)
    if plan.method == "full":
        return shape.parameters + head
    return shape.adapter_parameters(plan.rank, dora=plan.method == "dora") + head


def _weights(shape: Shape, plan: Plan, own: bool, number: int, place: Place) -> int:
    if plan.split:
        read = number * shape.parameters if place == "cpu" else 0  # each process maps the whole file first
        return _split_weights(shape, plan, number) + read
    if plan.method == "full":  # kept in fp32; autocast holds a copy of the matrices in the lower precision
        copies = 4 * shape.parameters
        return copies + (number * shape.linear_parameters if number < 4 else 0)
    if plan.method == "qlora":
        return int(_NF4 * shape.linear_parameters + number * (shape.parameters - shape.linear_parameters))
    mapped = own and place == "cpu" and shape.stored_bytes == number * shape.parameters
    if mapped:  # the file stays mapped for the embedding, beside the matrices that were put together
        return number * (shape.parameters + shape.linear_parameters)
    return number * shape.parameters


def _split_weights(shape: Shape, plan: Plan, number: int) -> int:
    """A process's part, and what is put together at once: the embedding, a layer and the next one."""
    held = 4 if plan.method == "full" else number
    gathered = shape.embedding + 2 * shape.linear_parameters // max(shape.layers, 1)
    return held * shape.parameters // plan.processes + number * gathered


def _activations(shape: Shape, plan: Plan, own: bool, number: int, place: Place) -> tuple[int, int, int]:
    """What the forward pass keeps for the backward pass, what a layer needs on top, and for one matrix alone."""
    kept, working = (_own if own else _general)(shape, plan, number, place)
    positions = plan.tokens if own else max(plan.positions, plan.tokens)
    if plan.checkpointing:  # what a layer keeps shrinks while its gradients grow
        return number * shape.width * shape.layers * positions, kept + (working if own else 0), 0
    one = 0
    if plan.method == "qlora" and shape.linears:
        one = max(i * o for i, o in shape.linears) * number  # a matrix is unpacked to be used
    if plan.method == "dora" and shape.linears:
        one = 2 * max(i * o for i, o in shape.linears) * number  # its norm needs base and product of the adapter
    return kept * shape.layers, working, one


def _own(shape: Shape, plan: Plan, number: int, place: Place) -> tuple[int, int]:
    """Bytes that our own path keeps of a layer, and that it works with."""
    heads, keys, w, inner = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim, shape.width, shape.inner
    # the norms' inputs, attention's output, gate and up, the adapters' low-rank products; then query, key and value
    kept = plan.tokens * (2 * w + heads + 2 * inner + 7 * plan.rank)
    positions = plan.tokens
    if place == "cpu":
        positions = max(plan.positions, plan.tokens)
        if plan.row_tokens <= _KEPT_SCORES:
            kept += shape.heads * _pairs(plan)
    kept += positions * (heads + keys)
    return number * kept, number * plan.tokens * (4 * inner + 3 * w + heads + keys)


def _general(shape: Shape, plan: Plan, number: int, place: Place) -> tuple[int, int]:
    """Bytes that transformers and PEFT keep of a layer, and work with: of all positions, filled up or not."""
    heads, keys, w, inner = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim, shape.width, shape.inner
    # norms in fp32, each linear's input in fp32 for its adapter (in fp32 no copy), gate, up, activation and product
    kept = number * (6 * w + 3 * (heads + keys) + heads + 4 * inner) + 4 * 4 * w
    weighed = 0
    if plan.method != "full":
        kept += 4 * (7 * plan.rank + (5 * w + heads + inner if number < 4 else 0))
    if plan.method == "dora":  # the magnitude's path: the base's output once more for each linear
        kept += number * (2 * (heads + keys + w) + 3 * inner)
    if shape.encoder and place == "cpu":  # with dropout the attention's weights are kept: before it, after, and which
        weighed = number * 3 * shape.heads * _pairs(plan)
    positions = max(plan.positions, plan.tokens)
    return positions * kept + weighed, positions * (number * (4 * inner + 4 * w) + 4 * 2 * w)


def _pairs(plan: Plan) -> int:
    return plan.pairs or max(plan.positions, plan.tokens) * plan.row_tokens


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
