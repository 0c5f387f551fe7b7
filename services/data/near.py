"""Texts that are the same, or almost: normalised forms and an exact search by the Jaccard index of their words.

The search filters by prefix: two sets that overlap by a share t must share some of their few rarest words, so only
texts listed under those are compared: under one word for long texts, under pairs, which are far rarer, for short ones.
(Chaudhuri, Ganti, Kaushik: A primitive operator for similarity joins, ICDE 2006; two shared words instead of one: Wang,
Li, Feng: Can we beat the prefix filtering?, SIGMOD 2012.)
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

NEAR = 0.8
"""From this Jaccard index of their sets of words on, two texts count as near-duplicates."""

_LONG = 40  # sets beyond this size are listed under single words: they would have too many pairs
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
        self._by_key: dict[str | tuple[str, str], list[int]] = defaultdict(list)

    def _rarest(self, tokens: frozenset[str], shared: int) -> list[str]:
        """So many of the rarest words that every set near ``tokens`` has at least ``shared`` of them in its own."""
        rare_first = sorted(tokens, key=lambda word: (self._frequency[word], word))
        return rare_first[: len(tokens) - math.ceil(self._threshold * len(tokens) - 1e-9) + shared]

    def _pairs(self, tokens: frozenset[str]) -> Iterator[str | tuple[str, str]]:
        rarest = self._rarest(tokens, 2)
        return itertools.combinations(rarest, 2) if len(tokens) * self._threshold > 1 else iter(rarest)

    def add(self, tokens: frozenset[str]) -> int:
        """Take in a set; returns its number (0, 1, …)."""
        number = len(self._sets)
        self._sets.append(tokens)
        for key in self._pairs(tokens) if len(tokens) <= _LONG else self._rarest(tokens, 1):
            self._by_key[key].append(number)
        return number

    def find(self, tokens: frozenset[str]) -> int | None:
        """The number of one set whose Jaccard index with ``tokens`` reaches the threshold, or None."""
        return next(self.all(tokens), None)

    def all(self, tokens: frozenset[str]) -> Iterator[int]:
        """The numbers of all such sets, in no order."""
        size, threshold = len(tokens), self._threshold
        keys: list[str | tuple[str, str]] = []
        if size <= _LONG / threshold:
            keys += self._pairs(tokens)
        if size >= _LONG * threshold:
            keys += self._rarest(tokens, 1)
        least, most = threshold * size - 1e-9, size / threshold + 1e-9
        seen: set[int] = set()
        for key in keys:
            for number in self._by_key.get(key, ()):
                if number in seen:
                    continue
                seen.add(number)
                other = self._sets[number]
                if least <= len(other) <= most:
                    common = len(tokens & other)
                    if common >= threshold * (size + len(other) - common) - 1e-9:
                        yield number


def frequencies(sets: Iterable[frozenset[str]]) -> Counter[str]:
    """In how many of the sets each word occurs."""
    return Counter(word for tokens in sets for word in tokens)


def count_near(texts: Iterable[str], references: Iterable[str]) -> int:
    """How many of ``texts`` have a near-duplicate among ``references``, which pass by one at a time."""
    asked = [words(text) for text in texts]
    index = NearIndex(frequencies(asked))
    for tokens in asked:
        index.add(tokens)
    near: set[int] = set()
    for text in references:
        near.update(index.all(words(text)))
    return len(near)
