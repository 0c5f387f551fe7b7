"""data.check: what is wrong with rows is counted, tokens are those the model reads, personal data is shown masked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.context import Context
from services.data import lengths, personal, prompts, store
from services.data.check import CheckParams, check
from services.data.checksums import verhoeff
from services.data.types import DatasetInfo, Row, Turn
from services.errors import BadInput


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as far as its tokenizer goes: with a chat template, without weights."""
    pytest.importorskip("tokenizers")
    from tests.runtime.tiny_model import write_tokenizer

    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def _store(ctx: Context, rows: store.Rows, task: str = "classify", name: str = "mine") -> DatasetInfo:
    prompt = prompts.CLASSIFY if task == "classify" else prompts.GENERATE
    info = store.build_info(name, task, prompt, rows, source="test", seed=0)
    return store.write(ctx, "test", info, rows)


def _rows(**changed: list[Row]) -> dict:
    many = [Row(f"my card number {n} was declined", "card" if n % 2 else "cash") for n in range(40)]
    return {"train": many, "val": [Row("what now", "card")], "test": [Row("why is that", "cash")], **changed}


def _said(result) -> str:
    return "\n".join(result.warnings)


async def test_a_clean_dataset_has_no_warning(ctx):
    _store(ctx, _rows())
    result = await check(ctx, CheckParams("mine"))
    assert result.warnings == () and result.balance.ratio == 1.0 and result.personal == ()


async def test_leaks_duplicates_contradictions_and_damage_are_counted_by_split(ctx):
    test = [
        Row("My card number 3 was declined!", "card"),
        Row("my own card number 5 was declined", "card"),
        Row("why", "cash"),
        Row("WHY?", "card"),
        Row("le cafÃ© est fermÃ©", "cash"),
    ]
    _store(ctx, _rows(test=test))
    result = await check(ctx, CheckParams("mine"))
    found = next(item for item in result.splits if item.split == "test")
    assert (found.in_train, found.near_train, found.duplicates, found.contradictions, found.damaged) == (1, 2, 1, 1, 1)
    assert "In test, 1 row has a text that train has too: a leak." in result.warnings


async def test_uneven_labels_are_named(ctx):
    _store(ctx, _rows(train=[Row(f"text {n}", "rare" if n == 7 else "common") for n in range(30)]))
    result = await check(ctx, CheckParams("mine"))
    assert "'common' has 29 training rows, 'rare' 1" in _said(result)


async def test_tokens_are_those_the_trainer_makes(ctx, model):
    from services.runtime.batches import encode
    from services.runtime.tokenizer import Tokenizer

    long = Row("please " * 60 + "why was my card declined", "card")
    rows = _rows(train=[*_rows()["train"], long])
    info = _store(ctx, rows)
    result = await check(ctx, CheckParams("mine", model=str(model), max_length=48, samples=2))
    examples, cut, left_out = encode(Tokenizer(model), info.prompt, rows["train"], classify=True, max_length=48)
    train = next(item for item in result.tokens if item.split == "train")
    assert 0 <= result.epoch_tokens - sum(e.tokens for e in examples) <= cut
    assert (train.cut, train.left_out, train.rows) == (cut, left_out, 41) == (1, 0, 41)
    assert train.max > 48 and "2.4% of the rows in train are longer than 48 tokens" in _said(result)
    assert "the tokenizer of" in result.tokens_by
    for sample in result.samples:
        assert sample.prompt.startswith("Query: my card") and sample.answer.endswith("<|im_end|>")
        assert 2 <= sample.answer_tokens < sample.tokens
    result = await check(ctx, CheckParams("mine", model=str(model), max_length=16))
    train = next(item for item in result.tokens if item.split == "train")
    examples, _, left_out = encode(Tokenizer(model), info.prompt, rows["train"], classify=True, max_length=16)
    assert train.left_out == left_out


async def test_conversations_are_shown_in_the_models_chat_template(ctx, model):
    def talk(n: int) -> Row:
        turns = (
            Turn("system", "Be brief."), Turn("user", f"first {n}"), Turn("assistant", "yes"),
            Turn("user", f"second {n}"), Turn("assistant", f"no {n}"),
        )  # fmt: skip
        return Row(f"second {n}", f"no {n}", turns)

    rows = {"train": [talk(n) for n in range(9)], "val": [talk(20)], "test": [talk(30)]}
    _store(ctx, rows, "generate")
    result = await check(ctx, CheckParams("mine", model=str(model), samples=1))
    assert "in its chat template" in result.tokens_by and result.format == "chat"
    [sample] = result.samples
    assert sample.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nfirst")
    assert sample.prompt.endswith("<|im_start|>assistant\n") and sample.answer.endswith("<|im_end|>")
    (model / "tokenizer_config.json").rename(model / "aside.json")
    settings = json.loads((model / "aside.json").read_text())
    (model / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in settings.items() if k != "chat_template"})
    )
    try:
        result = await check(ctx, CheckParams("mine", model=str(model), samples=1))
    finally:
        (model / "aside.json").replace(model / "tokenizer_config.json")
    assert "it has no chat template" in result.tokens_by


async def test_without_a_model_the_estimate_says_that_it_is_one(ctx):
    _store(ctx, _rows())
    result = await check(ctx, CheckParams("mine"))
    assert result.tokens_by.startswith("an estimate from words") and "model=" in result.tokens_by
    assert 200 < result.epoch_tokens < 900 and len(result.samples) == 3


async def test_a_models_own_fault_is_told(ctx, model, tmp_path):
    _store(ctx, _rows())
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (broken / name).write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json is damaged"):
        await check(ctx, CheckParams("mine", model=str(broken)))


async def test_a_file_is_checked_without_being_stored(ctx, tmp_path):
    source = tmp_path / "questions.csv"
    source.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20)))
    result = await check(Context(ctx.workspace, read_only=True), CheckParams(str(source)))
    assert result.name == "questions" and sum(item.rows for item in result.splits) == 20
    assert not ctx.workspace.datasets.exists()
    with pytest.raises(BadInput, match="There is no dataset 'nothing'"):
        await check(ctx, CheckParams("nothing"))


async def test_personal_data_is_a_masked_warning(ctx):
    _store(ctx, _rows(val=[Row("write to anna.smith@example.org", "card")]))
    result = await check(ctx, CheckParams("mine"))
    assert "1 row has what looks like an e-mail, e.g. a•••@e•••.org." in result.warnings
    assert "anna" not in _said(result)


_VALID = [
    ("IBAN", "GB82 WEST 1234 5698 7654 32"),
    ("IBAN", "DE89370400440532013000"),
    ("card number", "4111 1111 1111 1111"),
    ("card number", "378282246310005"),
    ("national id (ES)", "12345678Z"),
    ("national id (ES)", "X1234567L"),
    ("national id (IT)", "RSSMRA85T10A562S"),
    ("national id (PL)", "44051401359"),
    ("national id (BR)", "529.982.247-25"),
    ("national id (SE)", "811228-9874"),
    ("national id (DE)", "86095742719"),
    ("national id (FR)", "2 55 08 14 168 025 38"),
    ("national id (IN)", "2341 2341 2346"),
]


@pytest.mark.parametrize(("kind", "number"), _VALID)
def test_numbers_with_right_check_digits_are_found_and_with_wrong_ones_not(kind, number):
    [found] = personal.scan([f"mine is {number}, AND yours?", "nothing 12 here"])
    assert (found.kind, found.count, found.rows) == (kind, 1, 1)
    hidden = found.examples[0]
    assert sum(c.isalnum() for c in hidden) <= 4 and len(hidden) == len(number)
    last = number[-1]
    other = chr(ord(last) + 1) if last not in "9Z" else ("0" if last == "9" else "A")
    assert kind not in {f.kind for f in personal.scan([f"mine is {number[:-1]}{other}."])}


@pytest.mark.parametrize(
    "phone", ["+44 20 7946 0958", "(555) 123-4567", "555-123-4567", "030 1234567", "0044207946095"]
)
def test_phone_numbers(phone):
    assert [found.kind for found in personal.scan([f"call {phone} now"])] == ["phone number"]


@pytest.mark.parametrize(
    "text", ["on 2024-10-12 at 10:30", "£12,345.00 and 3.14159", "order 123456", "version 1.2.3-4", "a@b", "20 000 000"]
)
def test_dates_sums_and_versions_are_not_personal(text):
    assert personal.scan([text]) == ()


def test_verhoeffs_own_examples():
    assert verhoeff([2, 3, 6, 3]) and verhoeff([1, 2, 3, 4, 5, 1]) and not verhoeff([1, 2, 3, 4, 5, 2])


def test_figures_of_lengths():
    found = lengths.lengths("train", [5, 1, 9, 20, 3], 8, 1)
    assert (found.p50, found.max, found.cut, found.cut_share) == (5, 20, 2, 0.4)
    assert found.epoch_tokens == 5 + 1 + 3 + 8 + 8 - 8
    assert lengths.lengths("val", [], 8, 0).epoch_tokens == 0
