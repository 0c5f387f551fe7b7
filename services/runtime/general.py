"""Models that our own engine doesn't know: transformers runs them, PEFT applies their adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from services.errors import BadInput
from services.runtime import adapters
from services.runtime.engine import CHUNK


class TransformersEngine:
    """Any causal model that transformers loads, adapters through PEFT. Slower; the reference in our tests."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        self.folder = folder
        self.device = device
        self.dtype = dtype
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (ValueError, OSError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise BadInput(
                f"The model in {folder} can't be loaded: {reason}.", hint="Fetch the model again."
            ) from error
        self._base = self._model = model.to(device).eval()
        self.limit = int(getattr(model.config, "max_position_embeddings", None) or 2048)
        self._cache: Any = None

    def use(self, adapter: Path | None) -> None:
        """See ``Engine.use``. Raises BadInput when PEFT can't fit the adapter to the model."""
        if self._model is not self._base:
            self._base = self._model = self._model.unload()
        self._cache = None
        if adapter is None:
            return
        adapters.read_adapter_config(adapter)
        from peft import PeftModel

        try:
            self._model = PeftModel.from_pretrained(self._base, str(adapter)).eval()
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise BadInput(
                f"The adapter {adapter} does not fit the model in {self.folder}: {reason}.",
                hint="Use it with the base model it was trained on.",
            ) from error

    @torch.inference_mode()
    def prefill(self, ids: list[int], room: int, stopped: Callable[[], bool]) -> torch.Tensor | None:
        """See ``Engine.prefill``."""
        self._cache = None
        scores: torch.Tensor | None = None
        for begin in range(0, len(ids), CHUNK):
            if stopped():
                return None
            scores = self._read(ids[begin : begin + CHUNK])
        return scores

    @torch.inference_mode()
    def step(self, id: int) -> torch.Tensor:
        """See ``Engine.step``."""
        return self._read([id])

    def _read(self, ids: list[int]) -> torch.Tensor:
        out = self._model(
            input_ids=torch.tensor([ids], device=self.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        scores: torch.Tensor = out.logits[0, -1]
        return scores
