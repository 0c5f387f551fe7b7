"""Invariants of the stratified split."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.split import grouped, stratified
from services.data.types import Row
from services.errors import BadInput

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


_groups = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=6, max_size=120)


@settings(max_examples=60, deadline=None)
@given(_groups, st.integers(0, 5), st.booleans())
def test_no_group_crosses_splits_and_no_row_is_lost(pairs, seed, by_label):
    rows = [Row(f"text {number}", label) for number, (label, _) in enumerate(pairs)]
    names = ["" if group == 0 else f"g{group}" for _, group in pairs]
    kinds = len({name or number for number, name in enumerate(names)})
    if kinds < 3:
        with pytest.raises(BadInput, match="can't be shared out"):
            grouped(rows, names, {"test": 0.2, "val": 0.1}, seed, by_label=by_label)
        return
    splits = grouped(rows, names, {"test": 0.2, "val": 0.1}, seed, by_label=by_label)
    assert sorted(row.text for part in splits.values() for row in part) == sorted(row.text for row in rows)
    assert all(splits.values())
    group_of = {row.text: name for row, name in zip(rows, names, strict=True)}
    where = [{group_of[row.text] for row in part} - {""} for part in splits.values()]
    assert not (where[0] & where[1] or where[0] & where[2] or where[1] & where[2])
    again = grouped(rows, names, {"test": 0.2, "val": 0.1}, seed, by_label=by_label)
    assert again == splits


def test_many_small_groups_meet_the_shares_of_every_label():
    rows = [Row(f"text {number}", "abcde"[number % 5]) for number in range(3000)]
    names = [f"customer {number // 6}" for number in range(3000)]
    splits = grouped(rows, names, {"test": 0.1, "val": 0.1}, 3)
    for split, share in (("test", 0.1), ("val", 0.1), ("train", 0.8)):
        counts = Counter(row.answer for row in splits[split])
        assert all(abs(counts[label] - 600 * share) <= 12 for label in "abcde"), (split, counts)
