"""Our own forward and backward pass against transformers and PEFT."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from services.runtime import graphs  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.learner import open_learner  # noqa: E402
from services.runtime.llama_learner import LlamaLearner  # noqa: E402
from services.runtime.lora import LoraConfig  # noqa: E402
from services.runtime.peft_learner import PeftLearner  # noqa: E402
from tests.runtime import tiny_model  # noqa: E402

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_llama(tmp_path_factory.mktemp("llama"))


def examples(seed: int = 0, lengths: tuple[int, ...] = (9, 21, 4, 9, 150)) -> list[Example]:
    """Random rows; the longest goes beyond what keeps its attention weights."""
    pick = random.Random(seed)
    return [Example(tuple(pick.randrange(3, 300) for _ in range(n)), pick.randrange(1, n - 1)) for n in lengths]


def trained(folder: Path, *, r: int = 4, dropout: float = 0.0) -> LlamaLearner:
    """A learner whose adapter has an effect."""
    learner = open_learner(str(folder), "fp32")
    assert isinstance(learner, LlamaLearner)
    learner.attach(LoraConfig(r, 2.0 * r, dropout), seed=1)
    (flat,) = learner.parameters()
    generator = torch.Generator().manual_seed(5)
    flat.data.add_(torch.randn(flat.shape, generator=generator) * 0.1)
    learner.updated()
    return learner


def gradients(learner: LlamaLearner) -> dict[str, torch.Tensor]:
    """The adapter's gradients by PEFT's names."""
    (flat,) = learner.parameters()
    values = flat.data.clone()
    flat.data.copy_(flat.grad)
    named = {name: tensor.clone() for name, tensor in learner.state().items()}
    flat.data.copy_(values)
    return named


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_those_of_transformers_and_peft(tmp_path: Path, tied: bool) -> None:
    folder = tiny_model.write_llama(tmp_path / "model", tied=tied)
    ours = trained(folder)
    (tmp_path / "adapter").mkdir()
    ours.save(tmp_path / "adapter", "tiny")
    oracle = open_learner(str(folder), "fp32", tmp_path / "adapter", general=True)
    assert isinstance(oracle, PeftLearner)
    rows = examples()
    our_loss, loss = ours.loss(rows, training=True), oracle.loss(rows, training=False)
    assert our_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    our_loss.backward()
    loss.backward()
    got = gradients(ours)
    expected = {n.replace(".default", ""): p.grad for n, p in oracle.model.named_parameters() if p.requires_grad}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name


def test_a_fresh_adapter_changes_nothing(folder: Path) -> None:
    learner = open_learner(str(folder), "fp32")
    base = learner.loss(examples(), training=False).item()
    learner.attach(LoraConfig(8, 16.0), seed=0)
    assert learner.loss(examples(), training=False).item() == pytest.approx(base, rel=1e-6)


def test_rows_do_not_see_each_other(folder: Path) -> None:
    learner = trained(folder)
    rows = examples(3)
    together = learner.loss(rows, training=False).item()
    shuffled = learner.loss(rows[::-1], training=False).item()
    alone = sum(learner.loss([row], training=False).item() for row in rows)
    assert together == pytest.approx(alone, rel=1e-5) and together == pytest.approx(shuffled, rel=1e-5)


def test_only_the_answer_carries_a_label(folder: Path) -> None:
    learner = trained(folder)
    ids = tuple(range(10, 30))
    mean = torch.nn.functional.cross_entropy
    scorer_losses = []
    for answer in (15, 19):
        row = Example(ids, answer)
        expected = 0.0
        for position in range(answer, len(ids)):
            scores = learner.read([ids[:position]]).scores(None)
            expected += mean(scores, torch.tensor([ids[position]])).item()
        scorer_losses.append(expected)
        assert learner.loss([row], training=False).item() == pytest.approx(expected, rel=1e-4)
    assert scorer_losses[0] > scorer_losses[1] > 0


def test_decoding_side_by_side_equals_reading_the_whole_text(folder: Path) -> None:
    learner = trained(folder)
    prompts = [list(row.ids) for row in examples(7, (9, 4, 30))]
    scorer = learner.read(prompts)
    assert torch.allclose(scorer.scores(None), torch.cat([learner.read([p]).scores(None) for p in prompts]), atol=1e-3)
    for keep, ids in (([0, 1, 2], [5, 6, 7]), ([2, 0], [8, 9]), *(([0, 1], [i, i + 1]) for i in range(10, 50))):
        scorer.advance(keep, ids)
        prompts = [[*prompts[row], id] for row, id in zip(keep, ids, strict=True)]
    whole = torch.cat([learner.read([p]).scores(None) for p in prompts])
    assert torch.allclose(scorer.scores(None), whole, atol=2e-3)
    some = torch.tensor([3, 50, 7])
    assert torch.allclose(scorer.scores(some), scorer.scores(None)[:, some], atol=1e-4)


def test_a_saved_adapter_loads_with_peft_and_gives_the_same_scores(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ours = trained(folder, r=3)
    ours.save(tmp_path, "tiny")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tmp_path)
    ids = list(range(20, 45))
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(ours.read([ids]).scores(None)[0], expected, atol=1e-3)
    again = open_learner(str(folder), "fp32", tmp_path)
    assert torch.allclose(again.read([ids]).scores(None)[0], expected, atol=1e-3)


def test_dropout_is_seeded_and_scaled(folder: Path) -> None:
    learner = trained(folder, dropout=0.3)
    rows = examples(2)
    without = learner.loss(rows, training=False).item()
    torch.manual_seed(0)
    first = learner.loss(rows, training=True).item()
    torch.manual_seed(0)
    assert learner.loss(rows, training=True).item() == first != without


def test_bf16_stays_near_fp32(folder: Path) -> None:
    rows = examples(4)
    values = []
    for dtype in ("fp32", "bf16"):
        learner = open_learner(str(folder), dtype)
        learner.attach(LoraConfig(4, 8.0), seed=0)
        loss = learner.loss(rows, training=True)
        loss.backward()
        assert learner.parameters()[0].dtype == torch.float32
        values.append(loss.item())
    assert values[1] == pytest.approx(values[0], rel=0.03)


def test_another_architecture_trains_through_peft(tmp_path: Path) -> None:
    learner = open_learner(str(tiny_model.write_gpt2(tmp_path / "gpt2")), "fp32")
    assert isinstance(learner, PeftLearner)
    learner.attach(LoraConfig(4, 8.0), seed=0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.02)
    rows = examples(1, (8, 12, 9))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = learner.loss(rows, training=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 2
    (tmp_path / "adapter").mkdir()
    learner.save(tmp_path / "adapter", "tiny")
    again = open_learner(str(tmp_path / "gpt2"), "fp32", tmp_path / "adapter")
    expected = learner.loss(rows, training=False).item()
    assert again.loss(rows, training=False).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_batch_filled_up_to_a_recorded_size_gives_the_same(folder: Path, everywhere: bool) -> None:
    learner = trained(folder)
    rows = examples(5)
    if everywhere:
        rows = [Example(row.ids, 1) for row in rows]
    expected = learner.learn(rows, 0.25)
    gradient = learner.parameters()[0].grad.clone()
    learner.parameters()[0].grad.zero_()
    size, packing, inputs = graphs.fill(rows, 0.25)
    assert size.tokens == int(packing.bounds[-1]) == 1024 and packing.rows == size.rows == 64
    assert graphs.compute(learner.model, packing, inputs).item() == pytest.approx(expected.item(), rel=1e-5)
    assert (learner.parameters()[0].grad - gradient).norm() <= 1e-5 * gradient.norm()
