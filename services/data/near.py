"""Texts that are the same, or almost: normalised forms and an exact search by the Jaccard index of their words.

The search filters by prefix: two sets that overlap by a share t must share one of their few rarest words, so only texts
listed under those are compared. (Chaudhuri, Ganti, Kaushik: A primitive operator for similarity joins, ICDE 2006.)
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

NEAR = 0.8
"""From this Jaccard index of their sets of words on, two texts count as near-duplicates."""

_WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """``text`` without case, punctuation, apostrophes and differences of spacing or Unicode form."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    words = _WORD.findall(folded)
    return " ".join(words) if words else " ".join(folded.split())


def words(text: str) -> frozenset[str]:
    """The set of normalised words of ``text``."""
    return frozenset(normalise(text).split())


class NearIndex:
    """Word sets that can be asked for a near-duplicate of another one. Exact: nothing near is missed.

    ``frequency`` says how often words occur, from a sample; any counts give right answers, good ones fast answers.
    """

    def __init__(self, frequency: Counter[str] | None = None, threshold: float = NEAR) -> None:
        self._frequency = frequency or Counter()
        self._threshold = threshold
        self._sets: list[frozenset[str]] = []
        self._by_word: dict[str, list[int]] = defaultdict(list)

    def _prefix(self, tokens: frozenset[str]) -> list[str]:
        rare_first = sorted(tokens, key=lambda word: (self._frequency[word], word))
        return rare_first[: len(tokens) - math.ceil(self._threshold * len(tokens) - 1e-9) + 1]

    def add(self, tokens: frozenset[str]) -> int:
        """Take in a set; returns its number (0, 1, …)."""
        number = len(self._sets)
        self._sets.append(tokens)
        for word in self._prefix(tokens):
            self._by_word[word].append(number)
        return number

    def find(self, tokens: frozenset[str]) -> int | None:
        """The number of one set whose Jaccard index with ``tokens`` reaches the threshold, or None."""
        size, threshold = len(tokens), self._threshold
        least, most = threshold * size - 1e-9, size / threshold + 1e-9
        seen: set[int] = set()
        for word in self._prefix(tokens):
            for number in self._by_word.get(word, ()):
                if number in seen:
                    continue
                seen.add(number)
                other = self._sets[number]
                if least <= len(other) <= most:
                    common = len(tokens & other)
                    if common >= threshold * (size + len(other) - common) - 1e-9:
                        return number
        return None


def frequencies(sets: Iterable[frozenset[str]]) -> Counter[str]:
    """In how many of the sets each word occurs."""
    return Counter(word for tokens in sets for word in tokens)


def count_near(texts: Iterable[str], references: Iterable[str]) -> int:
    """How many of ``texts`` have a near-duplicate among ``references``."""
    sets = [words(text) for text in references]
    asked = [words(text) for text in texts]
    index = NearIndex(frequencies([*sets, *asked]))
    for tokens in sets:
        index.add(tokens)
    return sum(index.find(tokens) is not None for tokens in asked)
