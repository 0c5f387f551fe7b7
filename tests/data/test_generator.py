"""TrainingDataGenerator, as notebooks use it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hybrid_tui import TrainingDataGenerator
from services.data import store
from services.data.actions import PrepareParams, prepare
from services.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_dictionaries_and_the_seed_decides_them():
    rows = TrainingDataGenerator(domain="healthcare", seed=3).generate(300)
    assert len(rows) == 300 and Counter(row["split"] for row in rows) == {"train": 240, "val": 30, "test": 30}
    assert set(rows[0]) == {"text", "label", "split", "domain", "intent", "tone", "emotion"}
    assert {row["domain"] for row in rows} == {"healthcare"} and rows[0]["label"] == rows[0]["intent"]
    assert TrainingDataGenerator(domain="healthcare", seed=3).generate(300) == rows
    assert TrainingDataGenerator(domain="healthcare", seed=4).generate(300) != rows


def test_several_domains_lie_side_by_side():
    rows = TrainingDataGenerator(domain=["banking", "education"], seed=0).generate(680)
    counts = Counter(row["label"] for row in rows)
    assert counts["banking/card_lost"] == counts["education/grade_question"] == 20 and len(counts) == 34


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
async def test_what_is_saved_is_what_prepare_reads(ctx, tmp_path, ending):
    generator = TrainingDataGenerator(domain="business", seed=1, label="emotion")
    rows = generator.generate(350)
    path = generator.save(tmp_path / f"made.{ending}")
    info = await prepare(ctx, PrepareParams(str(path)))
    assert info.task == "classify" and set(info.labels) == {row["emotion"] for row in rows}
    texts = {row.text for split in store.SPLITS for row in store.read_rows(Path(info.path), split)}
    assert texts == {row["text"] for row in rows}
    if ending == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            assert list(csv.DictReader(file)) == rows
    if ending == "json":
        assert json.loads(path.read_text()) == rows


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(BadInput, match="no domain 'helthcare'; did you mean 'healthcare'"):
        TrainingDataGenerator(domain="helthcare")
    with pytest.raises(BadInput, match="can't be made so"):
        TrainingDataGenerator(label="mood")
    generator = TrainingDataGenerator(domain="mental_health")
    assert "no substitute for help" in generator.notes[0] and generator.most_rows == 20_000
    with pytest.raises(BadInput, match="Nothing was generated"):
        generator.save(tmp_path / "x.csv")
    with pytest.raises(BadInput, match="can't be made"):
        generator.generate(1_000_000)
    generator.generate(200)
    with pytest.raises(BadInput, match="no ending"):
        generator.save(tmp_path / "x.xlsx")
    assert not list(tmp_path.iterdir())


def test_the_package_imports_it_only_when_it_is_asked_for():
    code = (
        "import sys, hybrid_tui; assert 'services.data.generator' not in sys.modules; "
        "hybrid_tui.TrainingDataGenerator; assert 'services.data.generator' in sys.modules; "
        "assert not {'torch', 'textual', 'aiohttp', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
