"""The generated banking questions: size, balance, seeds, distance between the splits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.context import Context, Plan
from services.data import near, store
from services.data.actions import GenerateParams, generate
from services.data.generate import MOST_ROWS, build, fill, templates
from services.errors import BadInput, Refused


@settings(max_examples=8, deadline=None)
@given(st.integers(240, 1500), st.integers(0, 10_000), st.floats(0.05, 0.3), st.floats(0.05, 0.3))
def test_size_balance_and_distance_hold_for_any_seed(rows, seed, val, test):
    info, splits = build(GenerateParams(rows=rows, seed=seed, val=val, test=test))
    assert sum(info.counts.values()) == rows
    assert info.counts["test"] == round(rows * test) and info.counts["val"] == round(rows * val)
    for part in splits.values():
        counts = Counter(row.answer for row in part)
        assert max(counts.values()) - min(counts.values()) <= 1 or len(part) < 24
    keys = [near.normalise(row.text) for part in splits.values() for row in part]
    assert len(keys) == len(set(keys))
    sets = {split: [near.words(row.text) for row in part] for split, part in splits.items()}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        index = near.NearIndex()
        for tokens in sets[one]:
            index.add(tokens)
        assert not any(index.find(tokens) is not None for tokens in sets[other])


def test_plain_comparison_of_all_pairs_finds_no_near_duplicate_across_splits():
    """The same without our index, so that a fault in it can't hide one."""
    _, splits = build(GenerateParams(rows=600, seed=5))
    train = [near.words(row.text) for row in splits["train"]]
    for row in (*splits["test"], *splits["val"]):
        tokens = near.words(row.text)
        assert max(len(tokens & other) / len(tokens | other) for other in train) < near.NEAR, row


def test_there_are_enough_intents_and_each_has_its_rows():
    info, _ = build(GenerateParams(rows=240))
    assert len(info.labels) >= 20
    assert info.checks["near_duplicates_test_train"] == 0


def test_label_names_are_ours(banking77):
    import json

    theirs = {name.lower() for name in json.loads((banking77 / "categories.json").read_text())}
    assert not theirs & set(templates().intents)


def test_no_sentence_is_from_banking77(banking77):
    import csv

    with (banking77 / "train.csv").open(newline="", encoding="utf-8") as file:
        theirs = {near.normalise(row["text"]) for row in csv.DictReader(file)}
    _, splits = build(GenerateParams(rows=4800, seed=11))
    same = {near.normalise(row.text) for part in splits.values() for row in part} & theirs
    assert len(same) <= 10, same  # "I can't log in" is what anybody would write


def test_templates_leave_no_hole_and_use_every_slot():
    source = templates()
    used = set(re.findall(r"<(\w+)>", " ".join((*source.intents.values(), *source.openers, *source.closers))))
    nested = set(re.findall(r"<(\w+)>", " ".join(word for words in source.slots.values() for word in words)))
    assert used | nested == set(source.slots)
    _, splits = build(GenerateParams(rows=4800, seed=3))
    texts = [row.text for part in splits.values() for row in part]
    assert not [text for text in texts if re.search(r"[{}<>|]|  |^\s|\s$", text)]


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = "from services.data.generate import *; print(build(GenerateParams(rows=480, seed=9))[0].sha256)"
    root = Path(__file__).resolve().parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert digests == {build(GenerateParams(rows=480, seed=9))[0].sha256}
    assert build(GenerateParams(rows=480, seed=10))[0].sha256 not in digests


def test_the_task_is_learnable_but_not_trivial():
    """Naive Bayes on words, averaged over seeds, stays between guessing and perfect."""
    import math

    right = total = 0
    for seed in range(3):
        _, splits = build(GenerateParams(rows=2400, seed=seed))
        seen: dict[str, Counter[str]] = {}
        for row in splits["train"]:
            seen.setdefault(row.answer, Counter()).update(near.words(row.text))
        vocabulary = len(set().union(*seen.values()))
        sums = {label: sum(counts.values()) + 0.3 * vocabulary for label, counts in seen.items()}
        for row in splits["test"]:
            scores = {
                label: sum(math.log((counts[word] + 0.3) / sums[label]) for word in near.words(row.text))
                for label, counts in seen.items()
            }
            right += max(scores, key=scores.__getitem__) == row.answer
            total += 1
    assert 0.7 < right / total < 0.95


async def test_too_many_rows_are_refused_with_a_number_that_is_possible(ctx):
    with pytest.raises(BadInput, match="can't be made without near-duplicates") as caught:
        await generate(ctx, GenerateParams(rows=MOST_ROWS + 1))
    assert f"{MOST_ROWS:,} rows" in caught.value.hint


async def test_generate_stores_reports_and_can_be_repeated(workspace):
    steps = []
    ctx = Context(workspace, report=steps.append)
    info = await generate(ctx, GenerateParams(name="mine", rows=240, seed=4))
    assert store.load_info(store.resolve(workspace, "mine")) == info
    assert steps and steps[-1].done == 240
    assert await generate(ctx, GenerateParams(name="mine", rows=240, seed=4)) == info


async def test_dry_run_and_read_only_write_nothing(workspace):
    plan = await generate(Context(workspace, dry_run=True), GenerateParams(rows=240))
    assert isinstance(plan, Plan) and "240 rows" in plan.summary
    with pytest.raises(Refused):
        await generate(Context(workspace, read_only=True), GenerateParams(rows=240))
    assert not workspace.datasets.exists()


def test_fill_takes_from_the_inside_out():
    import random

    made = {fill("a {b <x>|} {c|d}, {|e}?", {"x": ["1", "2"]}, random.Random(n)) for n in range(99)}
    assert "a b 1 c,?" in made and "a d, e?" in made and len(made) == 12
