"""Classifiers: their label and how sure they are, in a moment; a chat is refused; a full model talks as any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.context import Context
from services.errors import BadInput
from services.inference import actions
from services.inference.client import WorkerClient
from services.inference.resolve import resolve
from services.inference.types import Message, Subject
from services.registry.adding import AddParams, add

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.models

LABELS = ("card_arrival", "exchange_rate", "refund")
PROMPT = "Query: {text}\nIntent:"


def make(folder: Path, model: Path, *, method: str = "lora", head: bool = True, **about: object) -> Path:
    """A run's output, random but strong enough to be sure: an adapter or a full model, with or without a head."""
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig

    torch.set_num_threads(1)
    learner = open_learner(str(model), "fp32", method=method, labels=LABELS if head else None)  # type: ignore[arg-type]
    learner.attach(LoraConfig(4, 8.0), seed=1)
    for parameter in learner.parameters()[-2:] if head else ():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    folder.mkdir(parents=True)
    learner.save(folder, "tiny")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    known = {"base_model": "tiny", "model_path": str(model), "prompt": PROMPT, "labels": LABELS, **about}
    (folder / "metadata.json").write_text(json.dumps(known))
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.runtime.tiny_model import write_bert

    return write_bert(tmp_path_factory.mktemp("bert") / "tiny-bert")


async def test_a_version_with_a_head_answers_with_its_label(ctx: Context, bert: Path, tmp_path: Path) -> None:
    from services.runtime.classifier import open_classifier
    from services.runtime.tokenizer import Tokenizer

    folder = make(tmp_path / "made", bert)
    version = await add(ctx, AddParams(model="intents", path=str(folder)))
    assert version.type == "classifier" and version.base_model == "tiny"  # type: ignore[union-attr]
    found = await actions.classify(ctx, actions.ClassifyParams(text="I want a refund", model="intents@1", top=2))
    assert found.model == "intents@1" and found.label in LABELS and len(found.ranked) == 2
    assert found.ranked[0].label == found.label and found.ranked[0].probability == found.probability
    ours, words = open_classifier(str(bert), folder), Tokenizer(bert)
    ids = [*words.prefix, *words.encode("I want a refund"), words.eos_id]
    expected = dict(zip(LABELS, ours.scores([ids])[0].softmax(0).tolist(), strict=True))
    assert found.label == max(expected, key=lambda label: expected[label]) and found.tokens == len(ids)
    assert found.probability == pytest.approx(expected[found.label], rel=0.02) and found.seconds < 5
    with pytest.raises(BadInput, match="intents@1 is a classifier: it names one of 3 labels and can't chat") as caught:
        await actions.generate(ctx, actions.GenerateParams(prompt="Hello", model="intents@1", mode="chat"))
    assert "inference.classify" in caught.value.hint


async def test_one_worker_holds_one_after_the_other(ctx: Context, tiny: Path, bert: Path, tmp_path: Path) -> None:
    kinds = {
        "adapter": make(tmp_path / "adapter", tiny),
        "full": make(tmp_path / "full", tiny, method="full"),
        "encoder": make(tmp_path / "encoder", bert, method="full"),
    }
    async with WorkerClient(ctx) as client:
        for name, folder in kinds.items():
            subject = await resolve(ctx, str(folder))
            assert subject.head and subject.labels == LABELS and (subject.adapter is None) == (name != "adapter")
            done = await client.ask("classify", subject=subject, text="my card")
            assert done["text"] in LABELS and 0 < done["probability"] <= 1
            assert sum(share for _, share in done["ranked"]) == pytest.approx(1, abs=1e-3)
            asked = await client.ask("generate", subject=subject, text="my card", constrain=True)
            assert (asked["text"], asked["probability"]) == (done["text"], done["probability"])
            with pytest.raises(BadInput, match="is a classifier"):
                await client.ask("generate", subject=subject, messages=(Message("user", "Hello"),))
        base = Subject("base", str(tiny))
        assert (await client.ask("generate", subject=base, text="How", max_tokens=3))["tokens"] <= 3
        with pytest.raises(BadInput, match="base has no classification head"):
            await client.ask("classify", subject=base, text="my card")


async def test_a_full_model_talks_as_any(ctx: Context, tiny: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "made", tiny, method="full", head=False)
    version = await add(ctx, AddParams(model="whole", path=str(folder)))
    assert version.type == "full" and version.base_model == "tiny"  # type: ignore[union-attr]
    subject = await resolve(ctx, "whole@latest")
    assert (subject.adapter, subject.head, subject.prompt, subject.labels) == (None, False, PROMPT, LABELS)
    async with WorkerClient(ctx) as client:
        chat = await client.ask("generate", subject=subject, messages=(Message("user", "Hello"),), max_tokens=8)
        base = Subject("base", str(tiny))
        same = await client.ask("generate", subject=base, messages=(Message("user", "Hello"),), max_tokens=8)
        assert chat["text"] == same["text"]  # nothing was learned, so nothing may differ
        label = await client.ask("generate", subject=subject, text="my card", constrain=True)
        assert label["text"] in LABELS
    with pytest.raises(BadInput, match="whole@1 has no classification head"):
        await actions.classify(ctx, actions.ClassifyParams(text="my card", model="whole@1"))


async def test_runs_of_every_kind_are_found_and_evaluated(ctx: Context, bert: Path, tmp_path: Path) -> None:
    from services.data.actions import generate as generate_data
    from services.data.generate import GenerateParams as DataParams

    await generate_data(ctx, DataParams(name="d", rows=240, seed=1))
    run = ctx.workspace.runs / "20261123-0101-abcd"
    run.mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    make(run / "output", bert, method="full")
    assert (await resolve(ctx, "run:abcd")).head
    found = await actions.evaluate(ctx, actions.EvaluateParams(data="d", model="run:abcd", limit=5))
    assert found.rows == 5 and found.accuracy is not None and found.macro_f1 is not None
