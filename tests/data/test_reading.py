"""The formats people's data comes in: JSON arrays, Parquet, conversations, instructions, prompt and completion."""

from __future__ import annotations

import builtins
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

from services.data import chat, store, table
from services.data.actions import PrepareParams, prepare
from services.data.encoding import check_utf8
from services.data.prepare import build
from services.data.types import Row, Turn
from services.errors import BadInput, HybridError


def _jsonl(folder: Path, records: list[dict], name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def _rows(splits) -> list[Row]:
    return [row for part in splits.values() for row in part]


def _openai(n: int) -> list[dict]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"First question {n}"},
        {"role": "assistant", "content": f"First answer {n}"},
        {"role": "user", "content": f"Second question {n}"},
        {"role": "assistant", "content": f"Second answer {n}"},
    ]


def _sharegpt(n: int) -> list[dict]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in _openai(n)]


def test_a_json_array_is_read_like_lines(tmp_path):
    records = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(2500)]
    array = tmp_path / "array.json"
    array.write_text(json.dumps(records, indent=1))
    lines = _jsonl(tmp_path, records)
    assert build(tmp_path, PrepareParams(str(array)))[0].sha256 == build(tmp_path, PrepareParams(lines))[0].sha256


@pytest.mark.parametrize("form", ["messages", "conversations", "json in a column", "pair"])
async def test_conversations_of_every_form_become_the_same_rows(ctx, tmp_path, form):
    if form == "messages":
        records = [{"messages": _openai(n), "id": n} for n in range(20)]
    elif form == "conversations":
        records = [{"conversations": _sharegpt(n)} for n in range(20)]
    elif form == "json in a column":
        records = [{"messages": json.dumps(_openai(n))} for n in range(20)]
    else:
        records = [{"prompt": _openai(n)[:4], "completion": _openai(n)[4:]} for n in range(20)]
    info = await prepare(ctx, PrepareParams(_jsonl(tmp_path, records)))
    assert info.task == "generate" and info.format == "chat"
    rows = [row for split in store.SPLITS for row in store.read_rows(Path(info.path), split)]
    assert len(rows) == 20
    by_text = {row.text: row for row in rows}
    row = by_text["Second question 7"]
    assert row.answer == "Second answer 7"
    assert row.messages == tuple(Turn(turn["role"], turn["content"]) for turn in _openai(7))


def test_a_row_without_messages_is_written_as_ever():
    assert list(store.lines([Row("a", "b")])) == [b'{"text":"a","answer":"b"}\n']


def test_conversations_that_cannot_be_used_are_counted_with_their_reason(tmp_path):
    odd = [
        [{"role": "user", "content": "no answer"}],
        [{"role": "assistant", "content": "I begin"}, {"role": "user", "content": "oh"}],
        [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}, {"role": "assistant", "content": "z"}],
        [{"role": "user", "content": " "}, {"role": "assistant", "content": "z"}],
        [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "z"}],
        "nothing",
    ]
    records = [{"messages": m} for m in (*[_openai(n) for n in range(10)], *odd)]
    info, splits = build(tmp_path, PrepareParams(_jsonl(tmp_path, records)))
    assert len(_rows(splits)) == 10 and info.checks["missing_values"] == 6
    said = " ".join(info.warnings)
    for reason in ("no answer of the assistant (1)", "the assistant speaks first (1)", "tool calls (1)", "line 11, 12"):
        assert reason in said
    with pytest.raises(BadInput, match="6 of 6 conversations"):
        build(tmp_path, PrepareParams(_jsonl(tmp_path, records[10:15] + records[10:11], "odd.jsonl")))


def test_turns_are_merged_and_questions_after_the_last_answer_are_dropped():
    found = chat.turns(
        [
            {"role": "human", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
            {"role": "gpt", "content": "three"},
            {"role": "user", "content": "four"},
        ]
    )
    assert found == (Turn("user", "one\n\ntwo"), Turn("assistant", "three"))


def test_the_same_last_question_in_another_conversation_is_no_duplicate(tmp_path):
    records = []
    for n in range(12):
        turns = _openai(n)
        turns[3]["content"] = "And then?"
        records += [{"messages": turns}] * 2
    info, splits = build(tmp_path, PrepareParams(_jsonl(tmp_path, records)))
    assert len(_rows(splits)) == 12 and info.checks["duplicates"] == 12


def test_classes_of_conversations_are_refused(tmp_path):
    source = _jsonl(tmp_path, [{"messages": _openai(n)} for n in range(9)])
    with pytest.raises(BadInput, match="Conversations have free answers"):
        build(tmp_path, PrepareParams(source, task="classify"))


def test_instructions_with_and_without_input(tmp_path):
    records = [{"instruction": f"Do {n}", "input": "" if n % 2 else f"x {n}", "output": f"Did {n}"} for n in range(12)]
    info, splits = build(tmp_path, PrepareParams(_jsonl(tmp_path, records)))
    assert info.task == "generate"
    assert {(r.text, r.answer) for r in _rows(splits)} >= {("Do 3", "Did 3"), ("Do 4\n\nx 4", "Did 4")}


@pytest.mark.parametrize(
    ("asks", "answers"), [("prompt", "completion"), ("question", "answer"), ("instruction", "output")]
)
def test_usual_pairs_of_questions_and_answers(tmp_path, asks, answers):
    records = [{asks: f"q {n}", answers: f"a {n}"} for n in range(12)]
    info, splits = build(tmp_path, PrepareParams(_jsonl(tmp_path, records)))
    assert info.task == "generate" and info.format == "text"
    assert {(r.text, r.answer) for r in _rows(splits)} == {(f"q {n}", f"a {n}") for n in range(12)}


def test_parquet_with_text_and_with_conversations(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    plain = [{"text": f"text {n}", "label": n % 3} for n in range(2300)]
    parquet.write_table(pyarrow.Table.from_pylist(plain), tmp_path / "plain.parquet")
    info, _ = build(tmp_path, PrepareParams(str(tmp_path / "plain.parquet")))
    assert info.sha256 == build(tmp_path, PrepareParams(_jsonl(tmp_path, plain)))[0].sha256
    talks = [{"conversations": _sharegpt(n)} for n in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(talks), tmp_path / "talks.parquet")
    info, splits = build(tmp_path, PrepareParams(str(tmp_path / "talks.parquet")))
    assert info.format == "chat" and len(_rows(splits)) == 20
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadInput, match="can't be read as Parquet"):
        build(tmp_path, PrepareParams(str(tmp_path / "bad.parquet")))


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(HybridError, match=r"needs pyarrow, which is not installed") as caught:
        build(tmp_path, PrepareParams(str(tmp_path / "data.parquet")))
    assert "hybrid-tui[parquet]" in caught.value.hint


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 1, (1 << 20) - 2, (1 << 20) - 3, 1 << 20])
def test_a_bad_byte_is_named_by_place_wherever_blocks_end(tmp_path, before):
    good = tmp_path / "good.csv"
    good.write_bytes(b"x" * before + "€\n€".encode())
    check_utf8(good)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"x" * before + b"\n\xe2\x82x")
    with pytest.raises(BadInput, match=rf"byte {before + 1} \(line 2\) is 0xe2"):
        check_utf8(bad)
    cut = tmp_path / "cut.csv"
    cut.write_bytes(b"x" * before + b"\xe2\x82")
    with pytest.raises(BadInput, match="last character is cut off"):
        check_utf8(cut)


def test_a_large_file_passes_by_without_being_held(tmp_path):
    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "word " * 400, "label": "x"}) + "\n"
    with path.open("w") as file:
        file.writelines(line for _ in range(8000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in table.read(path).records) == 8000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 3


def test_pyarrow_is_not_imported_for_other_files(tmp_path, monkeypatch):
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert not name.startswith("pyarrow")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    build(tmp_path, PrepareParams(_jsonl(tmp_path, [{"text": f"t {n}", "label": "ab"[n % 2]} for n in range(9)])))
