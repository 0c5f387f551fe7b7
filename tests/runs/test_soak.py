"""The soak's short form: a few kills of real training runs. ``python -m tests.runs.soak`` is the long one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.runs import soak
from tests.runtime import support
from tests.runtime.tiny_model import write_llama

pytestmark = pytest.mark.models


Undisturbed = tuple[soak.Bed, soak.Curve]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A place for runs, and what one of them told that nothing disturbed."""
    bed = soak.Bed(tmp_path_factory.mktemp("soak"))
    return bed, bed.undisturbed()


def test_a_killed_run_loses_nothing_and_ends_exactly_alike(undisturbed: Undisturbed) -> None:
    bed, whole = undisturbed
    tally = soak.Tally()
    soak.disturb(bed, whole, 2, random.Random(4), tally)
    assert sum(tally.kills.values()) >= 1 and not tally.wrong, soak.summary(tally)
    assert tally.difference == 0 and tally.compared >= len(whole.validation)
    assert tally.last is not None and "<svg" in soak.draw(whole, tally.last)


def test_the_soak_notices_a_lost_checkpoint_and_another_loss(undisturbed: Undisturbed) -> None:
    bed, whole = undisturbed
    run_dir = min(bed.workspace.runs.glob("2*"), key=lambda path: (path / "spec.json").stat().st_mtime)
    tally = soak.Tally()
    soak.check_checkpoints(run_dir, tally)
    soak.compare(whole, run_dir, tally)
    assert not tally.wrong and tally.acknowledged == len(whole.validation)
    newest = max((run_dir / "checkpoints").glob("step-*"))
    (newest / "state.json").write_bytes(b"{}")
    soak.check_checkpoints(run_dir, tally)
    assert "is lost" in tally.wrong[-1]
    shutil.rmtree(newest)
    soak.check_checkpoints(run_dir, tally)
    assert len(tally.wrong) >= 2 and "is lost" in tally.wrong[-1]
    step = max(whole.validation)
    other = soak.Curve(whole.train, whole.validation | {step: whole.validation[step] + 1e-9}, "0", 1.0)
    soak.compare(other, run_dir, tally)
    assert "the adapter differs" in tally.wrong[-1] and "a loss differs" in tally.wrong[-2]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b'{"text": "when is', "has no end"), (b'{"text": 7}\n', "is damaged"), (b"\xff\xfe\n", "is damaged")],
)
def test_a_corrupt_row_of_data_is_the_runs_cause(tmp_path: Path, content: bytes, words: str) -> None:
    data = support.write_dataset(tmp_path / "data")
    with (data / "train.jsonl").open("ab") as file:
        file.write(content)
    code, told = support.train(support.write_run(tmp_path / "run", write_llama(tmp_path / "model"), data))
    (error,) = [event for event in told if event["ev"] == "error"]
    assert code == 1 and f"train.jsonl, line 49 {words}" in error["message"] and error["hint"]
