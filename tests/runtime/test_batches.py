"""Rows as tokens and batches: labels, budgets, order, cutting."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from services.data import prompts
from services.data.types import Row
from services.errors import BadInput
from services.runtime import batches
from services.runtime.batches import Example, Order
from services.runtime.tokenizer import Tokenizer
from tests.runtime import tiny_model

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_model.write_tokenizer(folder)
    return Tokenizer(folder)


def test_labels_begin_at_the_answer_and_end_with_end_of_text(tokenizer: Tokenizer) -> None:
    row = Row("where is my card", "card_arrival")
    (example,), cut, left_out = batches.encode(tokenizer, prompts.CLASSIFY, [row], classify=True, max_length=512)
    assert (cut, left_out) == (0, 0)
    assert tokenizer.decode(example.ids[: example.answer]) == "Query: where is my card\nIntent:"
    assert tokenizer.decode(example.ids[example.answer :]) == " card arrival"
    assert example.ids[-1] == tokenizer.eos_id


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), room=st.integers(24, 80))
def test_a_long_text_is_cut_from_the_left_and_the_rest_stays(tokenizer: Tokenizer, text: str, room: int) -> None:
    found, cut, left_out = batches.encode(
        tokenizer, prompts.CLASSIFY, [Row(text, "refund")], classify=True, max_length=room
    )
    if left_out:
        return
    (example,) = found
    assert example.tokens <= room
    prompt = tokenizer.decode(example.ids[: example.answer])
    assert prompt.startswith("Query:") and prompt.endswith("\nIntent:")
    assert tokenizer.decode(example.ids[example.answer :]) == " refund"
    kept = prompt.removeprefix("Query:").removesuffix("\nIntent:").strip()
    if not cut:
        assert kept == text.strip() or "\ufffd" in kept
    else:
        assert text.strip().endswith(kept.lstrip("\ufffd"))


def test_a_row_whose_answer_is_too_long_is_left_out(tokenizer: Tokenizer) -> None:
    rows = [Row("hi", "word " * 60), Row("hi", "refund")]
    found, cut, left_out = batches.encode(tokenizer, prompts.GENERATE, rows, classify=False, max_length=48)
    assert len(found) == 1 and left_out == 1 and cut == 0


def some(lengths: list[int]) -> list[Example]:
    return [Example((i, *[9] * (length - 1)), 1) for i, length in enumerate(lengths)]


lengths = st.lists(st.integers(2, 60), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, rows=st.integers(1, 9), tokens=st.integers(16, 120), seed=st.integers(0, 99))
def test_every_row_once_within_the_budgets(lengths: list[int], rows: int, tokens: int, seed: int) -> None:
    examples = some(lengths)
    found = batches.epoch_batches(examples, epoch=0, seed=seed, batch_rows=rows, batch_tokens=tokens)
    assert sorted(e.ids[0] for b in found for e in b.examples) == list(range(len(examples)))
    for batch in found:
        assert len(batch.examples) <= rows
        assert batch.tokens <= tokens or len(batch.examples) == 1
    again = batches.epoch_batches(examples, epoch=0, seed=seed, batch_rows=rows, batch_tokens=tokens)
    assert again == found


@settings(max_examples=30, deadline=None)
@given(lengths=lengths, start=st.integers(0, 150), seed=st.integers(0, 99))
def test_going_on_at_a_step_gives_the_batches_of_an_uninterrupted_run(
    lengths: list[int], start: int, seed: int
) -> None:
    order = Order(tuple(some(lengths)), seed, 4, 64)
    whole = list(itertools.islice(order.batches(), start + 5))
    assert list(itertools.islice(order.batches(start), 5)) == whole[start:]
    if start:  # from what a checkpoint knows of the step before
        _, first, batch = whole[start - 1]
        assert list(itertools.islice(order.batches(start, batch.epoch, first), 5)) == whole[start:]


def test_a_long_plan_makes_few_passes_and_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    one = Order.epoch

    def counted(self: Order, number: int) -> list[batches.Batch]:
        made.append(number)
        return one(self, number)

    monkeypatch.setattr(Order, "epoch", counted)
    rows = Order(tuple(some([2 + i % 9 for i in range(103)])), 3, 4, 64)
    assert rows.steps(10_000.5, 10**9) == 10_000 * 26 + 13 and not made
    tokens = Order(tuple(some([2 + i * 7 % 50 for i in range(103)])), 3, 4, 64)
    found = tokens.steps(10_000, 10**9)
    assert len(made) == batches.LOOKED
    passes = [len(one(tokens, number)) for number in range(100)]
    assert len(set(passes)) > 1 and found == pytest.approx(100 * sum(passes), rel=0.01)
    assert tokens.steps(12, 10**9) == sum(passes[:12])
    assert tokens.steps(1e9, 500) == 500


def test_epochs_differ_and_fractions_count(tokenizer: Tokenizer) -> None:
    order = Order(tuple(some([10] * 100)), 0, 4, 64)
    assert [b.examples for b in order.epoch(0)] != [b.examples for b in order.epoch(1)]
    assert [order.steps(epochs, 1000) for epochs in (1, 0.5, 2.1, 0.0001)] == [25, 13, 53, 1]
    assert order.steps(1e9, 60) == 60
    reached = [epoch for epoch, _, _ in itertools.islice(order.batches(), 50)]
    assert reached[24] == 1 and reached[49] == 2


def test_no_rows_is_refused() -> None:
    with pytest.raises(BadInput, match="no row"):
        Order((), 0, 4, 64)


def test_lengths_in_a_batch_are_alike() -> None:
    order = Order(tuple(some([2 + i % 40 for i in range(800)])), 0, 8, 4096)
    padded = sum(len(b.examples) * max(e.tokens for e in b.examples) for b in order.epoch(0))
    real = sum(b.tokens for b in order.epoch(0))
    assert padded < 1.15 * real


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="damaged"):
        Tokenizer(tmp_path)
