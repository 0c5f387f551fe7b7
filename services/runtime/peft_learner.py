"""Any causal language model as a ``Learner``, through transformers and PEFT: the slower path for every architecture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from services import atomic
from services.errors import BadInput, HybridError
from services.runtime import adapters
from services.runtime.batches import Example
from services.runtime.lora import LoraConfig


class PeftLearner:
    """See ``Learner``."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Raises HybridError when transformers can't load the folder as a causal language model."""
        from transformers import AutoModelForCausalLM

        self.folder, self.device, self.dtype = folder, device, dtype
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except Exception as error:  # transformers raises many kinds for a folder it can't use
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise HybridError(f"transformers can't load {folder}: {cause}.", hint="Try another model.") from error
        self.model: Any = model.to(device).eval().requires_grad_(False)

    def attach(self, config: LoraConfig, seed: int) -> None:
        """See ``Learner.attach``."""
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        self._detach()
        torch.manual_seed(seed)
        settings = PeftConfig(
            r=config.r,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int, used as a float
            lora_dropout=config.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(self.model, settings).eval()

    def attach_from(self, folder: Path | None) -> None:
        """See ``Learner.attach_from``."""
        from peft import PeftModel

        self._detach()
        if folder is None:
            return
        adapters.read_adapter_config(folder)
        try:
            self.model = PeftModel.from_pretrained(self.model, str(folder), is_trainable=True).eval()
        except (RuntimeError, ValueError, KeyError) as error:
            cause = str(error).strip().splitlines()[0].rstrip(".")
            raise BadInput(f"The adapter in {folder} does not fit the model: {cause}.") from error

    def _detach(self) -> None:
        if hasattr(self.model, "peft_config"):
            self.model = self.model.unload()
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config

    def parameters(self) -> list[torch.nn.Parameter]:
        """See ``Learner.parameters``."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, examples: Sequence[Example], *, training: bool) -> torch.Tensor:
        """See ``Learner.loss``."""
        self.model.train(training)
        logits = self._logits([example.ids[:-1] for example in examples])
        row = [r for r, e in enumerate(examples) for _ in range(e.tokens - e.answer)]
        at = [i for e in examples for i in range(e.answer - 1, e.tokens - 1)]
        targets = torch.tensor([id for e in examples for id in e.ids[e.answer :]], device=self.device)
        return torch.nn.functional.cross_entropy(logits[row, at].float(), targets, reduction="sum")

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(rows, longest, vocabulary) of rows filled up on the right."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """See ``Learner.learn``."""
        loss = self.loss(examples, training=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def updated(self) -> None:
        """See ``Learner.updated``."""

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Learner.state``."""
        from peft import get_peft_model_state_dict

        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(self.model)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See ``Learner.restore``."""
        from peft import set_peft_model_state_dict

        if {n: t.shape for n, t in self.state().items()} != {n: t.shape for n, t in tensors.items()}:
            raise BadInput("The stored adapter does not fit the model.")
        set_peft_model_state_dict(self.model, tensors)

    def save(self, folder: Path, base_model: str) -> None:
        """See ``Learner.save``."""
        self.model.save_pretrained(folder)
        path = folder / adapters.CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        atomic.write_text(path, json.dumps(config | {"base_model_name_or_path": base_model}, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # a form to fill in; metadata.json has the facts

    def read(self, prompts: Sequence[Sequence[int]]) -> PeftScorer:
        """See ``Learner.read``."""
        self.model.eval()
        return PeftScorer(self, prompts)


class PeftScorer:
    """See ``Scorer``. Reads the whole sequences again for every token: right for every architecture."""

    def __init__(self, learner: PeftLearner, prompts: Sequence[Sequence[int]]) -> None:
        self.learner = learner
        self.rows = [list(prompt) for prompt in prompts]

    @torch.inference_mode()
    def scores(self, candidates: torch.Tensor | None) -> torch.Tensor:
        """See ``Scorer.scores``."""
        logits = self.learner._logits(self.rows)
        last = logits[range(len(self.rows)), [len(row) - 1 for row in self.rows]].float()
        return last if candidates is None else last[:, candidates]

    def advance(self, keep: Sequence[int], ids: Sequence[int]) -> None:
        """See ``Scorer.advance``."""
        self.rows = [[*self.rows[row], id] for row, id in zip(keep, ids, strict=True)]
