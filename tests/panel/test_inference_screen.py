"""The inference screen with a real worker over a tiny model: streaming, stopping, side by side, errors, an end."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hybrid_tui.app import HybridApp
from hybrid_tui.screens.inference import InferenceScreen, figures
from services import workspace as workspaces
from services.inference import client
from services.workspace import MARK, Workspace
from tests.panel import runs, sample
from tests.panel.helpers import screen_text, until, until_text
from widgets.chat import Answer, Conversation
from widgets.form import FormDialog
from widgets.picker import Picker

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
models = pytest.mark.models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose answers end only by their limit or by being stopped, whatever came before."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    from tests.runtime.tiny_model import write_llama

    folder = write_llama(tmp_path_factory.mktemp("tiny") / "tiny-llama", seed=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][2] = 0  # <|im_end|>: its logit is 0, and the highest is above
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 60_000}))
    return folder


@pytest.fixture
def talking(tiny: Path, tmp_path: Path) -> HybridApp:
    """The panel on a workspace whose base model is the tiny one."""
    root = tmp_path / "talk"
    root.mkdir()
    (root / MARK).write_text(f'[model]\nbase = "{tiny}"\n[inference]\nmax_tokens = 12\n', encoding="utf-8")
    return HybridApp(workspaces.open_workspace(root))


@pytest.fixture(autouse=True)
def _no_worker_left() -> Iterator[None]:
    """The panel's end is the worker's end."""
    yield
    children = psutil.process_iter(["cmdline", "ppid"])  # a zombie of another test has no command line to read
    mine = {p.pid for p in psutil.Process().children(recursive=True)}
    left = [p for p in children if p.pid in mine and "services.runtime.worker" in " ".join(p.info["cmdline"] or [])]
    for process in left:
        process.kill()
    assert not left


async def inference(pilot: Pilot[None]) -> InferenceScreen:
    """Go to the screen."""
    await pilot.press("5")
    await until(pilot, lambda: isinstance(pilot.app.screen, InferenceScreen))
    assert isinstance(pilot.app.screen, InferenceScreen)
    return pilot.app.screen


async def ready(pilot: Pilot[None]) -> InferenceScreen:
    """Go to the screen and wait for its model's name."""
    screen = await inference(pilot)
    await until(pilot, lambda: screen.left.subject is not None, seconds=60)
    return screen


async def ask(pilot: Pilot[None], text: str) -> None:
    """Write ``text`` and send it."""
    await pilot.press("i")
    await until(pilot, lambda: isinstance(pilot.app.focused, Input))
    await pilot.press(*text, "enter")


def adapter_run(workspace: Workspace, tiny: Path, name: str = "20261123-1405-k3v9") -> str:
    """A finished run whose adapter has a task's prompt and labels."""
    import torch
    from safetensors.torch import save_file

    output = runs.write(workspace, name, runs.history(80)) / "output"
    output.mkdir()
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj."
        tensors[prefix + "lora_A.weight"] = torch.randn(4, 48, generator=generator) / 7
        tensors[prefix + "lora_B.weight"] = torch.randn(48, 4, generator=generator)
    save_file(tensors, output / "adapter_model.safetensors", metadata={"format": "pt"})
    (output / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "r": 4, "lora_alpha": 8,'
        ' "lora_dropout": 0.0, "target_modules": ["q_proj"], "bias": "none"}'
    )
    (output / "metadata.json").write_text(
        f'{{"base_model": "tiny", "model_path": "{tiny}", "prompt": "Query: {{text}}\\nIntent:",'
        ' "labels": ["card_arrival", "exchange_rate"]}'
    )
    return f"run:{name}"


# With a model


@models
async def test_an_answer_streams_in_with_its_figures(talking: HybridApp) -> None:
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await ready(pilot)
        await ask(pilot, "my card [b]1[/b]")
        await until(pilot, lambda: screen.left.column.answers)
        answer = screen.left.column.answers[0]
        await until(pilot, lambda: "tokens/s" in answer.state, seconds=60)
        shown = await until_text(pilot, "first token")
        assert "› my card [b]1[/b]" in shown
        assert "12 tokens" in answer.state
        assert "worker" in shown
        assert len(screen.left.history) == 2


@models
async def test_escape_stops_an_answer_and_a_killed_worker_is_said(talking: HybridApp) -> None:
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await ready(pilot)
        screen.options = type(screen.options)(max_tokens=30_000)
        await ask(pilot, "card")
        await until(pilot, lambda: screen.left.column.answers and screen.left.column.answers[0].text, seconds=60)
        await pilot.press("escape")
        await until(pilot, lambda: not screen.answering, seconds=20)
        assert "stopped" in screen.left.column.answers[0].state
        screen.options = type(screen.options)(max_tokens=3)
        await pilot.press(*"again", "enter")
        await until(pilot, lambda: len(screen.left.column.answers) == 2 and not screen.answering, seconds=60)
        assert "3 tokens" in screen.left.column.answers[1].state
        screen.options = type(screen.options)(max_tokens=30_000)
        await pilot.press(*"more", "enter")
        await until(pilot, lambda: len(screen.left.column.answers) == 3 and screen.left.column.answers[2].text)
        assert screen.client is not None
        assert screen.client.pid is not None
        psutil.Process(screen.client.pid).kill()
        await until_text(pilot, "✗ The model's process was killed", seconds=20)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(talking.focused, Input))


@models
async def test_base_and_adapter_answer_the_same_task_one_after_the_other(talking: HybridApp, tiny: Path) -> None:
    reference = adapter_run(talking.workspace, tiny)
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await ready(pilot)
        await pilot.press("v")
        await until(pilot, lambda: isinstance(talking.screen, Picker))
        await pilot.press(*"k3v9")
        await until_text(pilot, reference)
        await pilot.press("enter")
        await until(pilot, lambda: screen.right.subject is not None, seconds=30)
        assert screen.pair
        assert screen.mode == "task"
        await ask(pilot, "where is my card")
        await until_text(pilot, "waiting for the left side")
        await until(pilot, lambda: not screen.answering, seconds=60)
        left, right = screen.left.column.answers[0], screen.right.column.answers[0]
        for answer in (left, right):
            assert answer.text.strip() in ("card_arrival", "exchange_rate")
            assert "first token" in answer.state
        await pilot.press("escape", "t")
        assert screen.mode == "chat"
        await pilot.press("b")
        await until(pilot, lambda: not screen.right.column.display or not screen.pair)
        assert "mode chat" in screen_text(talking)


@models
async def test_a_run_is_talked_to_from_the_training_screen(talking: HybridApp, tiny: Path) -> None:
    reference = adapter_run(talking.workspace, tiny)
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("4")
        await until_text(pilot, "✓ succeeded")
        await pilot.press("t")
        await until_text(pilot, f"─ {reference}", seconds=30)
        assert "with its adapter" in screen_text(talking)


@models
async def test_a_classifier_is_asked_from_the_training_screen(talking: HybridApp, tmp_path: Path) -> None:
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig
    from tests.runtime.tiny_model import write_bert

    bert = write_bert(tmp_path / "bert")
    output = runs.write(talking.workspace, "20261123-1405-k3v9", runs.history(80)) / "output"
    learner = open_learner(str(bert), "fp32", labels=("card_arrival", "exchange_rate"))
    learner.attach(LoraConfig(4, 8.0), seed=1)
    output.mkdir()
    learner.save(output, "tiny")
    about = {"model_path": str(bert), "prompt": "Query: {text}\nIntent:", "labels": ["card_arrival", "exchange_rate"]}
    (output / "metadata.json").write_text(json.dumps(about))
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("4")
        await until_text(pilot, "✓ succeeded")
        await pilot.press("t")
        await until_text(pilot, "classifier", seconds=60)
        await ask(pilot, "my card")
        await until_text(pilot, "sure · ", seconds=120)
        assert "mode task" in screen_text(talking)
        await pilot.press("escape", "t")
        await ask(pilot, "hello")
        await until_text(pilot, "can't chat", seconds=60)


@models
async def test_an_unknown_model_is_a_toast_and_the_old_one_stays(talking: HybridApp) -> None:
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await ready(pilot)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(talking.screen, Picker))
        await pilot.press(*"run:nope", "enter")
        await until_text(pilot, "There is no run")
        assert screen.left.subject is not None
        assert screen.left.reference == "base"


@models
async def test_options_are_checked_and_used(talking: HybridApp) -> None:
    async with talking.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await ready(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(talking.screen, FormDialog))
        field = talking.screen.query_one("#field-temperature", Input)
        field.value = "9"
        await pilot.press("enter")
        await until_text(pilot, "<= 5")
        field.value = "0.7"
        await pilot.press("enter")
        await until(pilot, lambda: talking.screen is screen)
        assert screen.options.temperature == 0.7
        assert "temperature 0.7" in await until_text(pilot, "mode chat")


# Without


async def test_without_the_model_stack_it_says_what_is_missing(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MODEL_STACK", ("torch_that_nobody_has",))
    async with app.run_test(notifications=True) as pilot:
        await inference(pilot)
        shown = await until_text(pilot, "needs torch_that_nobody_has")
        assert "pip install" in shown
        await ask(pilot, "hello")
        await until_text(pilot, "The model is not ready")


async def test_a_base_model_that_is_nowhere_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MODEL_STACK", ())
    (tmp_path / MARK).write_text('[model]\nbase = "./no-such-model"\n')
    app = HybridApp(workspaces.open_workspace(tmp_path))
    async with app.run_test(notifications=True) as pilot:
        await inference(pilot)
        assert "no-such-model" in await until_text(pilot, "✗ ")


async def test_chat_mode_only_without_a_task(app: HybridApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MODEL_STACK", ("torch_that_nobody_has",))
    async with app.run_test(notifications=True) as pilot:
        screen = await inference(pilot)
        await pilot.press("t")
        await until_text(pilot, "Neither model has a task")
        assert screen.mode == "chat"


def test_figures_say_when_an_answer_was_stopped() -> None:
    data: dict[str, Any] = {"first_token_s": 0.32, "tokens_s": 41.2, "tokens": 57, "stopped": True}
    assert figures(data) == "first token 0.3 s · 41 tokens/s · 57 tokens · stopped"


# The widgets


async def test_a_long_answer_keeps_every_character(app: HybridApp) -> None:
    async with app.run_test() as pilot:
        column = Conversation("nothing yet")
        await app.screen.mount(column)
        answer = column.ask("why?")
        words = [f"word{i} " + ("\n" if i % 50 == 0 else "") for i in range(3_000)]
        for i, word in enumerate(words):
            answer.append(word)
            if i % 700 == 0:
                await pilot.pause(0.12)
        answer.finish("done")
        await pilot.pause()
        drawn = " ".join(str(block.content) for block in list(answer.query("Static"))[1:-1])
        assert drawn.split() == "".join(words).split()
        assert answer.state == "done"


async def test_old_turns_are_dropped(app: HybridApp) -> None:
    async with app.run_test() as pilot:
        column = Conversation("nothing yet")
        await app.screen.mount(column)
        for i in range(66):
            column.ask(str(i))
        await until(pilot, lambda: len(column.answers) <= 60)
        assert isinstance(column.answers[-1], Answer)
        assert column.answers[-1].question == "65"
        column.clear()
        await until(pilot, lambda: not column.answers)


# Pictures


@SIZES
def test_picture_without_the_model_stack(
    snap_compare: Any, app: HybridApp, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    sample.put(monkeypatch, storage_usage="usage_ok")
    monkeypatch.setattr(client, "MODEL_STACK", ("torch",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.prefix", "/opt/hybrid")

    async def wait(pilot: Pilot[None]) -> None:
        await inference(pilot)
        await until_text(pilot, "needs torch")
        await until_text(pilot, "GB free")

    assert snap_compare(app, terminal_size=size, run_before=wait)


@SIZES
def test_picture_of_two_conversations(
    snap_compare: Any, app: HybridApp, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    sample.put(monkeypatch, storage_usage="usage_ok")
    monkeypatch.setattr(client, "MODEL_STACK", ("torch_that_nobody_has",))

    async def wait(pilot: Pilot[None]) -> None:
        screen = await inference(pilot)
        await until_text(pilot, "needs torch")
        await pilot.press("b")
        await until_text(pilot, "GB free")
        for side, name, text in (
            (screen.left, "base", "I'm sorry to hear"),
            (screen.right, "banking@2", "card arrival"),
        ):
            answer = side.column.ask("my card still hasn't come")
            answer.append(text)
            answer.finish(figures({"first_token_s": 0.21, "tokens_s": 38.0, "tokens": 6}))
            side.column.entitle(name, "with its adapter" if "@" in name else "base model")
        await until(pilot, lambda: "card arrival" in screen_text(app))

    assert snap_compare(app, terminal_size=size, run_before=wait)
