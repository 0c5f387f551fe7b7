"""Datasets on disk: whole or not at all, odd text intact, damage reported and left alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import workspace as workspaces
from services.context import Context, NeedsYes
from services.data import prompts, store
from services.data.actions import ListParams, ShowParams, list_datasets, show
from services.data.types import DatasetInfo, Row
from services.errors import BadInput

CHECKOUT = Path(__file__).resolve().parents[2]


def _dataset(name: str, texts: list[str], answer: str = "yes") -> tuple[DatasetInfo, store.Rows]:
    rows: store.Rows = {
        "train": [Row(text, answer) for text in texts],
        "val": [Row("v", "no")],
        "test": [Row("t", "no")],
    }
    return store.build_info(name, "classify", prompts.CLASSIFY, rows, source="test", seed=0), rows


def _put(ctx: Context, name: str, texts: list[str], answer: str = "yes") -> DatasetInfo:
    return store.write(ctx, "data.prepare", *_dataset(name, texts, answer))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=6))
def test_odd_text_comes_back_as_it_was(texts):
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(workspaces.init(Path(folder)))
        info = _put(ctx, "odd", texts)
        assert [row.text for row in store.read_rows(Path(info.path), "train")] == texts


def test_line_separators_inside_a_text_do_not_end_its_line(ctx):
    text = 'a\u2028b\u2029c\x85d\ne\r\n"f"\t\\ \x00'
    info = _put(ctx, "odd", [text])
    assert store.read_rows(Path(info.path), "train") == [Row(text, "yes")]


def test_same_content_is_reused_and_has_the_same_digest(ctx):
    first = _put(ctx, "one", ["a", "b"])
    again = _put(ctx, "one", ["a", "b"])
    assert again == first
    assert _put(ctx, "two", ["a", "b"]).sha256 == first.sha256
    assert _put(ctx, "three", ["b", "a"]).sha256 != first.sha256


def test_other_content_under_a_taken_name_needs_a_yes(ctx, workspace):
    first = _put(ctx, "one", ["a"])
    with pytest.raises(NeedsYes, match="different dataset called 'one'"):
        _put(ctx, "one", ["b"])
    assert store.load_info(Path(first.path)) == first
    replaced = _put(Context(workspace, yes=True), "one", ["b"])
    assert store.read_rows(Path(replaced.path), "train") == [Row("b", "yes")]
    assert [path.name for path in workspace.datasets.iterdir()] == ["one"]


def test_a_changed_file_is_not_taken_for_the_same_content(ctx, workspace):
    info = _put(ctx, "one", ["a", "b"])
    (Path(info.path) / "train.jsonl").write_bytes(b'{"text":"z","answer":"yes"}\n')
    with pytest.raises(NeedsYes):
        _put(ctx, "one", ["a", "b"])
    assert _put(Context(workspace, yes=True), "one", ["a", "b"]).sha256 == info.sha256
    assert len(store.read_rows(Path(info.path), "train")) == 2


@pytest.mark.parametrize("damage", [b'{"text": "half', b'{"text": 3, "answer": "x"}', b"\xff\xfe", b"[]", b""])
def test_a_damaged_line_is_named_and_left_alone(ctx, damage):
    path = Path(_put(ctx, "one", ["a", "b"]).path) / "train.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + b"\n" + lines[1])
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"train\.jsonl, line 2 "):
        store.read_rows(path.parent, "train")
    assert path.read_bytes() == before


def test_a_file_that_was_cut_is_reported(ctx):
    path = Path(_put(ctx, "one", ["a", "b"]).path) / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="line 2 has no end"):
        store.read_rows(path.parent, "train")


async def test_a_damaged_description_does_not_hide_the_others(ctx, workspace):
    _put(ctx, "good", ["a"])
    info = Path(_put(ctx, "torn", ["a"]).path) / "dataset.json"
    info.write_bytes(info.read_bytes()[:50])
    listed = await list_datasets(ctx, ListParams())
    assert [item.name for item in listed.datasets] == ["good"]
    assert len(listed.problems) == 1 and "torn/dataset.json is damaged" in listed.problems[0]


_FILL = """
import asyncio, resource, sys
from pathlib import Path
from services import workspace
from services.context import Context
from services.data.actions import GenerateParams, generate
from services.errors import HybridError
ctx = Context(workspace.open_workspace(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    asyncio.run(generate(ctx, GenerateParams(rows=2400)))
except HybridError as error:
    print(error)
"""


def test_a_write_that_fails_in_the_middle_leaves_nothing(workspace):
    """A limit on the size of files stands for the full disk: the kernel refuses the write half way."""
    command = [sys.executable, "-c", _FILL, str(workspace.root)]
    child = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert child.stdout.startswith("The dataset banking was not stored: File too large")
    assert list(workspace.datasets.iterdir()) == []


def test_text_that_utf8_cannot_hold_is_refused():
    with pytest.raises(BadInput, match="UTF-8"):
        _dataset("x", ["\ud800"])


def test_resolve_by_name_by_path_and_with_a_suggestion(ctx, workspace):
    folder = Path(_put(ctx, "banking", ["a"]).path)
    assert store.resolve(workspace, "banking") == folder
    assert store.resolve(workspace, str(folder)) == folder
    assert store.resolve(workspace, ".hybrid/datasets/banking") == folder
    with pytest.raises(BadInput, match="no dataset 'bankin'; did you mean 'banking'"):
        store.resolve(workspace, "bankin")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a b", "é"])
def test_unusable_names_are_refused(name):
    with pytest.raises(BadInput, match="can't name a dataset"):
        _dataset(name, ["a"])


async def test_show_counts_labels_and_measures_texts(ctx):
    info = _put(ctx, "one", ["a b", "c", "d e f g"])
    view = await show(ctx, ShowParams("one", samples=2))
    assert view.info == info
    assert {(item.label, item.train, item.val, item.test) for item in view.labels} == {
        ("yes", 3, 0, 0),
        ("no", 0, 1, 1),
    }
    assert view.words["train"] == {"min": 1, "median": 2, "p95": 2, "max": 4}
    assert len(view.samples) == 2 and view.problems == ()
    (Path(info.path) / "val.jsonl").write_bytes(msgspec.json.encode(Row("z", "no")) + b"\n")
    assert "SHA-256 differs" in (await show(ctx, ShowParams("one"))).problems[0]
