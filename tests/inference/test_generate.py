"""Text in pieces, stop strings, sampling and closed sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.prompts import label_words
from services.errors import BadInput
from services.inference.types import Message, Subject

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.models

from services.runtime.engine import Engine, open_engine  # noqa: E402
from services.runtime.generate import Pieces, Sampling, Stops, choose, generate, pick, prompt_ids  # noqa: E402
from services.runtime.tokenizer import Tokenizer  # noqa: E402
from services.runtime.trie import Node, label_trie  # noqa: E402

MODERATE = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer(tiny)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return open_engine(str(tiny), "fp32")


@MODERATE
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pieces_join_to_the_text_and_never_split_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces = Pieces(tokenizer)
    given_out = [pieces.add(id) for id in ids]
    assert "".join(given_out) + pieces.rest() == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in given_out)


@MODERATE
@given(ids=st.lists(st.integers(3, 399), max_size=40))
def test_pieces_join_to_the_text_also_of_broken_bytes(tokenizer: Tokenizer, ids: list[int]) -> None:
    ids = [id for id in ids if id < tokenizer.size]
    pieces = Pieces(tokenizer)
    assert "".join([*(pieces.add(id) for id in ids), pieces.rest()]) == tokenizer.decode(ids)


@MODERATE
@given(
    parts=st.lists(st.text("ab\n", max_size=4), max_size=8),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_stops_cut_in_the_same_place_however_the_text_is_split(parts: list[str], stop: tuple[str, ...]) -> None:
    whole = "".join(parts)
    ends = [(at + len(word), at) for word in stop if (at := whole.find(word)) >= 0]
    stops = Stops(stop)
    out = ""
    for part in parts:
        out += stops.add(part)
        if stops.hit:
            break
    if not stops.hit:
        out += stops.rest()
    assert out == (whole[: min(ends)[1]] if ends else whole)
    assert stops.hit == bool(ends)


def test_stops_give_out_at_once_what_can_be_no_stop() -> None:
    stops = Stops(("END",))
    assert [stops.add(p) for p in ("abc", " E", "N", "x")] == ["abc", " ", "", "ENx"]


@MODERATE
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.05, 1), temperature=st.floats(0.1, 3))
def test_top_p_never_draws_beyond_the_nucleus(seed: int, top_p: float, temperature: float) -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(seed))
    chances = (scores / temperature).softmax(-1)
    ordered, order = chances.sort(descending=True)
    size = int((ordered.cumsum(-1) < top_p - 1e-6).sum()) + 1
    drawn = pick(scores, Sampling(temperature=temperature, top_p=top_p), torch.Generator().manual_seed(seed))
    assert drawn in order[: size + 1].tolist()
    if chances.max() >= top_p:
        assert drawn == int(scores.argmax())


def run(engine: Engine, tokenizer: Tokenizer, text: str = "How", **how: Any) -> tuple[Any, list[str]]:
    pieces: list[str] = []
    ids = prompt_ids(tokenizer, Subject("base", ""), text)
    return generate(engine, tokenizer, ids, Sampling(**how), pieces.append, lambda: False), pieces


def test_an_answer_is_its_pieces_and_a_seed_repeats_it(engine: Engine, tokenizer: Tokenizer) -> None:
    first, pieces = run(engine, tokenizer, max_tokens=60, temperature=2.0, seed=3)
    assert "".join(pieces) == first.text and len(pieces) > 5
    assert first.tokens <= 60 and first.first_token_s > 0 and not first.stopped
    again, _ = run(engine, tokenizer, max_tokens=60, temperature=2.0, seed=3)
    other, _ = run(engine, tokenizer, max_tokens=60, temperature=2.0, seed=4)
    assert again.text == first.text != other.text


def test_a_stop_string_ends_the_answer_before_it(engine: Engine, tokenizer: Tokenizer) -> None:
    whole, _ = run(engine, tokenizer, max_tokens=40)
    word = whole.text[10:14]
    cut, pieces = run(engine, tokenizer, max_tokens=40, stop=(word,))
    assert cut.text == whole.text[: whole.text.index(word)] == "".join(pieces)
    assert cut.tokens < whole.tokens


def test_max_tokens_and_the_models_positions_are_kept(engine: Engine, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert run(engine, tokenizer, max_tokens=7)[0].tokens == 7
    from tests.runtime.tiny_model import write_llama

    small = open_engine(str(write_llama(tmp_path / "small", seed=1)), "fp32")  # 512 positions
    ids = tokenizer.encode("card " * 600)
    with pytest.raises(BadInput, match=r"takes 512"):
        generate(small, tokenizer, ids, Sampling(), lambda _: None, lambda: False)
    assert generate(small, tokenizer, ids[:500], Sampling(max_tokens=99), lambda _: None, lambda: False).tokens <= 12
    with pytest.raises(BadInput, match="empty"):
        generate(small, tokenizer, [], Sampling(), lambda _: None, lambda: False)


def test_an_end_token_ends_the_answer_unseen(engine: Engine, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("How")
    drawn = [
        generate(engine, tokenizer, ids, Sampling(200, 5.0, 1.0, seed), lambda _: None, lambda: False)
        for seed in range(8)
    ]
    ended = [answer for answer in drawn if answer.tokens < 200]
    assert ended and all("<|im_end|>" not in answer.text for answer in ended)


def test_chat_and_task_prompts(tokenizer: Tokenizer) -> None:
    task = Subject("x", "", prompt="Query: {text}\nIntent:")
    assert tokenizer.decode(prompt_ids(tokenizer, task, " a {text} b ")) == "Query: a {text} b\nIntent:"
    chat = prompt_ids(tokenizer, Subject("base", ""), messages=(Message("user", "héllo"),))
    shown = tokenizer.decode(chat, specials=True)
    assert shown == "<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"
    tokenizer_without = Tokenizer(tokenizer.folder)
    tokenizer_without.chat_template = None
    plain = prompt_ids(tokenizer_without, Subject("base", ""), messages=(Message("user", "a"), Message("user", "b")))
    assert tokenizer.decode(plain, specials=True) == "a\n\nb"


def best_label(engine: Engine, tokenizer: Tokenizer, ids: list[int], node: Node) -> str:
    """The greedy walk along the trie, each step from scratch."""
    while node.label is None:
        scores = engine.prefill(ids, 1, lambda: False)
        assert scores is not None
        id = max(node.next, key=lambda i: float(scores[i]))
        ids, node = [*ids, id], node.next[id]
    return node.label


def distinct(labels: list[str]) -> list[str]:
    """Without those that are the same words."""
    return list({label_words(label): label for label in labels if label_words(label)}.values())


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.text("abc_", max_size=6), min_size=1, max_size=8).map(distinct).filter(bool),
    text=st.text("abc ?", min_size=1, max_size=10),
)
def test_a_constrained_answer_is_the_best_way_down_the_trie(
    engine: Engine, tokenizer: Tokenizer, labels: list[str], text: str
) -> None:
    ids = prompt_ids(tokenizer, Subject("x", "", prompt="Query: {text}\nIntent:"), text)
    answer = choose(engine, tokenizer, ids, tuple(labels), Sampling(), lambda: False)
    assert answer.text == best_label(engine, tokenizer, ids, label_trie(tokenizer, labels))


def test_a_label_that_begins_another_can_be_chosen(engine: Engine, tokenizer: Tokenizer) -> None:
    labels = ("card", "card_arrival")
    trie = label_trie(tokenizer, labels)
    found = []

    def walk(node: Node) -> None:
        if node.label is not None:
            found.append(node.label)
        for child in node.next.values():
            walk(child)

    walk(trie)
    assert sorted(found) == sorted(labels)
    ids = tokenizer.encode("x")
    drawn = {
        choose(engine, tokenizer, ids, labels, Sampling(temperature=5.0, seed=s), lambda: False).text for s in range(40)
    }
    assert drawn == set(labels)


def test_a_stopped_choice_is_no_answer(engine: Engine, tokenizer: Tokenizer) -> None:
    answer = choose(engine, tokenizer, [5, 6], ("card", "top_up"), Sampling(), lambda: True)
    assert answer.stopped and answer.text == ""
