"""What training and evaluation need of a model, whatever computes it: our own Llama path, or transformers and PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from services.runtime import adapters, loading
from services.runtime.batches import Example
from services.runtime.lora import LoraConfig


class Scorer(Protocol):
    """Several sequences read side by side, each waiting for its next token."""

    def scores(self, candidates: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next token of every sequence: (rows, candidates), or (rows, vocabulary) for None; float32."""

    def advance(self, keep: Sequence[int], ids: Sequence[int]) -> None:
        """Go on with the rows ``keep`` only (in this order), each lengthened by its token of ``ids``."""


class Learner(Protocol):
    """A frozen base model with an optional LoRA adapter on all its linear layers."""

    folder: Path
    dtype: torch.dtype
    device: torch.device

    def attach(self, config: LoraConfig, seed: int) -> None:
        """Put a fresh adapter on the base: without effect until trained."""

    def attach_from(self, folder: Path | None) -> None:
        """Put the PEFT adapter in ``folder`` on the base; None takes any adapter off.

        Raises BadInput when it is missing or does not fit, HybridError when it is damaged.
        """

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes (float32)."""

    def loss(self, examples: Sequence[Example], *, training: bool) -> torch.Tensor:
        """Sum of the cross-entropies over the examples' labelled tokens; differentiable, float32."""

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """Add the gradient of ``share`` · ``loss`` to that of the parameters; the loss, for reporting only."""

    def updated(self) -> None:
        """To be called after every change of ``parameters``."""

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by PEFT's names, contiguous, on the CPU, float32."""

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what ``state`` returned. Raises BadInput when it does not fit."""

    def save(self, folder: Path, base_model: str) -> None:
        """Write the adapter into ``folder`` in PEFT's format."""

    def read(self, prompts: Sequence[Sequence[int]]) -> Scorer:
        """Read prompts side by side, without gradient."""


def open_learner(model: str, dtype: str = "auto", adapter: Path | None = None, *, general: bool = False) -> Learner:
    """The learner for a model folder or Hugging Face id, with ``adapter`` if given.

    ``general`` asks for transformers and PEFT also where our own path knows the model. Raises BadInput or HybridError
    when the model or adapter is missing, damaged or unreachable.
    """
    folder = loading.local_folder(model)
    shape = loading.llama_shape(loading.read_config(folder))
    device = loading.choose_device()
    precision = loading.choose_dtype(dtype, device)
    plain = adapter is None or adapters.is_plain_lora(adapters.read_adapter_config(adapter))
    learner: Learner
    if shape is not None and plain and not general:
        from services.runtime.llama_learner import LlamaLearner

        learner = LlamaLearner(folder, shape, device, precision)
    else:
        from services.runtime.peft_learner import PeftLearner

        learner = PeftLearner(folder, device, precision)
    if adapter is not None:
        learner.attach_from(adapter)
    return learner
