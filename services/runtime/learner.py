"""What training and evaluation need of a model, whatever computes it: our own Llama path, or transformers and PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from services.errors import BadInput
from services.runs.types import Method
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
    """A frozen base model with an optional adapter on all its linear layers; or all of it trained, or with a head."""

    folder: Path
    dtype: torch.dtype
    device: torch.device
    own: bool  # our own forward and backward pass computes it
    saving: bool  # ``save_memory`` was called

    @property
    def size(self) -> int:
        """How many parameters the model has."""

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

    def save_memory(self) -> None:
        """From now on, keep less for the backward pass and compute it again: slower."""


class Writer(Learner, Protocol):
    """A learner that writes answers."""

    def read(self, prompts: Sequence[Sequence[int]]) -> Scorer:
        """Read prompts side by side, without gradient."""


def open_learner(
    model: str,
    dtype: str = "auto",
    adapter: Path | None = None,
    *,
    general: bool = False,
    method: Method = "lora",
    device: str = "auto",
    labels: Sequence[str] | None = None,
    sharded: bool = False,
) -> Learner:
    """The learner for a model folder or Hugging Face id, with ``adapter`` if given, with a head if ``labels`` are.

    ``general`` asks for transformers and PEFT also where our own path knows the model, and so does ``sharded``, which
    leaves the model to be split by ``PeftLearner.shard``. Raises BadInput or HybridError when the model or adapter is
    missing, damaged or unreachable, or the method or device can't be had.
    """
    folder = loading.local_folder(model)
    config = loading.read_config(folder)
    where = loading.choose_device(device)
    precision = loading.choose_dtype(dtype, where)
    if loading.is_encoder(config) and labels is None:
        raise BadInput(
            f"The model in {folder} is an encoder: it can't write answers.", hint="Train it with task=classify."
        )
    learner: Any = _body(folder, config, where, precision, adapter, general, method, labels, sharded)
    if labels is not None:
        from services.runtime.classifier import Classifier

        learner = Classifier(learner, labels, encoder=loading.is_encoder(config))
    if adapter is not None:
        learner.attach_from(adapter)
    return cast(Learner, learner)


def _body(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    adapter: Path | None,
    general: bool,
    method: Method,
    labels: Sequence[str] | None,
    sharded: bool,
) -> Any:
    """Our own path where it computes the same, else transformers' and PEFT's."""
    shape = loading.llama_shape(config)
    plain = method in ("lora", "rslora")
    if adapter is not None and (adapter / adapters.CONFIG).is_file():
        stored = adapters.read_adapter_config(adapter)
        plain = adapters.is_plain_lora(stored | {"modules_to_save": None} if labels is not None else stored)
    if labels is not None and (folder / adapters.HEAD).is_file():
        plain = False  # a fully trained body, saved by transformers under its own names
    if shape is not None and plain and not general and not sharded:
        from services.runtime.llama_learner import LlamaLearner

        return LlamaLearner(folder, shape, device, dtype)
    from services.runtime.peft_learner import PeftLearner

    return PeftLearner(folder, device, dtype, method, body=labels is not None, sharded=sharded)
