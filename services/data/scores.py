"""Figures of a classifier from the true and the predicted labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal pairs, 0 for none."""
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth) if truth else 0.0


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Unweighted mean of the labels' F1 (harmonic mean of precision and recall), over all labels that occur."""
    hits = Counter(true for true, guess in zip(truth, predicted, strict=True) if true == guess)
    occurrences = Counter(truth) + Counter(predicted)
    scores = [2 * hits[label] / count for label, count in occurrences.items()]
    return sum(scores) / len(scores) if scores else 0.0
