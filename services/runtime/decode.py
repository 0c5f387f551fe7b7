"""Our own forward pass for the Llama family, made for answering: one sequence, fused matrices, no copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from services.errors import BadInput
from services.runtime import adapters, loading
from services.runtime.engine import CHUNK

if TYPE_CHECKING:
    from services.runtime.loading import LlamaShape

_BLOCK = 256  # the key-value buffer grows by so many positions


@dataclass(slots=True)
class _Layer:
    """Weights of one layer: ``qkv`` ((heads + 2 kv_heads) · head_dim, width), ``gate_up`` (2 · inner, width)."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class LlamaEngine:
    """The Llama forward pass for one sequence: fused matrices, one key-value buffer written in place.

    A prompt that begins like the one before (a chat's next turn) is not read again as far as whole chunks are equal.
    Only whole chunks, and no token that was decoded: in bf16 the keys of a token depend on how many were computed
    together, and the same prompt must get the same greedy answer whatever came before it.
    """

    def __init__(self, folder: Path, shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> None:
        self.folder = folder
        self.shape = shape
        self.limit = shape.max_positions
        self.device = device
        self.dtype = dtype
        self._ids: list[int] = []
        self._reusable = 0
        self._merged: dict[str, torch.Tensor] = {}
        self._reserve(_BLOCK)
        weights = loading.read_weights(folder, dtype, device)
        try:
            self.embedding = weights["model.embed_tokens.weight"]
            self.norm = weights["model.norm.weight"]
            self.head = self.embedding if shape.tied else weights["lm_head.weight"]
            self.layers = [_fuse(weights, f"model.layers.{i}.") for i in range(shape.layers)]
        except KeyError as error:
            raise BadInput(f"The weights in {folder} lack {error}.", hint="Fetch the model again.") from None
        self._slots = self._name_slots()

    def _name_slots(self) -> dict[str, torch.Tensor]:
        """Module path → the part of our matrices that holds its weight; writing there changes the model."""
        s = self.shape
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        slots: dict[str, torch.Tensor] = {}
        for i, layer in enumerate(self.layers):
            attention, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            for name, part in zip(("q_proj", "k_proj", "v_proj"), torch.split(layer.qkv, [q, kv, kv]), strict=True):
                slots[attention + name] = part
            slots[attention + "o_proj"] = layer.out
            for name, part in zip(("gate_proj", "up_proj"), layer.gate_up.chunk(2), strict=True):
                slots[mlp + name] = part
            slots[mlp + "down_proj"] = layer.down
        return slots

    @torch.inference_mode()
    def use(self, adapter: Path | None) -> None:
        """See ``Engine.use``. Raises BadInput when the adapter doesn't fit this model, HybridError when damaged."""
        pairs = {} if adapter is None else adapters.read_pairs(adapter, adapters.read_adapter_config(adapter))
        for path, pair in pairs.items():
            slot = self._slots.get(path)
            if slot is None or slot.shape != (pair.b.shape[0], pair.a.shape[1]):
                raise BadInput(
                    f"The adapter {adapter} does not fit the model in {self.folder} (at {path}).",
                    hint="Use it with the base model it was trained on; its metadata.json names it.",
                )
        pristine = self._pristine({*pairs, *self._merged})
        self._ids = []
        for path, weight in pristine.items():
            slot = self._slots[path]
            if pair_ := pairs.get(path):
                a, b = pair_.a.to(self.device), pair_.b.to(self.device)
                slot.copy_(torch.addmm(weight.float(), b, a, alpha=pair_.scale))
            else:
                slot.copy_(weight)
        self._merged = dict.fromkeys(pairs, torch.empty(0))

    def _pristine(self, paths: set[str]) -> dict[str, torch.Tensor]:
        """The weights at ``paths`` as the model's files have them (mapped from the page cache, not copied)."""
        if not paths:
            return {}
        weights = loading.read_weights(self.folder, self.dtype, self.device, prefix="model.layers.")
        return {path: weights[path + ".weight"] for path in paths}

    def _reserve(self, length: int) -> None:
        """A key-value buffer (2, layers, kv_heads, positions, head_dim) and the rotation table for ``length``."""
        s = self.shape
        self._room = min(-(-length // _BLOCK) * _BLOCK, s.max_positions)
        self._cache = torch.empty(2, s.layers, s.kv_heads, self._room, s.head_dim, dtype=self.dtype, device=self.device)
        cos, sin = loading.rope_table(s, self._room, self.device)
        sin[:, : s.head_dim // 2].neg_()  # so that rotating is x · cos + roll(x) · sin
        self._cos, self._sin = cos.to(self.dtype).unsqueeze(1), sin.to(self.dtype).unsqueeze(1)
        self._ids = []

    @torch.inference_mode()
    def prefill(self, ids: list[int], room: int, stopped: Callable[[], bool]) -> torch.Tensor | None:
        """See ``Engine.prefill``."""
        if len(ids) + room > self._room:
            self._reserve(len(ids) + room)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._ids, ids, strict=False)))
        start = (
            min(same, self._reusable, len(ids) - 1) // CHUNK * CHUNK
        )  # the last token is always read: for its scores
        del self._ids[start:]
        hidden: torch.Tensor | None = None
        for begin in range(start, len(ids), CHUNK):
            if stopped():
                return None
            chunk = ids[begin : begin + CHUNK]
            hidden = self._forward(torch.tensor(chunk, device=self.device), begin)
            self._ids += chunk
            self._reusable = len(self._ids)
        assert hidden is not None
        return self._scores(hidden[-1:])

    @torch.inference_mode()
    def step(self, id: int) -> torch.Tensor:
        """See ``Engine.step``."""
        hidden = self._forward(torch.tensor([id], device=self.device), len(self._ids))
        self._ids.append(id)
        return self._scores(hidden)

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(hidden, (self.shape.width,), self.norm, self.shape.eps)
        return F.linear(normed, self.head)[0]

    def _forward(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        """Hidden states (T, width) of the T tokens at positions ``start`` …; their keys and values join the buffer."""
        s, end = self.shape, start + len(ids)
        cos, sin = self._cos[start:end], self._sin[start:end]
        mask = _mask(start, len(ids), self.device)
        x = F.embedding(ids, self.embedding)
        for i, layer in enumerate(self.layers):
            h = F.rms_norm(x, (s.width,), layer.attention_norm, s.eps)
            qkv = F.linear(h, layer.qkv).view(len(ids), s.heads + 2 * s.kv_heads, s.head_dim)
            qk = qkv[:, : s.heads + s.kv_heads]
            qk = torch.addcmul(qk * cos, qk.roll(s.head_dim // 2, -1), sin)
            keys, values = self._cache[0, i], self._cache[1, i]
            keys[:, start:end] = qk[:, s.heads :].transpose(0, 1)
            values[:, start:end] = qkv[:, s.heads + s.kv_heads :].transpose(0, 1)
            attended = self._attend(qk[:, : s.heads], keys[:, :end], values[:, :end], mask)
            x = x + F.linear(attended, layer.out)
            h = F.rms_norm(x, (s.width,), layer.mlp_norm, s.eps)
            gate, up = F.linear(h, layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return x

    def _attend(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention of q (T, heads, head_dim) over keys and values (kv_heads, length, head_dim): (T, width)."""
        s, rows = self.shape, q.shape[0]
        if rows == 1:  # a group's query heads stand as the rows of its one key head: no mask, no repetition
            grouped = q.reshape(1, s.kv_heads, s.heads // s.kv_heads, s.head_dim)
            return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(1, -1)
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=s.heads != s.kv_heads,
        )
        return attended[0].transpose(0, 1).reshape(rows, -1)


def _mask(start: int, rows: int, device: torch.device) -> torch.Tensor | None:
    """Which of the positions before ``start + rows`` each row may see; None where "causal" says it."""
    if start == 0 or rows == 1:
        return None
    return torch.ones(rows, start + rows, dtype=torch.bool, device=device).tril(start)


def _fuse(weights: dict[str, torch.Tensor], prefix: str) -> _Layer:
    """One layer's matrices, copied out of the mapped file since merging writes into them."""

    def get(name: str) -> torch.Tensor:
        return weights[prefix + name + ".weight"]

    return _Layer(
        attention_norm=get("input_layernorm"),
        qkv=torch.cat([get(f"self_attn.{name}_proj") for name in "qkv"]),
        out=get("self_attn.o_proj").clone(),
        mlp_norm=get("post_attention_layernorm"),
        gate_up=torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]),
        down=get("mlp.down_proj").clone(),
    )
