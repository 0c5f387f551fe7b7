"""The train.* actions, with real data and processes; the model stack stays out of it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from services.context import Context, NeedsYes, Plan, Progress
from services.data import prompts, store
from services.data.types import DatasetInfo, Row
from services.errors import BadInput, HybridError, Refused
from services.models.types import BaseModel
from services.runs import actions, local, spec, train, view
from services.runs.actions import ListParams, NamedParams, RunParams, WaitParams
from services.runs.train import StartParams
from services.runs.types import RunSpec, RunView, TrainConfig

from .conftest import CHECKOUT, TRAINER, ended, until

Submit = Callable[..., Path]


@pytest.fixture
def dataset(ctx: Context) -> DatasetInfo:
    """A prepared dataset of two intents."""
    rows = {
        "train": [Row(f"where is my card {n}", "card_arrival") for n in range(4)] + [Row("top up", "top_up")],
        "val": [Row("card?", "card_arrival")],
        "test": [Row("top up please", "top_up")],
    }
    info = store.build_info("intents", "classify", prompts.CLASSIFY, rows, source="made here", seed=0)
    return store.write(ctx, "data.prepare", info, rows)


@pytest.fixture
def small_trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs started by the action execute the small trainer, and any model is ready."""

    async def ready(ctx: Context, label: str) -> BaseModel:
        return BaseModel(label, "folder", f"/models/{label}")

    monkeypatch.setattr("services.models.resolve.ensure_ready", ready)
    monkeypatch.setattr("services.models.resolve.check_stack", lambda: None)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    submit = local.submit

    def use(*options: str) -> None:
        def other(workspace, run):  # type: ignore[no-untyped-def]
            command = (sys.executable, "-P", str(TRAINER), str(workspace.runs / run.id), *options)
            return submit(workspace, msgspec.structs.replace(run, command=command))

        monkeypatch.setattr("services.runs.local.submit", other)

    return use


async def test_start_waits_reports_and_records_what_it_ran_on(
    ctx: Context, dataset: DatasetInfo, small_trainer: Callable[..., None]
) -> None:
    small_trainer("steps=40", "pause=0.02")
    said: list[Progress] = []
    seen = await actions.start(replace(ctx, report=said.append), StartParams(r=4, seed=7, wait=True))
    assert isinstance(seen, RunView)
    assert (seen.phase, seen.model, seen.data) == ("succeeded", "smollm2-135m-instruct", "intents")
    assert seen.results["accuracy"] == 0.75
    steps = [step.done for step in said if step.stage == "running"]
    assert steps == sorted(steps) and any(step.total == 40 and "loss" in step.note for step in said)
    run = spec.read(Path(seen.path))
    assert (run.config.r, run.seed, run.data_sha256) == (4, 7, dataset.sha256)
    assert Path(run.data) == ctx.workspace.datasets / "intents"


async def test_the_command_is_the_trainer_of_this_installation(
    ctx: Context, dataset: DatasetInfo, small_trainer: Callable[..., None]
) -> None:
    run = await train.make_spec(ctx, StartParams(model="tiny", epochs=2))
    assert isinstance(run, RunSpec)
    assert run.command == (sys.executable, "-m", "services.runtime.train", str(ctx.workspace.runs / run.id))
    assert run.config == TrainConfig(epochs=2) and run.model_label == "tiny"
    assert not ctx.workspace.runs.exists()  # a spec alone makes nothing


async def test_start_refuses_what_can_not_work_before_making_anything(
    ctx: Context, small_trainer: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(BadInput, match="no dataset yet"):
        await actions.start(ctx, StartParams())
    request.getfixturevalue("dataset")
    with pytest.raises(BadInput, match="did you mean 'intents'"):
        await actions.start(ctx, StartParams(data="intent"))
    with pytest.raises(Refused, match="read-only"):
        await actions.start(replace(ctx, read_only=True), StartParams())
    plan = await actions.start(replace(ctx, dry_run=True), StartParams())
    assert isinstance(plan, Plan) and "intents" in plan.summary
    for given, words in (
        (StartParams(), "train a LoRA adapter (r=8) for"),
        (StartParams(method="dora", task="classify"), "train a DoRA adapter (r=8) and a classification head for"),
        (StartParams(method="full"), "train all weights of"),
    ):
        plan = await actions.start(replace(ctx, dry_run=True), given)
        assert isinstance(plan, Plan) and words in plan.summary and any("of disk" in step for step in plan.steps)
    assert not ctx.workspace.runs.exists()


async def test_without_the_model_stack_start_says_how_to_get_it(
    ctx: Context, dataset: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    with pytest.raises(HybridError, match="torch") as error:
        await actions.start(ctx, StartParams())
    assert "make run" in error.value.hint


async def test_a_failed_run_fails_the_action_with_its_reason(
    ctx: Context, dataset: DatasetInfo, small_trainer: Callable[..., None]
) -> None:
    small_trainer("crash=error@7")
    with pytest.raises(HybridError, match=r"failed: The loss is not a number at step 7\.") as error:
        await actions.start(ctx, StartParams(wait=True))
    assert error.value.hint == "Lower lr." and error.value.exit_code == 1


async def test_leaving_a_watch_leaves_the_run(ctx: Context, submit: Submit) -> None:
    run_dir = submit("steps=400", "pause=0.02")
    watching = asyncio.create_task(actions.watch(ctx, RunParams()))
    await asyncio.to_thread(until, lambda: view.read(run_dir).step > 2)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    reached = view.read(run_dir).step
    await asyncio.to_thread(until, lambda: view.read(run_dir).step > reached + 2)
    cancelled = await actions.cancel(ctx, WaitParams(run=run_dir.name[-4:], wait=True))
    assert isinstance(cancelled, RunView) and cancelled.phase == "cancelled"


async def test_resume_reports_where_it_goes_on(ctx: Context, submit: Submit) -> None:
    first, anew = submit("crash=kill@7"), submit("crash=kill@3")
    said: list[Progress] = []
    loud = replace(ctx, report=said.append)
    for run_dir, words in ((first, "from step-000005"), (anew, "anew: there is no checkpoint")):
        ended(run_dir)
        plan = await actions.resume(replace(ctx, dry_run=True), WaitParams(run=run_dir.name))
        assert isinstance(plan, Plan) and words in plan.summary
        seen = await actions.resume(loud, WaitParams(run=run_dir.name, wait=True))
        assert isinstance(seen, RunView) and (seen.phase, seen.attempt) == ("succeeded", 2)
        assert any(words in step.note for step in said)
    assert json.loads((first / "output" / "metadata.json").read_text())["first"] == 6
    with pytest.raises(Refused, match="has succeeded"):
        await actions.resume(ctx, WaitParams(run=first.name))


async def test_list_and_show(ctx: Context, submit: Submit) -> None:
    assert (await actions.list_runs(ctx, ListParams())).runs == ()
    with pytest.raises(BadInput, match="no run in this workspace"):
        await actions.show(ctx, RunParams())
    good, bad = submit("steps=3"), submit("crash=exit@2")
    ended(good), ended(bad)
    runs = (await actions.list_runs(ctx, ListParams())).runs
    assert [run.id for run in runs] == [bad.name, good.name]
    assert [run.id for run in (await actions.list_runs(ctx, ListParams(phase="failed"))).runs] == [bad.name]
    assert len((await actions.list_runs(ctx, ListParams(limit=1))).runs) == 1
    shown = await actions.show(ctx, RunParams(run=good.name))
    assert shown.phase == "succeeded" and msgspec.json.decode(msgspec.json.encode(shown), type=RunView) == shown


async def test_delete_asks_names_the_bytes_and_spares_the_living(ctx: Context, submit: Submit) -> None:
    run_dir = submit("steps=500")
    yes = replace(ctx, yes=True)
    with pytest.raises(Refused, match="is running"):
        await actions.delete(yes, NamedParams(run_dir.name))
    with pytest.raises(Refused, match="is running"):
        local.delete(run_dir)
    local.cancel(run_dir)
    ended(run_dir)
    with pytest.raises(NeedsYes) as asked:
        await actions.delete(ctx, NamedParams(run_dir.name))
    size = view.folder_bytes(run_dir)
    assert asked.value.plan.freed_bytes == size and str(size) in asked.value.plan.summary
    plan = await actions.delete(replace(yes, dry_run=True), NamedParams(run_dir.name))
    assert isinstance(plan, Plan) and run_dir.exists()
    gone = await actions.delete(yes, NamedParams(run_dir.name))
    assert (gone.id, gone.freed_bytes) == (run_dir.name, size)  # type: ignore[union-attr]
    assert list(ctx.workspace.runs.iterdir()) == []
