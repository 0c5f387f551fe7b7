"""Sequence classification: a linear head over the labels on one vector a row, with an adapter below it.

Encoders give the mean over a row's tokens, decoders the last token's vector after the prompt. For the Llama family
adapter and head are stored as PEFT stores those of ``AutoModelForSequenceClassification``; for others the adapter as
PEFT stores that of ``AutoModel``, with the head beside it in ``head.safetensors``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from services import atomic
from services.errors import BadInput, HybridError
from services.runtime import adapters, batches, lora
from services.runtime.batches import Example
from services.runtime.llama_learner import LlamaLearner
from services.runtime.lora import LoraConfig
from services.runtime.peft_learner import PeftLearner
from services.runtime.tokenizer import Tokenizer

SCORE = f"{lora.PREFIX}score.weight"
LENGTH = 512  # tokens of a text that are read


class Classifier:
    """See ``Learner``; it writes nothing, so it has ``scores`` instead of ``read``."""

    def __init__(self, body: LlamaLearner | PeftLearner, labels: Sequence[str], *, encoder: bool) -> None:
        self.body, self.labels, self.encoder = body, tuple(labels), encoder
        self.folder, self.dtype, self.device = body.folder, body.dtype, body.device
        self.own, self.size = body.own, body.size
        self.weight = torch.nn.Parameter(torch.zeros(len(self.labels), body.width, device=self.device))
        self.bias = torch.nn.Parameter(torch.zeros(len(self.labels), device=self.device)) if encoder else None

    def attach(self, config: LoraConfig, seed: int) -> None:
        """See ``Learner.attach``. The head starts small and random."""
        self.body.attach(config, seed)
        generator = torch.Generator().manual_seed(seed)
        self.weight.data.copy_(torch.randn(self.weight.shape, generator=generator) * 0.02)

    def attach_from(self, folder: Path | None) -> None:
        """Put the adapter and the head in ``folder`` on the base; see ``Learner.attach_from``."""
        if folder is None:
            raise BadInput("Without an adapter there is no head that could classify.")
        if (folder / adapters.CONFIG).is_file():
            self.body.attach_from(folder)
        file = folder / (adapters.HEAD if (folder / adapters.HEAD).is_file() else adapters.WEIGHTS)
        try:
            tensors = load_file(file)
            self._take(tensors["weight"] if file.name == adapters.HEAD else tensors[SCORE], tensors.get("bias"))
        except (OSError, KeyError) as error:
            raise HybridError(f"{folder} lacks its classification head ({error}).", hint="Fetch it again.") from error

    def _take(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        if weight.shape != self.weight.shape:
            raise BadInput(f"The stored head {tuple(weight.shape)} does not fit {tuple(self.weight.shape)}.")
        self.weight.data.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias)

    def parameters(self) -> list[torch.nn.Parameter]:
        """See ``Learner.parameters``."""
        head = [self.weight] if self.bias is None else [self.weight, self.bias]
        return [*self.body.parameters(), *head]

    def _logits(self, rows: Sequence[Sequence[int]], *, training: bool) -> torch.Tensor:
        pooled = self.body.pooled(rows, training=training, mean=self.encoder)
        return torch.nn.functional.linear(pooled, self.weight, self.bias)

    def loss(self, examples: Sequence[Example], *, training: bool) -> torch.Tensor:
        """See ``Learner.loss``: one cross-entropy a row."""
        targets = torch.tensor([example.label for example in examples], device=self.device)
        logits = self._logits([example.ids for example in examples], training=training)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    def learn(self, examples: Sequence[Example], share: float) -> torch.Tensor:
        """See ``Learner.learn``."""
        loss = self.loss(examples, training=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def scores(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (rows × labels) of rows as ``batches.head_ids`` makes them."""
        return self._logits(rows, training=False)

    @property
    def saving(self) -> bool:
        """See ``Learner.saving``."""
        return self.body.saving

    def save_memory(self) -> None:
        """See ``Learner.save_memory``."""
        self.body.save_memory()

    def updated(self) -> None:
        """See ``Learner.updated``."""
        self.body.updated()

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Learner.state``; the head's tensors are ``head.weight`` and ``head.bias``."""
        head = {"head.weight": self.weight} | ({} if self.bias is None else {"head.bias": self.bias})
        return self.body.state() | {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See ``Learner.restore``."""
        self._take(tensors["head.weight"], tensors.get("head.bias"))
        self.body.restore({name: tensor for name, tensor in tensors.items() if not name.startswith("head.")})

    def save(self, folder: Path, base_model: str) -> None:
        """See ``Learner.save``."""
        self.body.save(folder, base_model)
        head = {name.removeprefix("head."): t for name, t in self.state().items() if name.startswith("head.")}
        file = folder / adapters.WEIGHTS
        if not isinstance(self.body, LlamaLearner):
            save_file(head, folder / adapters.HEAD, metadata={"format": "pt"})
            return
        save_file(load_file(file) | {SCORE: head["weight"]}, file, metadata={"format": "pt"})
        path = folder / adapters.CONFIG
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        atomic.write_text(path, json.dumps(config, indent=2))


def has_head(folder: Path) -> bool:
    """Whether a result's ``folder`` holds a classification head."""
    if (folder / adapters.HEAD).is_file():
        return True
    known = (folder / adapters.CONFIG).is_file()
    return known and adapters.read_adapter_config(folder).get("task_type") == "SEQ_CLS"


def stored_labels(folder: Path) -> tuple[str, ...]:
    """The labels of a result's head, in its order. Raises HybridError when ``metadata.json`` does not tell them."""
    try:
        labels = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["labels"]
        return tuple(str(label) for label in labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HybridError(f"{folder} does not tell the labels of its head: {error}.", hint="Fetch it again.") from error


def open_classifier(model: str, result: Path, dtype: str = "auto") -> Classifier:
    """The classifier in ``result``, an adapter with a head on ``model`` or a fully trained body (then both are one).

    Raises BadInput or HybridError when something is missing, damaged or misfits.
    """
    from services.runtime.learner import open_learner

    opened = open_learner(model, dtype, result, labels=stored_labels(result))
    assert isinstance(opened, Classifier)
    return opened


def ranked(
    classifier: Classifier, tokenizer: Tokenizer, template: str, text: str
) -> tuple[int, list[tuple[str, float]]]:
    """How many tokens of ``text`` were read, and each label's probability, likeliest first.

    Raises BadInput when the template alone is too long.
    """
    ids = batches.head_ids(tokenizer, template, text, LENGTH)
    if ids is None:
        raise BadInput(f"The prompt's template alone is longer than {LENGTH} tokens.")
    probabilities = classifier.scores([ids])[0].softmax(dim=0).tolist()
    pairs = zip(classifier.labels, probabilities, strict=True)
    return len(ids), sorted(pairs, key=lambda pair: -pair[1])


def milliseconds(classifier: Classifier, tokenizer: Tokenizer, template: str, texts: Sequence[str]) -> float:
    """Median time of one text alone, from its words to its label."""
    took = []
    for text in texts:
        begun = time.perf_counter()
        ranked(classifier, tokenizer, template, text)
        took.append(time.perf_counter() - begun)
    return 1000 * statistics.median(took)
