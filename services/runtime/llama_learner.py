"""The Llama family as a ``Learner``: our own packed forward pass, adapters in one flat vector, batched decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from services.errors import BadInput
from services.runtime import adapters, batches, graphs, loading, lora, pointwise
from services.runtime.attention import Packing, rotate
from services.runtime.batches import Example
from services.runtime.llama import Llama, arrange
from services.runtime.loading import LlamaShape
from services.runtime.lora import Adapters, LoraConfig

ROOM = 32  # positions by which a scorer's key-value buffers grow


class LlamaLearner:
    """See ``Learner``."""

    def __init__(self, folder: Path, shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> None:
        """Reads the weights. Raises BadInput or HybridError when some are missing or damaged."""
        self.folder, self.device, self.dtype, self.shape = folder, device, dtype, shape
        try:
            self.model = Llama(shape, arrange(loading.read_weights(folder, dtype, device), shape))
        except KeyError as error:
            raise BadInput(f"The weights in {folder} lack {error}.", hint="Fetch the model again.") from None
        self._graphs: graphs.Graphs | None = None
        self.own, self.saving = True, False
        matrices = (w for layer in self.model.weights.layers for w in layer.weights.values())
        self.size = sum(w.numel() for w in matrices) + self.model.weights.embedding.numel()

    def attach(self, config: LoraConfig, seed: int) -> None:
        """See ``Learner.attach``."""
        fresh = Adapters(self.shape, config, self.dtype, self.device)
        fresh.initialise(seed)
        self.model.adapters = fresh
        self._graphs = graphs.Graphs(self.model) if self.device.type == "cuda" else None

    def attach_from(self, folder: Path | None) -> None:
        """See ``Learner.attach_from``."""
        self.model.adapters = None
        if folder is None:
            return
        pairs = adapters.read_pairs(folder, adapters.read_adapter_config(folder))
        rank = max(len(pair.a) for pair in pairs.values())
        loaded = Adapters(self.shape, LoraConfig(rank, float(rank)), self.dtype, self.device)
        tensors = {}
        for path, pair in pairs.items():  # the scale goes into B, smaller ranks are filled with zeros
            name, spare = f"{lora.PREFIX}{path}", rank - len(pair.a)
            tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(pair.a, (0, 0, 0, spare))
            tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(pair.b * pair.scale, (0, spare))
        loaded.load(tensors)
        self.model.adapters = loaded

    @property
    def _adapters(self) -> Adapters:
        assert self.model.adapters is not None, "attach an adapter first"
        return self.model.adapters

    def parameters(self) -> list[torch.nn.Parameter]:
        """See ``Learner.parameters``."""
        return [self._adapters.flat]

    def loss(self, examples: Sequence[Example], *, training: bool) -> torch.Tensor:
        """See ``Learner.loss``. The last token of a row predicts nothing, so it is not read."""
        ids, at, targets = (values.to(self.device) for values in batches.packed(examples))
        packing = Packing(tuple(example.tokens - 1 for example in examples), self.device)
        packing.everywhere = len(at) == len(ids)
        return self.model.loss(ids, packing, at, targets, training=training)

    def pooled(self, rows: Sequence[Sequence[int]], *, training: bool, mean: bool) -> torch.Tensor:
        """The vector of each row's last token, (rows × width) float32; ``mean`` is for encoders only."""
        packing = Packing(tuple(len(row) for row in rows), self.device)
        ids = torch.tensor([id for row in rows for id in row], device=self.device)
        return self.model.train_hidden(ids, packing, packing.ends, training=training).float()

    @property
    def width(self) -> int:
        """Length of a pooled vector."""
        return self.shape.width

    def save_memory(self) -> None:
        """See ``Learner.save_memory``."""
        self.model.checkpointing = self.saving = True
        self._graphs = None

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """See ``Learner.learn``. On a CUDA device through recorded graphs, where starting kernels takes the time."""
        if self._graphs is not None and graphs.worthwhile(examples, self._adapters.config.dropout):
            return self._graphs.learn(examples, share)
        loss = self.loss(examples, training=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def updated(self) -> None:
        """See ``Learner.updated``."""
        self._adapters.refresh()

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Learner.state``."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._adapters.named().items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See ``Learner.restore``."""
        self._adapters.load(tensors)

    def save(self, folder: Path, base_model: str) -> None:
        """See ``Learner.save``."""
        from safetensors.torch import save_file

        lora.write_config(folder, self._adapters.config, lora.target_modules(self.shape), base_model)
        save_file(self.state(), folder / adapters.WEIGHTS, metadata={"format": "pt"})

    def read(self, prompts: Sequence[Sequence[int]]) -> LlamaScorer:
        """See ``Learner.read``."""
        return LlamaScorer(self.model, prompts)


class LlamaScorer:
    """See ``Scorer``. Keys and values are (layers, rows, kv heads, positions, head_dim), filled from the left."""

    @torch.inference_mode()
    def __init__(self, model: Llama, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        lengths = tuple(len(prompt) for prompt in prompts)
        packing = Packing(lengths, model.device)
        self.lengths = torch.tensor(lengths, device=model.device)
        shape = model.shape
        room = (shape.layers, len(prompts), shape.kv_heads, packing.longest + ROOM, shape.head_dim)
        self.keys = torch.zeros(room, dtype=model.dtype, device=model.device)
        self.values = torch.zeros_like(self.keys)
        ids = torch.tensor([id for prompt in prompts for id in prompt], device=model.device)
        self.hidden = model.hidden(ids, packing, packing.ends, seen=self._remember)

    def _remember(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store a layer's padded keys and values, (rows, longest, kv heads, head_dim)."""
        self.keys[layer, :, :, : key.shape[1]] = key.transpose(1, 2)
        self.values[layer, :, :, : value.shape[1]] = value.transpose(1, 2)

    @torch.inference_mode()
    def scores(self, candidates: torch.Tensor | None) -> torch.Tensor:
        """See ``Scorer.scores``."""
        head = self.model.weights.head
        return (self.hidden @ (head if candidates is None else head[candidates]).t()).float()

    @torch.inference_mode()
    def advance(self, keep: Sequence[int], ids: Sequence[int]) -> None:
        """See ``Scorer.advance``."""
        if len(keep) < len(self.lengths):
            rows = torch.tensor(list(keep), device=self.model.device)
            self.lengths = self.lengths[rows]
            self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        if int(self.lengths.max()) >= self.keys.shape[3]:
            grow = (0, 0, 0, ROOM)
            self.keys = torch.nn.functional.pad(self.keys, grow)
            self.values = torch.nn.functional.pad(self.values, grow)
        self.hidden = self._step(torch.tensor(list(ids), device=self.model.device))
        self.lengths = self.lengths + 1

    def _step(self, ids: torch.Tensor) -> torch.Tensor:
        """One more token for every row: normed last hidden states (rows × width)."""
        model, shape, weights = self.model, self.model.shape, self.model.weights
        longest = int(self.lengths.max()) + 1
        cos, sin = model.angles(self.lengths, longest)
        hidden_later = torch.arange(longest, device=model.device) > self.lengths[:, None]
        x = weights.embedding[ids]
        for number, layer in enumerate(weights.layers):
            qkv = model.linear(number, "qkv", pointwise.rms(x, layer.input_norm, shape.eps)[0])
            x = x + model.linear(number, "o", self._attend(number, qkv, cos, sin, hidden_later))
            both = model.linear(number, "gate_up", pointwise.rms(x, layer.post_norm, shape.eps)[0])
            x = x + model.linear(number, "down", pointwise.swiglu(both))
        normed: torch.Tensor = pointwise.rms(x, weights.norm, shape.eps)[0]
        return normed

    def _attend(
        self, layer: int, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, hidden_later: torch.Tensor
    ) -> torch.Tensor:
        shape, count, longest = self.model.shape, len(qkv), hidden_later.shape[1]
        heads, kv, dim = shape.heads, shape.kv_heads, shape.head_dim
        parts = qkv.view(count, heads + 2 * kv, dim)
        turned = rotate(parts[:, : heads + kv], cos, sin)
        row = torch.arange(count, device=qkv.device)
        self.keys[layer, row, :, self.lengths] = turned[:, heads:]
        self.values[layer, row, :, self.lengths] = parts[:, heads + kv :]
        query = turned[:, :heads].reshape(count, kv, heads // kv, dim)
        scores = query @ self.keys[layer, :, :, :longest].transpose(2, 3) * dim**-0.5
        weights = torch.softmax(scores.masked_fill_(hidden_later[:, None, None], float("-inf")), dim=-1)
        return (weights @ self.values[layer, :, :, :longest]).reshape(count, heads * dim)
