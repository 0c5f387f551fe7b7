"""Any model as a ``Learner``, through transformers and PEFT: every architecture and method, slower than our own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from services import atomic
from services.errors import BadInput, HybridError
from services.runs.types import Method
from services.runtime import adapters, loading, sharding
from services.runtime.batches import Example
from services.runtime.llama import HeadLoss, chunks
from services.runtime.lora import LoraConfig, apply

WEIGHTS = "model.safetensors"


class PeftLearner:
    """See ``Learner``. ``body`` opens the model without a language head, for a classification head on top."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        method: Method = "lora",
        *,
        body: bool = False,
        sharded: bool = False,
    ) -> None:
        """With ``sharded`` the model waits on the CPU for ``shard``.

        Raises HybridError when transformers can't load the folder, or ``qlora`` can't run here.
        """
        self.folder, self.device, self.dtype, self.method, self.body = folder, device, dtype, method, body
        self._inside: Callable[[Callable[[], Any]], Any] = lambda work: work()
        self.model: Any = self._load(torch.device("cpu") if sharded else device)
        self.model.eval().requires_grad_(method == "full")
        self.own, self.saving, self.sharded = False, False, False
        self.size = sum(p.numel() for p in self.model.parameters())
        self._head: tuple[Any, Any] | None = None if body or sharded else self._plain_head()

    def _load(self, device: torch.device) -> Any:
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        settings: dict[str, Any] = {"local_files_only": True}
        kind: Any = AutoModel if self.body else AutoModelForCausalLM
        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
            encoder = self.body and loading.is_encoder(loading.read_config(self.folder))
            if self.method != "full" and not encoder:
                _without_dropout(config)
            if encoder:
                settings["add_pooling_layer"] = False
            if self.method == "qlora":
                settings["quantization_config"], settings["device_map"] = self._four_bit(), {"": self.device}
            wanted = torch.float32 if self.method == "full" else self.dtype
            try:
                model = kind.from_pretrained(self.folder, config=config, dtype=wanted, **settings)
            except TypeError:
                settings.pop("add_pooling_layer", None)
                model = kind.from_pretrained(self.folder, config=config, dtype=wanted, **settings)
        except HybridError:
            raise
        except Exception as error:  # transformers raises many kinds for a folder it can't use
            raise HybridError(
                f"transformers can't load {self.folder}: {_first_line(error)}.", hint="Try another model."
            ) from error
        return model if self.method == "qlora" else model.to(device)

    def _four_bit(self) -> Any:
        if self.device.type != "cuda":
            raise HybridError("QLoRA needs a CUDA GPU; there is none here.", hint="Use method=lora instead.")
        try:
            import bitsandbytes  # noqa: F401
        except Exception as error:  # a build for another CUDA fails in its own ways
            raise HybridError(
                f"QLoRA needs bitsandbytes, which can't be imported: {_first_line(error)}.",
                hint="Install it (pip install bitsandbytes), or use method=lora.",
            ) from error
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.dtype,
        )

    @torch.no_grad()
    def _plain_head(self) -> tuple[Any, Any] | None:
        """The model below its language head and that head, if nothing else comes between; tried out once.

        With it the head runs only where a label is; without (scaled or capped logits) it runs everywhere.
        """
        model = self._base
        body, head = model.base_model, model.get_output_embeddings()
        if body is model or head is None or getattr(head, "bias", None) is not None:
            return None
        ids = torch.arange(3, 7, device=self.device)[None]

        def both() -> tuple[torch.Tensor, torch.Tensor]:
            with self._precision():
                hidden = body(input_ids=ids, use_cache=False).last_hidden_state
                whole = model(input_ids=ids, use_cache=False).logits.float()
                return (hidden @ head.weight.t()).float(), whole

        try:
            own, whole = self._inside(both)
        except (RuntimeError, TypeError, AttributeError, IndexError):
            return None
        near = own.shape == whole.shape and (own - whole).abs().max() <= 0.02 * whole.abs().max()
        return (body, head) if near else None

    def _precision(self) -> Any:
        wide = self.method == "full" and self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=wide)

    def attach(self, config: LoraConfig, seed: int) -> None:
        """See ``Learner.attach``."""
        if self.method == "full":
            return
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        self._detach()
        torch.manual_seed(seed)
        settings = PeftConfig(
            r=config.r,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int, used as a float
            lora_dropout=config.dropout,
            target_modules="all-linear",
            task_type="FEATURE_EXTRACTION" if self.body else "CAUSAL_LM",
            use_rslora=config.rslora,
            use_dora=self.method == "dora",
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

    def save_memory(self) -> None:
        """See ``Learner.save_memory``."""
        self._base.gradient_checkpointing_enable({"use_reentrant": False})
        self._base.enable_input_require_grads()
        self.saving = True

    @property
    def _base(self) -> Any:
        """The model as transformers has it, with an adapter in its layers or without."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def shard(self) -> None:
        """Split the model over the processes that have met; from now on they must all compute, each as often.

        So they must for ``state`` when all weights are trained: it is the first process's then, others get shapes.
        """
        self._inside = sharding.split(self.model, self.device, self.dtype)
        self.sharded = True
        self._head = self._plain_head()

    def parameters(self) -> list[torch.nn.Parameter]:
        """See ``Learner.parameters``."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, examples: Sequence[Example], *, training: bool) -> torch.Tensor:
        """See ``Learner.loss``."""
        self.model.train(training)
        loss: torch.Tensor = self._inside(lambda: self._loss(examples))
        return loss

    def _loss(self, examples: Sequence[Example]) -> torch.Tensor:
        row = [r for r, e in enumerate(examples) for _ in range(e.labels)]
        at = [i - 1 for e in examples for i in e.learned]
        targets = torch.tensor([e.ids[i] for e in examples for i in e.learned], device=self.device)
        rows = [example.ids[:-1] for example in examples]
        with self._precision():
            if self._head is None:
                logits = self._logits(rows)
                return torch.nn.functional.cross_entropy(logits[row, at].float(), targets, reduction="sum")
            body, head = self._head[0], self._head[1].weight
            hidden = body(**self._padded(rows), use_cache=False).last_hidden_state[row, at]
            if not head.requires_grad and head.is_floating_point() and head.dtype == hidden.dtype:
                loss: torch.Tensor = apply(HeadLoss, hidden, head, targets)
                return loss
            return self._chunked(hidden, head, targets)

    def _chunked(self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropies of a head that is trained too; each portion's logits are computed again going back."""

        def portion(part: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy((part @ weight.t()).float(), wanted, reduction="sum")

        total = torch.zeros((), device=self.device)
        for start, end in chunks(len(hidden), len(head), self.device):
            total = total + checkpoint(portion, hidden[start:end], head, targets[start:end], use_reentrant=False)
        return total

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Rows filled up on the right, and the mask that says where they are real."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        return {"input_ids": ids, "attention_mask": mask}

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(rows, longest, vocabulary) of rows filled up on the right."""
        logits: torch.Tensor = self.model(**self._padded(rows), use_cache=False).logits
        return logits

    def pooled(self, rows: Sequence[Sequence[int]], *, training: bool, mean: bool) -> torch.Tensor:
        """One vector a row, (rows × width) float32: the mean over its tokens, or its last token's."""
        self.model.train(training)
        padded = self._padded(rows)
        with self._precision():
            hidden = self.model(**padded).last_hidden_state
        pooled: torch.Tensor
        if mean:
            mask = padded["attention_mask"].unsqueeze(-1)
            pooled = (hidden.float() * mask).sum(1) / mask.sum(1)
            return pooled
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        pooled = hidden[torch.arange(len(rows), device=self.device), last].float()
        return pooled

    def without_adapter(self) -> contextlib.AbstractContextManager[None]:
        """As long as the block lasts, the base alone computes: what a fresh adapter changes nothing of, but sooner."""
        if hasattr(self.model, "disable_adapter"):
            return self.model.disable_adapter()  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    @property
    def width(self) -> int:
        """Length of a pooled vector."""
        return int(self.model.config.hidden_size)

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """See ``Learner.learn``."""
        loss = self.loss(examples, training=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def updated(self) -> None:
        """See ``Learner.updated``."""

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Learner.state``."""
        return {name: sharding.whole(tensor) for name, tensor in self._trained().items()}

    def _trained(self) -> dict[str, torch.Tensor]:
        """What ``state`` is made of."""
        if self.method == "full":
            return {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        from peft import get_peft_model_state_dict

        found: dict[str, torch.Tensor] = get_peft_model_state_dict(self.model)
        return found

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See ``Learner.restore``."""
        own = self._trained()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            raise BadInput("The stored adapter does not fit the model.")
        if self.method == "full":
            with torch.no_grad():
                for name, value in tensors.items():
                    own[name].copy_(sharding.like(value, own[name]))
            return
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, tensors)

    def save(self, folder: Path, base_model: str) -> None:
        """See ``Learner.save``. A fully trained model is saved whole, in the precision it ran in."""
        if self.method == "full":
            self._save_whole(folder)
            return
        self.model.save_pretrained(folder)
        path = folder / adapters.CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        atomic.write_text(path, json.dumps(config | {"base_model_name_or_path": base_model}, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # a form to fill in; metadata.json has the facts

    def _save_whole(self, folder: Path) -> None:
        if not self.sharded:
            self.model.to(self.dtype).save_pretrained(folder)
            self.model.to(torch.float32)
            return
        narrow = {name: tensor.to(self.dtype) for name, tensor in self.state().items()}
        self.model.save_pretrained(folder, state_dict=narrow)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        named = {"dtype": str(self.dtype).removeprefix("torch.")}  # that of what is written, not of what is trained
        atomic.write_text(path, json.dumps(config | named, indent=2))

    def read(self, prompts: Sequence[Sequence[int]]) -> PeftScorer:
        """See ``Learner.read``."""
        self.model.eval()
        return PeftScorer(self, prompts)


class PeftScorer:
    """See ``Scorer``. Reads the whole sequences again for every token: right for every architecture."""

    def __init__(self, learner: PeftLearner, prompts: Sequence[Sequence[int]]) -> None:
        self.learner = learner
        self.rows = [list(prompt) for prompt in prompts]

    @torch.no_grad()  # inference_mode would keep a sharded model from training on
    def scores(self, candidates: torch.Tensor | None) -> torch.Tensor:
        """See ``Scorer.scores``."""
        with self.learner._precision():
            logits: torch.Tensor = self.learner._inside(lambda: self.learner._logits(self.rows))
        last = logits[range(len(self.rows)), [len(row) - 1 for row in self.rows]].float()
        return last if candidates is None else last[:, candidates]

    def advance(self, keep: Sequence[int], ids: Sequence[int]) -> None:
        """See ``Scorer.advance``."""
        self.rows = [[*self.rows[row], id] for row, id in zip(keep, ids, strict=True)]


def _without_dropout(config: Any) -> None:
    """A frozen decoder needs none, the adapter has its own; an encoder below a head is better with the one it had."""
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
