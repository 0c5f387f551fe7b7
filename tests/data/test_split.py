"""Invariants of the stratified split."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.split import stratified
from services.data.types import Row

_counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1)
_shares = st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49))


def _rows(counts: dict[str, int]) -> list[Row]:
    return [Row(f"{label} {n}", label) for label, number in counts.items() for n in range(number)]


@settings(max_examples=150, deadline=None)
@given(_counts, _shares, st.integers(0, 99))
def test_every_row_lands_once_and_every_label_in_its_share(counts, shares, seed):
    rows = _rows(counts)
    val, test = shares
    result = stratified(rows, {"test": test, "val": val}, seed)
    assert Counter(row for split in result.values() for row in split) == Counter(rows)
    for label, number in counts.items():
        have = {split: sum(row.answer == label for row in result[split]) for split in result}
        assert have["train"] >= 1
        assert have["test"] < number * test + 1
        assert have["val"] < number * val + 1
        assert have["test"] > min(number * test, number - 1) - 1
    if any(number > 1 for number in counts.values()):
        assert result["test"]


@settings(max_examples=30, deadline=None)
@given(_counts, st.integers(0, 5))
def test_the_seed_decides_alone(counts, seed):
    rows = _rows(counts)
    shares = {"test": 0.2, "val": 0.1}
    assert stratified(rows, shares, seed) == stratified(rows, shares, seed)


def test_another_seed_gives_another_split():
    rows = _rows({"a": 50, "b": 50})
    assert stratified(rows, {"test": 0.2}, 1)["test"] != stratified(rows, {"test": 0.2}, 2)["test"]
