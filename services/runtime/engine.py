"""Engines that turn token ids into the next token's scores: our own for the Llama family, transformers for the rest.

An engine holds one model and one sequence. Merging an adapter changes the weights that are used, never the files:
going back, or on to another adapter, starts again from the model folder, so nothing is ever rounded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from services.runtime import loading

CHUNK = 256  # tokens of a prompt worked off at a time: between two chunks a request can be stopped


class Engine(Protocol):
    """A causal language model with the sequence it has read so far. ``limit``: most positions it was made for."""

    folder: Path
    limit: int
    dtype: torch.dtype
    device: torch.device

    def use(self, adapter: Path | None) -> None:
        """Answer with this adapter from now on (None: the base alone). Forgets the sequence."""

    def prefill(self, ids: list[int], room: int, stopped: Callable[[], bool]) -> torch.Tensor | None:
        """Read ``ids`` as the whole sequence, with space for ``room`` more.

        The scores of the next token, (vocabulary,), or None when ``stopped`` said so midway.
        """

    def step(self, id: int) -> torch.Tensor:
        """Append one token; the scores of the next, (vocabulary,)."""


def open_engine(model: str, dtype: str = "auto", *, general: bool = False) -> Engine:
    """The engine for a model folder or Hugging Face id: on the GPU if there is one; see ``loading.choose_dtype``.

    ``general`` asks for transformers also where our own engine knows the model, for adapters that only PEFT applies
    (see ``adapters.is_plain_lora``).
    Raises BadInput or HybridError when the model is missing, damaged or unreachable.
    """
    folder = loading.local_folder(model)
    config = loading.read_config(folder)
    device = loading.choose_device()
    precision = loading.choose_dtype(dtype, device)
    shape = None if general else loading.llama_shape(config)
    if shape is not None:
        from services.runtime.decode import LlamaEngine

        return LlamaEngine(folder, shape, device, precision)
    from services.runtime.general import TransformersEngine

    return TransformersEngine(folder, device, precision)
