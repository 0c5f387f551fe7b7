"""Methods and heads: each learns, each result opens again and says the same, and what can't run is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from services.errors import BadInput, HybridError  # noqa: E402
from services.runtime import evaluation, loading  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.classifier import Classifier, open_classifier  # noqa: E402
from services.runtime.learner import open_learner  # noqa: E402
from services.runtime.lora import LoraConfig  # noqa: E402
from services.runtime.peft_learner import PeftLearner  # noqa: E402
from tests.runtime import support, tiny_model  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("one_thread")]


def run(folder: Path, model: Path, data: Path, **config: object) -> list[dict[str, object]]:
    code, events = support.train(support.write_run(folder, model, data, **config))
    assert code == 0, events
    return events


def accuracy(events: list[dict[str, object]]) -> object:
    (test,) = [e for e in events if e["ev"] == "metric" and e["split"] == "test"]
    return test["accuracy"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rslora", {"lr": 0.02, "max_steps": 20}),
        ("dora", {"lr": 0.03, "max_steps": 16}),
        ("full", {"lr": 0.005, "max_steps": 16}),
    ],
)
def test_a_method_learns_and_its_result_says_the_same_again(
    llama: Path, small_data: Path, tmp_path: Path, method: str, settings: dict[str, object]
) -> None:
    events = run(tmp_path / "run", llama, small_data, method=method, batch_rows=12, epochs=50, **settings)
    assert accuracy(events) == 1.0
    output = tmp_path / "run" / "output"
    if method == "full":
        again = evaluation.evaluate_dataset(str(output), None, small_data, dtype="fp32")
    else:
        config = json.loads((output / "adapter_config.json").read_text())
        assert config["use_dora"] == (method == "dora") and config["use_rslora"] == (method == "rslora")
        again = evaluation.evaluate_dataset(str(llama), output, small_data, dtype="fp32")
    assert again.accuracy == 1.0


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_head_learns_and_opens_again(kind: str, llama: Path, bert: Path, small_data: Path, tmp_path: Path) -> None:
    model = {"llama": llama, "bert": bert}.get(kind) or tiny_model.write_gpt2(tmp_path / "gpt2")
    events = run(tmp_path / "run", model, small_data, task="classify", batch_rows=12, epochs=50, max_steps=28, lr=0.02)
    assert accuracy(events) == 1.0
    again = evaluation.evaluate_dataset(str(model), tmp_path / "run" / "output", small_data, dtype="fp32")
    assert again.accuracy == 1.0 and again.macro_f1 == 1.0


def test_a_llamas_head_is_that_of_transformers_and_peft(llama: Path, small_data: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    run(tmp_path / "run", llama, small_data, task="classify", max_steps=20, lr=0.03)
    output = tmp_path / "run" / "output"
    ours = open_learner(str(llama), "fp32", output, labels=support.LABELS)
    assert isinstance(ours, Classifier) and ours.own
    base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=4, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, output).eval()
    ids = list(range(20, 45))
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    assert torch.allclose(ours.scores([ids])[0], expected, atol=1e-3) and expected.abs().max() > 0.2


def test_fully_trained_with_a_head(bert: Path, small_data: Path, tmp_path: Path) -> None:
    events = run(
        tmp_path / "run",
        bert,
        small_data,
        task="classify",
        method="full",
        batch_rows=12,
        epochs=50,
        max_steps=28,
        lr=0.005,
    )
    output = tmp_path / "run" / "output"
    again = evaluation.evaluate_dataset(str(output), None, small_data, dtype="fp32")
    assert accuracy(events) == again.accuracy == 1.0


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_full_body_with_a_head_opens_again(kind: str, llama: Path, bert: Path, tmp_path: Path) -> None:
    model = {"llama": llama, "bert": bert}[kind]
    learner = open_learner(str(model), "fp32", method="full", labels=support.LABELS)
    learner.attach(LoraConfig(4, 8.0), seed=1)
    assert isinstance(learner, Classifier)
    learner.save(tmp_path, "tiny")
    (tmp_path / "metadata.json").write_text(json.dumps({"labels": support.LABELS}))
    rows = [list(range(5, 25))]
    again = open_classifier(str(tmp_path), tmp_path, "fp32")
    assert torch.allclose(again.scores(rows), learner.scores(rows), atol=1e-6) and again.scores(rows).abs().max() > 0.01


def test_an_encoder_keeps_its_dropout_and_resumes_exactly(bert: Path, small_data: Path, tmp_path: Path) -> None:
    learner = open_learner(str(bert), "fp32", labels=support.LABELS)
    learner.attach(LoraConfig(4, 8.0), seed=1)
    rows = [Example(tuple(range(4, 20)), 16, 2)]

    def loss(seed: int, *, training: bool) -> float:
        torch.manual_seed(seed)
        return float(learner.loss(rows, training=training).detach())

    assert loss(1, training=True) == loss(1, training=True) != loss(2, training=True)
    assert loss(1, training=False) == loss(2, training=False)

    settings = {"task": "classify", "max_steps": 6, "lr": 0.02}
    whole = support.losses(run(tmp_path / "whole", bert, small_data, **settings))
    folder = support.write_run(tmp_path / "again", bert, small_data, **settings)
    (folder / "plan.json").write_bytes((tmp_path / "whole" / "plan.json").read_bytes())
    (folder / "control" / "cancel").touch()
    assert support.train(folder)[0] == support.train(folder)[0] == 130  # stopped after each of two steps
    (folder / "control" / "cancel").unlink()
    code, more = support.train(folder)
    resumed = support.losses(more)
    assert code == 0 and max(resumed) == 6 and all(whole[step] == resumed[step] for step in whole.keys() & resumed)


def test_a_classifiers_figures_are_stored_with_its_time(bert: Path, small_data: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", bert, small_data, task="classify", max_steps=2)
    for name in ("metadata.json", "benchmark.json"):
        found = json.loads((tmp_path / "run" / "output" / name).read_text())["metrics"]
        assert found.keys() == {"accuracy", "macro_f1", "rows", "ms_per_text"} and found["ms_per_text"] > 0


@pytest.mark.parametrize("general", [False, True])
def test_saving_memory_and_portions_give_the_same_gradient(llama: Path, general: bool) -> None:
    rows = [Example(tuple(range(5 + i, 25 + 2 * i)), 9) for i in range(4)]
    found = []
    for saving, portions in ((False, 1), (True, 1), (False, 4)):
        learner = open_learner(str(llama), "fp32", general=general)
        learner.attach(LoraConfig(4, 8.0), seed=1)
        for parameter in learner.parameters():
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05
        learner.updated()
        if saving:
            learner.save_memory()
        size = len(rows) // portions
        for start in range(0, len(rows), size):
            learner.learn(rows[start : start + size], 0.1)
        found.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    assert found[0].norm() > 0.01
    for other in found[1:]:
        assert (found[0] - other).norm() <= 1e-5 * found[0].norm()


def test_the_head_runs_only_where_labels_are_if_nothing_comes_between(llama: Path, tmp_path: Path) -> None:
    learner = open_learner(str(llama), "fp32", general=True)
    assert isinstance(learner, PeftLearner) and learner._head is not None
    rows = [Example(tuple(range(5, 25)), 9), Example(tuple(range(7, 19)), 4)]
    short = learner.loss(rows, training=False).item()
    learner._head = None
    assert learner.loss(rows, training=False).item() == pytest.approx(short, rel=1e-5)


def test_what_can_not_run_is_refused(llama: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(HybridError, match="QLoRA needs a CUDA GPU"):
        open_learner(str(llama), "fp32", method="qlora", device="cpu")
    with pytest.raises(BadInput, match="encoder"):
        open_learner(str(bert), "fp32")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no cuda device"):
            loading.choose_device("cuda")
    free = support.write_dataset(tmp_path / "free", task="generate")
    code, events = support.train(support.write_run(tmp_path / "run", llama, free, task="classify"))
    assert code == 1 and "no labels" in next(e for e in events if e["ev"] == "error")["message"]


def test_half_precision_learns_with_a_scaled_loss(llama: Path, small_data: Path, tmp_path: Path) -> None:
    events = run(tmp_path / "run", llama, small_data, dtype="fp16", max_steps=14, lr=0.03)
    losses = support.losses(events)
    assert losses[max(losses)] < 0.5 * losses[1]
