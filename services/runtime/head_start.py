"""Where an encoder's classification head begins: as a linear classifier of the untouched encoder's vectors.

From a random head the first steps would bend the encoder towards noise; from a fitted one, one epoch does what took
several (linear probing, then fine-tuning: Kumar et al., 2022, https://arxiv.org/abs/2202.10054).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from services.runtime.batches import Example
from services.runtime.classifier import Classifier
from services.runtime.peft_learner import PeftLearner

MOST = 16_384  # rows that are looked at
TOKENS = 1_024  # of rows read at once, padding included
STEPS, RATE, DECAY = 200, 0.1, 1e-4  # of the regression, on all vectors at once
LENGTH = 5.0  # to which the vectors are scaled for it, in the mean: the shorter, the less sure of itself the head is


def wanted(learner: object) -> bool:
    """Whether a run of ``learner`` begins so: a decoder's vectors say little before it was trained."""
    return isinstance(learner, Classifier) and learner.encoder


def fit(classifier: Classifier, examples: Sequence[Example], seed: int) -> None:
    """Set the head's weight and bias by logistic regression on the vectors of at most ``MOST`` examples."""
    chosen = list(examples) if len(examples) <= MOST else random.Random(seed).sample(examples, MOST)
    assert isinstance(classifier.body, PeftLearner)
    with classifier.body.without_adapter():
        vectors = _vectors(classifier, chosen)
    scale = LENGTH / float(vectors.norm(dim=1).mean())
    targets = torch.tensor([example.label for example in chosen], device=vectors.device)
    weight = torch.zeros_like(classifier.weight, requires_grad=True)
    bias = torch.zeros(len(classifier.labels), device=vectors.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    vectors *= scale
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(vectors, weight, bias)
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    classifier.weight.data.copy_(weight.detach() * scale)
    if classifier.bias is not None:
        classifier.bias.data.copy_(bias.detach())


@torch.no_grad()
def _vectors(classifier: Classifier, examples: Sequence[Example]) -> torch.Tensor:
    """One row each (examples × width), read in the order of their lengths."""
    order = sorted(range(len(examples)), key=lambda i: -examples[i].tokens)
    found = torch.empty(len(examples), classifier.body.width, device=classifier.device)
    at = 0
    while at < len(order):
        some = order[at : at + max(1, TOKENS // examples[order[at]].tokens)]
        rows = [examples[i].ids for i in some]
        found[some] = classifier.body.pooled(rows, training=False, mean=classifier.encoder)
        at += len(some)
    return found
