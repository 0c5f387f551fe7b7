"""An encoder's head begins as a linear classifier of the untouched encoder's vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from services.runtime import head_start  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.classifier import Classifier  # noqa: E402
from services.runtime.learner import open_learner  # noqa: E402
from services.runtime.lora import LoraConfig  # noqa: E402
from tests.runtime import tiny_model  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("one_thread")]

LABELS = ("a", "b", "c")
ROWS = [
    Example((2, *(10 * label + word for word in words), 3), len(words) + 2, label)
    for label in range(3)
    for words in ((1, 2), (3, 4, 5), (1, 5), (2, 4), (3,), (6, 1, 2, 3))
]


def opened(folder: Path) -> Classifier:
    learner = open_learner(str(folder), "fp32", labels=LABELS)
    assert isinstance(learner, Classifier)
    learner.attach(LoraConfig(4, 8.0), seed=0)
    return learner


def share_right(learner: Classifier) -> float:
    scores = learner.scores([row.ids for row in ROWS])
    return float((scores.argmax(1) == torch.tensor([row.label for row in ROWS])).float().mean())


def test_it_knows_the_rows_before_the_first_step(tmp_path: Path) -> None:
    learner = opened(tiny_model.write_bert(tmp_path / "model"))
    before = learner.state()
    assert head_start.wanted(learner)
    assert share_right(learner) < 0.7
    head_start.fit(learner, ROWS, seed=0)
    assert share_right(learner) == 1.0
    after = learner.state()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("head."))


def test_it_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed before its first checkpoint begins again; of many rows the seed decides which are seen."""
    monkeypatch.setattr(head_start, "MOST", 9)
    folder = tiny_model.write_bert(tmp_path / "model")
    heads = []
    for seed in (0, 0, 1):
        learner = opened(folder)
        head_start.fit(learner, ROWS, seed)
        heads.append(learner.state()["head.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_decoder_begins_at_random(tmp_path: Path) -> None:
    learner = open_learner(str(tiny_model.write_llama(tmp_path / "model")), "fp32", labels=LABELS)
    assert not head_start.wanted(learner)
