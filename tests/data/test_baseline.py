"""The words-only baseline and the figures of a classifier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.context import Context
from services.data import scores
from services.data.baseline import BaselineParams, NaiveBayes, baseline
from services.data.generate import GenerateParams, generate
from services.data.types import Row
from services.errors import BadInput


def test_words_decide() -> None:
    rows = [
        Row("lost my card", "card"),
        Row("card is gone", "card"),
        Row("pin wrong", "pin"),
        Row("forgot my pin", "pin"),
    ]
    classifier = NaiveBayes(rows)
    assert classifier.label("where is the card") == "card"
    assert classifier.label("a new PIN, please") == "pin"


async def test_on_generated_data_it_is_good_but_not_perfect(ctx: Context) -> None:
    await generate(ctx, GenerateParams(name="b", rows=1200))
    found = await baseline(ctx, BaselineParams("b"))
    assert found.rows == 120
    assert 0.5 < found.accuracy < 0.95
    assert abs(found.macro_f1 - found.accuracy) < 0.15


async def test_an_unknown_dataset_is_named(ctx: Context) -> None:
    with pytest.raises(BadInput, match="nothing"):
        await baseline(ctx, BaselineParams("nothing"))


def test_macro_f1_of_a_known_case() -> None:
    # label a: precision 1/2, recall 1; label b: precision 1, recall 1/2
    assert scores.macro_f1(["a", "b", "b"], ["a", "a", "b"]) == pytest.approx((2 / 3 + 2 / 3) / 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_figures_are_shares_and_one_only_when_all_is_right(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    for figure in (scores.accuracy(truth, predicted), scores.macro_f1(truth, predicted)):
        assert 0 <= figure <= 1
        assert (figure == 1) == (truth == predicted)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_macro_f1_is_the_mean_over_labels(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    expected = []
    for label in {*truth, *predicted}:
        hit = sum(a == b == label for a, b in pairs)
        precision = hit / predicted.count(label) if label in predicted else 0
        recall = hit / truth.count(label) if label in truth else 0
        expected.append(2 * precision * recall / (precision + recall) if hit else 0)
    assert scores.macro_f1(truth, predicted) == pytest.approx(sum(expected) / len(expected))
