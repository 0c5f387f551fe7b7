"""The soak's short form: a few kills of real training runs. ``python -m tests.runs.soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import soak
from tests.runtime import support

pytestmark = pytest.mark.models


def test_killed_runs_lose_nothing_and_end_exactly_alike(tmp_path: Path) -> None:
    tally, whole = soak.soak(tmp_path, kills=2, seed=4, say=lambda *_, **__: None)
    assert sum(tally.kills.values()) == 2 and not tally.wrong, soak.summary(tally)
    assert tally.difference == 0 and tally.compared >= len(whole.validation)


def test_the_soak_notices_a_lost_checkpoint_and_another_loss(tmp_path: Path) -> None:
    import shutil

    bed = soak.Bed(tmp_path)
    whole = bed.undisturbed()
    (run_dir,) = bed.workspace.runs.glob("2*")
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
    bed = soak.Bed(tmp_path)
    with (bed.data / "train.jsonl").open("ab") as file:
        file.write(content)
    code, told = support.train(support.write_run(tmp_path / "run", bed.model, bed.data))
    (error,) = [event for event in told if event["ev"] == "error"]
    assert code == 1 and f"train.jsonl, line 49 {words}" in error["message"] and error["hint"]
