"""The actions end to end, with a real worker, model and dataset."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import psutil
import pytest

from services.context import Context, Progress
from services.data.actions import generate as generate_data
from services.data.generate import GenerateParams as DataParams
from services.errors import BadInput
from services.inference import actions
from services.inference.types import Answer

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.models


@pytest.fixture
def steps() -> list[Progress]:
    return []


@pytest.fixture
def told(ctx: Context, steps: list[Progress]) -> Context:
    """A context that writes down what is reported."""
    return dataclasses.replace(ctx, report=steps.append)


async def test_generate_streams_what_it_returns(told: Context, steps: list[Progress], tiny: Path) -> None:
    answer = await actions.generate(told, actions.GenerateParams(prompt="How", model=str(tiny), max_tokens=20))
    assert answer.model == str(tiny) and answer.mode == "chat" and 0 < answer.tokens <= 20
    pieces = [s for s in steps if s.partial is not None]
    assert "".join(s.note for s in pieces) == answer.text
    assert isinstance(pieces[-1].partial, Answer) and pieces[-1].partial.text == answer.text
    assert answer.first_token_s is not None and answer.seconds >= answer.first_token_s > 0


async def test_the_mode_follows_the_adapter(ctx: Context, tiny: Path, adapter: Path) -> None:
    labels = json.loads((adapter / "metadata.json").read_text())["labels"]
    closed = await actions.generate(ctx, actions.GenerateParams(prompt="my card", model=str(adapter)))
    assert closed.mode == "task" and closed.text in labels
    with pytest.raises(BadInput, match="was not trained for a task"):
        await actions.generate(ctx, actions.GenerateParams(prompt="x", model=str(tiny), mode="task"))


async def test_compare_asks_both_the_same(ctx: Context, tiny: Path, adapter: Path) -> None:
    params = actions.CompareParams(prompt="my card", left=str(tiny), right=str(adapter), max_tokens=20, constrain=False)
    found = await actions.compare(ctx, params)
    assert found.mode == found.left.mode == found.right.mode == "task"
    assert found.left.prompt_tokens == found.right.prompt_tokens
    assert found.left.text != found.right.text


async def test_evaluate_gives_the_figures_of_every_row(told: Context, steps: list[Progress], tiny: Path) -> None:
    info = await generate_data(told, DataParams(name="d", rows=300, seed=1))
    steps.clear()
    found = await actions.evaluate(told, actions.EvaluateParams(data="d", model=str(tiny)))
    assert found.rows == info.counts["test"] and found.data_sha256 == info.sha256
    assert found.accuracy is not None and 0 <= found.accuracy < 0.5, "a random model knows nothing"
    assert found.macro_f1 is not None and 0 <= found.macro_f1 < 0.5
    rows = [s.done for s in steps if s.unit == "rows"]
    assert rows == sorted(rows) and rows[-1] == found.rows
    few = await actions.evaluate(told, actions.EvaluateParams(data="d", model=str(tiny), split="val", limit=7))
    assert few.rows == 7 and few.split == "val"
    with pytest.raises(BadInput, match="no dataset 'dd'"):
        await actions.evaluate(told, actions.EvaluateParams(data="dd", model=str(tiny)))


async def test_an_interrupted_action_leaves_no_process(ctx: Context, tiny: Path) -> None:
    def workers() -> set[int]:
        found = set()
        for process in psutil.Process().children(recursive=True):
            if "services.runtime.worker" in " ".join(process.cmdline()):
                found.add(process.pid)
        return found

    before = workers()
    talking = asyncio.Event()
    told = dataclasses.replace(ctx, report=lambda step: talking.set() if step.partial is not None else None)
    params = actions.GenerateParams(prompt="How", model=str(tiny), max_tokens=32_000)
    task = asyncio.create_task(actions.generate(told, params))
    await asyncio.wait_for(talking.wait(), 60)
    assert workers() > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert workers() == before
