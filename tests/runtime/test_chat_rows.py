"""Conversations as training rows: which tokens are learned, what is cut, what is read at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from services.data import chat, prompts
from services.data.types import Row, Turn
from services.inference.types import Message, Subject
from services.runtime import batches, conversations
from services.runtime.batches import Example
from services.runtime.tokenizer import Tokenizer
from tests.runtime import support, tiny_model

pytestmark = pytest.mark.models

MARKED = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (  # leaves the thoughts out of earlier answers, as templates of thinking models do
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = (
    Turn("system", "Be kind."),
    Turn("user", "where is my card"),
    Turn("assistant", "It is on the way."),
    Turn("user", "and my refund"),
    Turn("assistant", "pending: 3 days \u20ac"),
)
WORDS = st.text(min_size=1, max_size=30).map(lambda text: text.strip().replace("<|", "")).filter(bool)
TALKS = st.builds(
    lambda system, pairs: (*system, *(t for q, a in pairs for t in (Turn("user", q), Turn("assistant", a)))),
    st.lists(WORDS.map(lambda text: Turn("system", text)), max_size=1),
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
)


def made(folder: Path, template: str | None = tiny_model.CHAT) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    tiny_model.write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return made(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module", params=["own", "marked", "plain"])
def any_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    template = {"own": tiny_model.CHAT, "marked": MARKED, "plain": None}[request.param]
    return made(tmp_path_factory.mktemp("any"), template)


def learned(tokenizer: Tokenizer, example: Example) -> list[str]:
    return [tokenizer.decode(example.ids[start:end], specials=True) for start, end in example.spans]


def one(tokenizer: Tokenizer, messages: tuple[Turn, ...], room: int = 512) -> tuple[Example | None, int, int]:
    found, cut, out = batches.encode(tokenizer, prompts.GENERATE, [chat.row(messages)], classify=False, max_length=room)
    return (found[0] if found else None), cut, out


@settings(max_examples=40, deadline=None)
@given(messages=TALKS)
def test_every_answer_is_learned_with_its_end_and_nothing_else(
    any_tokenizer: Tokenizer, messages: tuple[Turn, ...]
) -> None:
    example, cut, out = one(any_tokenizer, messages)
    assert example and (cut, out) == (0, 0)
    answers = [turn.content for turn in messages if turn.role == "assistant"]
    assert [text.removesuffix("<|im_end|>").strip() for text in learned(any_tokenizer, example)] == answers
    assert all(example.ids[end - 1] == any_tokenizer.eos_id for _, end in example.spans)
    asked = batches.asked_ids(any_tokenizer, "", chat.row(messages), 512, classify=False)
    assert asked == list(example.ids[: example.spans[-1][0]])
    _, at, targets = batches.packed([example, example])
    before = [i - 1 for i in example.learned]
    assert at.tolist() == [
        *before,
        *(i + example.tokens - 1 for i in before),
    ]  # a row's last token is not among the ids
    assert targets.tolist() == [example.ids[i] for i in example.learned] * 2 and len(targets) == 2 * example.labels


@pytest.mark.parametrize("template", [MARKED, tiny_model.CHAT], ids=["marked", "own"])
def test_same_as_transformers(tmp_path: Path, template: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = made(tmp_path / "t", template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    messages = [{"role": turn.role, "content": turn.content} for turn in TALK]
    example, _, _ = one(tokenizer, TALK)
    assert example
    marked = template == MARKED
    got = theirs.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked)
    assert list(example.ids) == got["input_ids"][: example.tokens]
    assert set(theirs.decode(got["input_ids"][example.tokens :])) <= {"\n"}
    if marked:
        mask = [int(i in example.learned) for i in range(len(got["input_ids"]))]
        assert mask == got["assistant_masks"]
        return
    for (start, _), count in zip(example.spans, (2, 4), strict=True):
        prefix = theirs.apply_chat_template(messages[:count], tokenize=True, add_generation_prompt=True)
        assert list(example.ids[:start]) == list(prefix["input_ids"])


@settings(max_examples=40, deadline=None)
@given(messages=TALKS, room=st.integers(16, 120))
def test_the_oldest_turns_go_first(any_tokenizer: Tokenizer, messages: tuple[Turn, ...], room: int) -> None:
    example, cut, out = one(any_tokenizer, messages, room)
    whole, _, _ = one(any_tokenizer, messages)
    assert whole and (cut == 1) == (whole.tokens > room and not out)
    if example is None:
        assert out == 1 and whole.tokens > room
        return
    assert example.tokens <= room
    kept, all_of_them = learned(any_tokenizer, example), learned(any_tokenizer, whole)
    assert kept == all_of_them[len(all_of_them) - len(kept) :]
    if messages[0].role == "system":
        assert messages[0].content in any_tokenizer.decode(example.ids)
    asked = batches.asked_ids(any_tokenizer, "", chat.row(messages), room, classify=False)
    assert asked is None or len(asked) <= room


def test_a_long_question_is_cut_from_the_left_and_an_answer_never(tokenizer: Tokenizer) -> None:
    long = (Turn("user", "account " * 200 + "limit"), Turn("assistant", "no"))
    example, cut, _ = one(tokenizer, long, 40)
    assert example and cut == 1 and 36 <= example.tokens <= 40
    assert "account limit" in tokenizer.decode(example.ids) and learned(tokenizer, example) == ["no<|im_end|>"]
    assert one(tokenizer, (Turn("user", "hi"), Turn("assistant", "no " * 100)), 40) == (None, 0, 1)


def test_a_template_that_rewrites_earlier_answers(tmp_path: Path) -> None:
    tokenizer = made(tmp_path / "t", FORGETFUL)
    example, _, _ = one(tokenizer, TALK)
    assert example
    assert learned(tokenizer, example) == [
        "It is on the way.<|im_end|>",
        "<think></think>pending: 3 days \u20ac<|im_end|>",
    ]


def test_without_a_template_the_plain_one_is_used_wherever_the_adapter_is(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from services.runtime.generate import prompt_ids

    tokenizer = made(tmp_path / "t", None)
    found = conversations.render(tokenizer, TALK[1:3])
    assert tokenizer.decode(found.ids, specials=True) == (
        "User: where is my card\nAssistant: It is on the way.<|im_end|>"
    )
    said = (Message("user", TALK[1].content),)
    assert prompt_ids(tokenizer, Subject("x", "", chat=True), messages=said) == list(found.ids[: found.spans[0][0]])


def test_a_run_on_conversations(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = tiny_model.write_llama(tmp_path / "model")
    data = support.write_dataset(tmp_path / "data", train=8, test=4, task="generate")
    info = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    (data / "dataset.json").write_text(json.dumps(info | {"format": "chat"}), encoding="utf-8")
    line = json.dumps({"text": TALK[3].content, "answer": TALK[4].content, "messages": [
        {"role": turn.role, "content": turn.content} for turn in TALK
    ]})  # fmt: skip
    for split, count in {"train": 8, "val": 2, "test": 2}.items():
        (data / f"{split}.jsonl").write_text(f"{line}\n" * count, encoding="utf-8")
    run = support.write_run(tmp_path / "run", model, data, epochs=30, lr=1e-2, compile="off")
    code, events = support.train(run)
    assert code == 0
    result = next(e for e in events if e["ev"] == "metric" and e["split"] == "test")
    assert result["accuracy"] == 1.0 and result["perplexity"] < 1.5
    about = json.loads((run / "output" / "metadata.json").read_text(encoding="utf-8"))
    assert (about["format"], about["prompt"]) == ("chat", "")


def test_both_learners_learn_the_same_tokens(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig

    model = tiny_model.write_llama(tmp_path / "model")
    example, _, _ = one(Tokenizer(model), TALK)
    assert example
    sums = []
    for method in ("lora", "dora"):
        learner = open_learner(str(model), "fp32", method=method, device="cpu")
        learner.attach(LoraConfig(4, 8.0, 0.0, False), 0)
        with torch.no_grad():
            sums.append(float(learner.loss([example, example], training=False)))
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


DATED = "{{ strftime_now('%d %B %Y, %H') }}\n" + tiny_model.CHAT


def test_a_date_in_the_template_is_that_of_the_runs_start_however_late_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "m", DATED)
    started = 1_795_000_000.0  # 18 November 2026, 11:06 UTC
    rows = [Row("", "pending: 3 days", messages=TALK)]

    def encoded() -> list[Example]:
        words = Tokenizer(tmp_path / "m", started)
        return batches.encode(words, prompts.GENERATE, rows, classify=False, max_length=200)[0]

    first = encoded()
    assert "18 November 2026, 11" in Tokenizer(tmp_path / "m").decode(first[0].ids)
    for later, zone in ((started + 86_400 * 3, "UTC"), (started + 1, "Pacific/Auckland")):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        monkeypatch.setattr(time, "time", lambda later=later: later)
        assert encoded() == first
    monkeypatch.undo()
    time.tzset()
    assert time.strftime("%d %B %Y") in Tokenizer(tmp_path / "m").chat([{"role": "user", "content": "hi"}])
