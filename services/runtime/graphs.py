"""Training steps recorded once as CUDA graphs and replayed: on short rows, starting kernels takes longer than they do.

A recorded step has fixed shapes, so a batch is filled up to the next recorded size: with rows of tokens that carry no
label, rows without tokens, and labels that count nothing. Sizes grow in coarse steps, so that few graphs serve a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.runtime import batches
from services.runtime.attention import LONG, Packing
from services.runtime.batches import Example
from services.runtime.llama import Llama

LEAST = 1024  # sizes are multiples of this, large ones of more; rows and their length are powers of two
TOKEN_STEPS, LABEL_STEPS = 16, 4  # sizes between two powers of two: what is filled up with tokens costs more
MOST_TOKENS = 65_536  # beyond, the kernels take longer than their start
MOST_GRAPHS = 12  # each keeps its inputs; the memory of what is in between is shared


def worthwhile(examples: Sequence[Example], dropout: float) -> bool:
    """Whether a batch gains from a graph: short rows, not too many, no random numbers in between."""
    return (
        dropout == 0
        and max(example.tokens for example in examples) <= LONG
        and sum(example.tokens for example in examples) <= MOST_TOKENS
    )


def _up(number: int, steps: int) -> int:
    """The next size that ``number`` fits into."""
    step = max(LEAST, (1 << (number - 1).bit_length()) // 2 // steps)
    return -(-number // step) * step


def _doubled(number: int, least: int) -> int:
    """The first of ``least`` · 1, 2, 4, … that is not smaller."""
    return least << max(0, (-(-number // least) - 1).bit_length())


@dataclass(frozen=True)
class Size:
    """What a recorded step is made for."""

    tokens: int
    labels: int
    rows: int
    longest: int
    everywhere: bool


@dataclass
class Recorded:
    """A graph, its inputs, and where it leaves the sum of the cross-entropies. ``packing`` owns memory it reads."""

    graph: torch.cuda.CUDAGraph
    packing: Packing
    inputs: list[torch.Tensor]
    loss: torch.Tensor


def _filled(values: torch.Tensor, size: int, value: int) -> torch.Tensor:
    whole = torch.full((size,), value)
    whole[: len(values)] = values
    return whole


def fill(examples: Sequence[Example], share: float) -> tuple[Size, Packing, list[torch.Tensor]]:
    """A batch filled up to the next size, and its tensors in ``compute``'s order, all still on the CPU."""
    ids, at, targets = batches.packed(examples)
    everywhere = len(at) == len(ids)
    lengths = [len(example.ids) - 1 for example in examples]
    longest = _doubled(max(lengths), 128)
    tokens = _up(len(ids), TOKEN_STEPS)
    labels = tokens if everywhere else _up(len(at), LABEL_STEPS)
    spare = tokens - len(ids)
    lengths += [longest] * (spare // longest) + [spare % longest] * (spare % longest > 0)
    rows = _doubled(len(lengths), 64)
    lengths += [0] * (rows - len(lengths))
    packing = Packing(tuple(lengths), torch.device("cpu"), longest)
    packing.full = packing.dense = False  # the same for all batches of a size
    packing.everywhere = everywhere
    filled = [_filled(ids, tokens, 0), _filled(at, labels, 0), _filled(targets, labels, -1)]
    inputs = [*filled, torch.tensor(share), packing.positions, packing.index, packing.bounds]
    return Size(tokens, labels, rows, longest, everywhere), packing, inputs


def compute(model: Llama, packing: Packing, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Add the gradient of a filled batch to the adapters'; the sum of its cross-entropies."""
    ids, at, targets, share, packing.positions, packing.index, packing.bounds = inputs
    loss = model.loss(ids, packing, at, targets, training=True)
    (loss * share).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


class Graphs:
    """The recorded steps of one model."""

    def __init__(self, model: Llama) -> None:
        self.model = model
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[Size] = set()
        self._recorded: dict[Size, Recorded] = {}

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """Add the gradient of ``share`` · the sum of the cross-entropies to the adapters'; that sum.

        A size is computed directly when it comes for the first time (which compiles what must be), recorded the second.
        """
        size, packing, inputs = fill(examples, share)
        recorded = self._recorded.get(size)
        if recorded is None:
            if size not in self._seen or len(self._recorded) >= MOST_GRAPHS:
                self._seen.add(size)
                return compute(self.model, packing, self._placed(inputs))
            recorded = self._recorded[size] = self._record(packing, self._placed(inputs))
        for place, value in zip(recorded.inputs, inputs, strict=True):
            place.copy_(value)
        recorded.graph.replay()
        return recorded.loss.clone()

    def _placed(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [value.to(self.model.device) for value in inputs]

    def _record(self, packing: Packing, inputs: list[torch.Tensor]) -> Recorded:
        assert self.model.adapters is not None and self.model.adapters.flat.grad is not None
        kept = self.model.adapters.flat.grad.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            compute(self.model, packing, inputs)  # the libraries' own first-time work must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        self.model.adapters.flat.grad.copy_(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss = compute(self.model, packing, inputs)
        return Recorded(graph, packing, inputs, loss)
