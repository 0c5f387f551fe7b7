"""People's files: what is understood, what is left out and said, and one clear sentence for what can't be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.context import Context, Plan
from services.data import near, store
from services.data.actions import PrepareParams, prepare
from services.data.prepare import build
from services.errors import BadInput


def _file(folder: Path, content: str | bytes, name: str = "data.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def _csv(rows: list[tuple[str, str]], header: str = "text,label", delimiter: str = ",") -> str:
    lines = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    return header + "\n" + "\n".join(lines) + "\n"


def _many(count: int = 20) -> list[tuple[str, str]]:
    return [(f"text number {n}", "even" if n % 2 == 0 else "odd") for n in range(count)]


def _all(splits) -> set[tuple[str, str]]:
    return {(row.text, row.answer) for part in splits.values() for row in part}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found_though_texts_hold_the_others(tmp_path, delimiter):
    rows = [(f'a, b; c | d "{n}"\tx\nsecond line {n}', "x" if n % 2 else "y") for n in range(12)]
    source = _file(tmp_path, _csv(rows, f"query{delimiter}category", delimiter))
    info, splits = build(tmp_path, PrepareParams(source))
    assert _all(splits) == set(rows)
    assert info.task == "classify" and info.labels == ("x", "y")


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    rows = _many()
    content = b"\xef\xbb\xbf" + _csv(rows).replace("\n", "\r\n").encode() + b"\r\n\r\n"
    _, splits = build(tmp_path, PrepareParams(_file(tmp_path, content)))
    assert _all(splits) == set(rows)


@pytest.mark.parametrize("text", ["text", "Query", "QUESTION", "utterance", "prompt", "input"])
@pytest.mark.parametrize("label", ["label", "Category", "intent", "class", "answer", "completion", "output"])
def test_usual_column_names_are_found_in_any_order(tmp_path, text, label):
    rows = [(answer, question) for question, answer in _many()]
    info, splits = build(tmp_path, PrepareParams(_file(tmp_path, _csv(rows, f"{label},{text}"))))
    assert _all(splits) == set(_many()) and info.task == "classify"


def test_columns_can_be_named_and_unused_ones_are_reported(tmp_path):
    content = "id,frage,art\n" + "".join(f"{n},wie {n},{'a' if n % 2 else 'b'}\n" for n in range(10))
    info, _ = build(tmp_path, PrepareParams(_file(tmp_path, content), text="frage", label="Art"))
    assert "not used: 'id'" in info.warnings[0]
    assert info.checks["missing_values"] == 0


def test_a_label_column_that_is_usually_the_text_can_be_named(tmp_path):
    source = _file(tmp_path, _csv(_many(), "sentence,question"))
    _, splits = build(tmp_path, PrepareParams(source, label="question"))
    assert _all(splits) == set(_many())


def test_labels_that_differ_in_case_alone_are_kept_and_warned_about(tmp_path):
    rows = [(text, "Odd" if n == 3 else label) for n, (text, label) in enumerate(_many())]
    info, _ = build(tmp_path, PrepareParams(_file(tmp_path, _csv(rows))))
    assert info.labels == ("Odd", "even", "odd")
    assert any("'Odd' and 'odd' differ in case alone" in warning for warning in info.warnings)


def test_jsonl_with_numbers_as_labels_and_odd_separators(tmp_path):
    rows = [{"query": f"line\u2028{n}", "label": n % 3, "extra": [1]} for n in range(15)]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    info, splits = build(tmp_path, PrepareParams(_file(tmp_path, content, "data.jsonl")))
    assert info.labels == ("0", "1", "2") and len(_all(splits)) == 15


def test_answers_that_do_not_repeat_make_a_generate_task(tmp_path):
    rows = [(f"question {n}", f"a long answer, number {n}") for n in range(20)]
    info, _ = build(tmp_path, PrepareParams(_file(tmp_path, _csv(rows, "question,answer"))))
    assert info.task == "generate" and info.labels == () and "Answer:" in info.prompt
    forced, _ = build(tmp_path, PrepareParams(_file(tmp_path, _csv(_many(), "question,answer")), task="generate"))
    assert forced.task == "generate"


def test_duplicates_do_not_leak_and_are_reported(tmp_path):
    rows = [
        *_many(30),
        *((f"  TEXT, number {n}!", "even" if n % 2 == 0 else "odd") for n in range(10)),
        ("Text number 3", "even"),
    ]
    info, splits = build(tmp_path, PrepareParams(_file(tmp_path, _csv(rows))))
    keys = [near.normalise(row.text) for part in splits.values() for row in part]
    assert len(keys) == len(set(keys)) == 30
    assert info.checks["duplicates"] == 11 and info.checks["contradictions"] == 1
    assert any("11 duplicate texts" in warning for warning in info.warnings)


def test_a_test_file_stays_whole_and_its_texts_leave_train(tmp_path):
    tests = [("text number 3?", "odd"), ("text number 3?", "odd"), ("quite new", "even")]
    source, test = _file(tmp_path, _csv(_many(30))), _file(tmp_path, _csv(tests), "test.csv")
    info, splits = build(tmp_path, PrepareParams(source, test_file=test))
    assert [(row.text, row.answer) for row in splits["test"]] == tests
    assert info.checks["leaks"] == 1 and sum(info.counts.values()) == 29 + 3
    assert "text number 3" not in {row.text for row in (*splits["train"], *splits["val"])}


def test_rare_and_unseen_labels_are_warned_about(tmp_path):
    source = _file(tmp_path, _csv([*_many(20), ("one of a kind", "rare")]))
    test = _file(tmp_path, _csv([("new", "never seen"), ("text x", "odd")]), "test.csv")
    info, _ = build(tmp_path, PrepareParams(source, test_file=test))
    assert any("fewer than 5 rows: 'rare'" in warning for warning in info.warnings)
    assert any("not in train: 'never seen'" in warning for warning in info.warnings)


def test_rows_with_missing_values_are_left_out_and_named_by_line(tmp_path):
    content = 'text,label\n"a\nb",x\n,x\nno label,\nshort\n' + "".join(
        f"t{n},{'x' if n % 2 else 'y'}\n" for n in range(10)
    )
    info, splits = build(tmp_path, PrepareParams(_file(tmp_path, content)))
    assert len(_all(splits)) == 11
    assert "3 of 14 rows lack a text or a label and were left out (line 4, 5, 6)" in " ".join(info.warnings)


_BAD = [
    ("a\nb\n", "data.csv", {}, r"no column that is known to hold texts; its columns: 'a'"),
    ("text,foo\na,b\n", "data.csv", {}, r"known to hold labels or answers; its columns: 'text', 'foo'"),
    ("text,label\na,b\n", "data.csv", {"label": "lable"}, r"no column 'lable'; did you mean 'label'"),
    ("text,label\na,b\n", "data.csv", {"text": "text", "label": "text"}, r"the same column"),
    ("text,text,label\na,b,c\n", "data.csv", {}, r"two columns called 'text'"),
    ("", "data.csv", {}, r"is empty"),
    (" \n\n", "data.jsonl", {}, r"is empty"),
    ("text,label\n", "data.csv", {}, r"a header but no rows"),
    ("text,label\n,x\ny,\n", "data.csv", {}, r"in every row 'text' or 'label' is empty"),
    ("text,label\na,x\nb,x\nc,x\nd,x\ne,x\n", "data.csv", {}, r"one class only, 'x'"),
    ("text,label\na,x\nb,y\n", "data.csv", {}, r"2 usable rows are too few"),
    (b"text,label\nok,x\ncaf\xe9,y\n", "data.csv", {}, r"not UTF-8: byte 19 \(line 3\) is 0xe9"),
    ("text,label\na,x\n".encode("utf-16"), "data.csv", {}, r"is UTF-16"),
    ("text,label\na\x00b,x\n", "data.csv", {}, r"line 2 holds a NUL byte"),
    ('text,label\na,x\n"b,y\nc,x\n', "data.csv", {}, r"line 3 can't be read as CSV"),
    ("text,label\na,x\nI pay, but no,y\n", "data.csv", {}, r"line 3 has 3 fields where the header has 2"),
    ('{"text":"a","label":"x"}\n{"text":\n', "data.jsonl", {}, r"line 2 is not JSON"),
    ('{"text":"a","label":"x"}\n[1]\n', "data.jsonl", {}, r"line 2 is list, not a JSON object"),
    ('{"text":"\\ud800","label":"x"}\n', "data.jsonl", {}, r"line 1 is not JSON"),
    ('[{"text":"a","label":"x"}', "data.json", {}, r"data\.json is not JSON"),
    ('[{"text":"a","label":"x"}, 3]', "data.json", {}, r"item 2 is int, not a JSON object"),
    (
        "text,label\n" + "".join(f"{n},{'a_b' if n % 2 else 'a b'}\n" for n in range(9)),
        "data.csv",
        {},
        r"are the same words",
    ),
    (_csv(_many()), "data.csv", {"name": "../x"}, r"can't name a dataset"),
    (_csv(_many()), "data.csv", {"test_file": "nowhere.csv"}, r"There is no file .*nowhere\.csv"),
]


@pytest.mark.parametrize(("content", "name", "more", "message"), _BAD)
async def test_bad_input_is_one_sentence_and_writes_nothing(ctx, tmp_path, content, name, more, message):
    source = _file(tmp_path, content, name)
    with pytest.raises(BadInput, match=message) as caught:
        await prepare(ctx, PrepareParams(source, **more))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not ctx.workspace.datasets.exists()


async def test_a_missing_file_is_answered_with_the_nearest(ctx, tmp_path):
    _file(tmp_path, "text,label\n", "questions.csv")
    with pytest.raises(BadInput, match=r"no file .*question\.csv; did you mean 'questions\.csv'"):
        await prepare(ctx, PrepareParams(str(tmp_path / "question.csv")))
    with pytest.raises(BadInput, match="can't be read: Is a directory"):
        await prepare(ctx, PrepareParams(str(tmp_path)))


async def test_prepare_stores_under_the_files_name_and_finds_it_in_the_workspace(ctx):
    _file(ctx.workspace.root, _csv(_many()), "My data (2).csv")
    info = await prepare(ctx, PrepareParams("My data (2).csv"))
    assert info.name == "my-data-2" and store.load_info(Path(info.path)) == info
    assert await prepare(ctx, PrepareParams("My data (2).csv")) == info


async def test_dry_run_says_what_would_be_stored(workspace, tmp_path):
    plan = await prepare(Context(workspace, dry_run=True), PrepareParams(_file(tmp_path, _csv(_many()))))
    assert isinstance(plan, Plan) and "20 rows (16 train, 2 val, 2 test)" in plan.summary
    assert not workspace.datasets.exists()


_cell = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(lambda s: s.strip())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_cell, st.sampled_from("xy")), min_size=8, max_size=30), st.integers(0, 9))
def test_any_csv_python_writes_is_read_back_and_split_the_same_way_by_seed(tmp_path_factory, rows, seed):
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    try:
        info, splits = build(path.parent, PrepareParams(str(path), seed=seed))
    except BadInput as error:
        assert "too few" in str(error) or "one class" in str(error)
        return
    assert _all(splits) <= {(text.strip(), label) for text, label in rows}
    assert {near.normalise(text) for text, _ in _all(splits)} == {near.normalise(text) for text, _ in rows}
    keys = [near.normalise(row.text) for part in splits.values() for row in part]
    assert len(keys) == len(set(keys))
    assert build(path.parent, PrepareParams(str(path), seed=seed))[0].sha256 == info.sha256


async def test_banking77_with_its_own_test_file(ctx, banking77):
    params = PrepareParams(str(banking77 / "train.csv"), name="banking77", test_file=str(banking77 / "test.csv"))
    info = await prepare(ctx, params)
    assert info.counts == {"train": 8951, "val": 994, "test": 3080}
    assert len(info.labels) == 77 and info.task == "classify"
    assert info.checks["leaks"] == 26


async def test_groups_stay_together_and_out_of_train_when_the_test_file_has_them(ctx, tmp_path):
    lines = [f"text number {n},{'odd' if n % 2 else 'even'},c{n // 4}" for n in range(60)]
    source = _file(tmp_path, "text,label,customer\n" + "\n".join(lines) + "\n")
    info = await prepare(ctx, PrepareParams(source, name="one", group="customer"))
    assert info.checks["groups"] == 15 and info.checks["largest_group"] == 4
    where = {}
    for split in store.SPLITS:
        for row in store.read_rows(Path(info.path), split):
            where.setdefault(int(row.text.split()[-1]) // 4, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    test = _file(tmp_path, "text,label,customer\nnew,odd,c0\nother,even,c1\n", "test.csv")
    info, splits = build(tmp_path, PrepareParams(source, test_file=test, group="customer"))
    assert info.checks["group_leaks"] == 8 and "the test has their group" in " ".join(info.warnings)
    assert not {f"text number {n}" for n in range(8)} & {row.text for row in (*splits["train"], *splits["val"])}
