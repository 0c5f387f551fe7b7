"""Held-out figures: decoding along the tree of labels, macro-F1, free answers; and the conversion's refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from services.data import prompts  # noqa: E402
from services.data.types import Row  # noqa: E402
from services.runtime import batches, evaluation  # noqa: E402
from services.runtime.learner import Learner, open_learner  # noqa: E402
from services.runtime.tokenizer import Tokenizer  # noqa: E402
from services.runtime.trie import label_trie  # noqa: E402
from tests.runtime import support, tiny_model  # noqa: E402

pytestmark = pytest.mark.models

LABELS = ("card", "card_arrival", "card_lost", "card_lost_abroad", "refund", "exchange_rate", "rate")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    return open_learner(str(tiny_model.write_llama(tmp_path_factory.mktemp("model"), seed=4)), "fp32")


@pytest.fixture(scope="module")
def tokenizer(learner: Learner) -> Tokenizer:
    return Tokenizer(learner.folder)


def walk_alone(learner: Learner, tokenizer: Tokenizer, prompt: list[int], labels: tuple[str, ...]) -> str:
    """The definition, without batches or memory: token by token, the likeliest that still leads to a label."""
    endings = {
        label: [*tokenizer.encode(prompts.completion(label, classify=True)), tokenizer.eos_id] for label in labels
    }
    written: list[int] = []
    while True:
        possible = {ids[len(written)] for ids in endings.values() if ids[: len(written)] == written}
        scores = learner.read([[*prompt, *written]]).scores(None)[0]
        written.append(max(sorted(possible), key=lambda id: scores[id].item()))
        for label, ids in endings.items():
            if ids == written:
                return label


@pytest.mark.parametrize("general", [False, True])
def test_batched_decoding_equals_walking_the_labels_one_by_one(
    learner: Learner, tokenizer: Tokenizer, general: bool
) -> None:
    other = open_learner(str(learner.folder), "fp32", general=True) if general else learner
    texts = [f"{row.text} {i}" for i, row in enumerate(support.rows(24))]
    readied = [batches.prompt_ids(tokenizer, prompts.CLASSIFY, text, 512) or [] for text in texts]
    expected = [walk_alone(learner, tokenizer, ids, LABELS) for ids in readied]
    assert evaluation.classify(other, readied, label_trie(tokenizer, LABELS)) == expected
    assert len(set(expected)) > 1


def test_free_answers_are_written_side_by_side(learner: Learner, tokenizer: Tokenizer) -> None:
    readied = [tokenizer.encode(text) for text in ("when is the card", "why", "what exchange rate is it now please")]
    together = evaluation.answer(learner, readied, tokenizer.stop_ids, 12)
    assert together == [evaluation.answer(learner, [ids], tokenizer.stop_ids, 12)[0] for ids in readied]


def test_figures_of_both_tasks(learner: Learner, tokenizer: Tokenizer) -> None:
    rows = support.rows(10)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, accuracy: float) -> None:
        seen.append((done, total))

    labelled = evaluation.evaluate(learner, tokenizer, rows, support.LABELS, prompts.CLASSIFY, progress=progress)
    assert labelled.rows == 10 and labelled.macro_f1 is not None and labelled.perplexity is None
    assert seen[-1] == (10, 10)
    free = evaluation.evaluate(learner, tokenizer, rows, (), prompts.GENERATE)
    assert free.accuracy == 0 and free.perplexity is not None and free.perplexity > 1 and free.macro_f1 is None
    stopped = evaluation.evaluate(learner, tokenizer, rows, support.LABELS, prompts.CLASSIFY, stopped=lambda: True)
    assert stopped.stopped and stopped.rows == 0


def test_perplexity_is_that_of_the_answers(learner: Learner, tokenizer: Tokenizer) -> None:
    rows = support.rows(6)
    examples, _, _ = batches.encode(tokenizer, prompts.GENERATE, rows, classify=False, max_length=512)
    losses = [learner.loss([e], training=False).item() for e in examples]
    count = sum(e.tokens - e.answer for e in examples)
    expected = torch.tensor(sum(losses) / count).exp().item()
    got = evaluation.answer_perplexity(learner, tokenizer, rows, prompts.GENERATE, 512)
    assert got == pytest.approx(expected, rel=1e-4)


def test_a_sample_is_spread_and_repeatable() -> None:
    rows = [Row(str(i), "a") for i in range(1000)]
    some = evaluation.sample(rows, 50)
    assert some == evaluation.sample(rows, 50) and len(some) == 50 and evaluation.sample(rows, 0) == rows
    assert int(some[0].text) < 200 and int(some[-1].text) > 800


@pytest.mark.parametrize("content", [b"not a model", b"", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_damaged_gguf_file_is_one_line_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content)
    command = [sys.executable, "-m", "services.runtime.convert", str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and "model.gguf" in last["error"] and last["hint"]
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]
