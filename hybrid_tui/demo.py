"""The headless main job: every stage is the action a person would call, in the order they would call it.

Interrupted, it goes on where it was: the training run outlives it, and the next call finds it through
``.hybrid/demo.json``. Finished, the next call starts anew; every figure in the report is from its own run.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hybrid_tui import actions
from services import atomic
from services.context import Context, Plan, Progress
from services.errors import HybridError

_MODEL = "banking"
_STAGES = ("scan", "model", "data", "train and evaluate", "evaluate base", "register", "promote", "answer")


class DemoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the demo; the defaults finish within ten minutes on two cores."""

    rows: Annotated[int, Meta(ge=400, le=20000, description="Rows of the generated dataset.")] = 2400
    seconds: Annotated[float, Meta(ge=1, description="About how long to train.")] = 200.0
    seed: Annotated[int, Meta(ge=0, description="Seed of data and training.")] = 0
    prompt: Annotated[str, Meta(description="What the deployed version is asked at the end.")] = (
        "my card still hasn't come in the post, when will it get here?"
    )


class DemoReport(msgspec.Struct, frozen=True):
    """What the main job did, in figures of this run. All accuracies are on the same held-out rows: ``words_only`` of a
    classifier that counts words (the baseline), ``base`` of the model as it came, ``adapter`` of the one trained."""

    workspace: str
    disk_used_bytes: int
    disk_free_bytes: int
    workspace_bytes: int
    caches_bytes: int
    dataset: str
    train_rows: int
    test_rows: int
    labels: int
    base_model: str
    run: str
    steps: int
    run_seconds: float
    train_tokens_s: float | None
    words_only_accuracy: float
    words_only_macro_f1: float
    base_accuracy: float
    base_macro_f1: float
    adapter_accuracy: float
    adapter_macro_f1: float
    model: str
    version: int
    alias: str
    prompt: str
    answer: str
    first_token_s: float | None
    answer_tokens_s: float | None
    seconds: float


class _State(msgspec.Struct):
    """``.hybrid/demo.json``: what an unfinished demo has behind it."""

    params: DemoParams
    run: str = ""


async def run(ctx: Context, params: DemoParams) -> DemoReport | Plan:
    """Scan, prepare, train, evaluate, register, promote, answer. Raises what the stages raise."""
    if ctx.dry_run:
        return Plan("demo", f"trains for about {params.seconds:.0f} s and registers a version of {_MODEL}", _STAGES)
    ctx.will_write("demo")
    ctx.workspace.ensure_state()
    return await _Demo(ctx, params).run()


class _Demo:
    """One execution; each method is a stage."""

    def __init__(self, ctx: Context, params: DemoParams) -> None:
        self.ctx = ctx
        self.params = params
        self.path = ctx.workspace.state / "demo.json"
        self.state = self._unfinished() or _State(params)
        self.began = time.monotonic()

    async def run(self) -> DemoReport:
        disk = await self._call("storage.usage", "scan")
        scan = await self._call("storage.scan", "scan", path=str(self.ctx.workspace.root))
        caches = await self._call("storage.caches", "scan")
        model = await self._call("model.get", "model")
        rows, seed = str(self.params.rows), str(self.params.seed)
        data = await self._call("data.generate", "data", name=f"demo-{rows}-{seed}", rows=rows, seed=seed)
        words = await self._call("data.baseline", "data", name=data.name)
        trained = await self._train(data.name)
        base = await self._call("inference.evaluate", "evaluate base", model="base", data=data.name)
        figures = trained.results  # the run has evaluated its adapter on the whole test split at its end
        version = await self._register(trained.id, figures["accuracy"] - base.accuracy)
        answer = await self._call(
            "inference.generate", "answer", model=f"{_MODEL}@deployed", prompt=self.params.prompt, mode="task"
        )
        self.path.unlink(missing_ok=True)
        return DemoReport(
            workspace=str(self.ctx.workspace.root),
            disk_used_bytes=disk.used_bytes,
            disk_free_bytes=disk.free_bytes,
            workspace_bytes=scan.total_bytes,
            caches_bytes=caches.total_bytes,
            dataset=data.name,
            train_rows=data.counts["train"],
            test_rows=data.counts["test"],
            labels=len(data.labels),
            base_model=model.label,
            run=trained.id,
            steps=trained.step,
            run_seconds=(trained.ended_at or 0) - (trained.started_at or 0),
            train_tokens_s=trained.metrics.get("tokens_s"),
            words_only_accuracy=words.accuracy,
            words_only_macro_f1=words.macro_f1,
            base_accuracy=base.accuracy,
            base_macro_f1=base.macro_f1,
            adapter_accuracy=figures["accuracy"],
            adapter_macro_f1=figures["macro_f1"],
            model=_MODEL,
            version=version,
            alias="deployed",
            prompt=self.params.prompt,
            answer=answer.text.strip(),
            first_token_s=answer.first_token_s,
            answer_tokens_s=answer.tokens_s,
            seconds=time.monotonic() - self.began,
        )

    async def _train(self, dataset: str) -> Any:
        """Start a run, or take up the one an interrupted demo left, and follow it to its end."""
        if self.state.run:
            left = await self._call("train.show", "train and evaluate", run=self.state.run)
            if left.phase in ("failed", "cancelled", "lost", "over-budget"):
                await self._call("train.resume", "train and evaluate", run=left.id)
        else:
            started = await self._call(
                "train.start", "train and evaluate", data=dataset, epochs="4",
                max_seconds=str(self.params.seconds), seed=str(self.params.seed),
            )  # fmt: skip
            self.state.run = started.id
            self._remember()
        ended = await self._call("train.watch", "train and evaluate", run=self.state.run)
        if ended.phase != "succeeded":
            raise HybridError(
                f"The demo's run {ended.id} {ended.phase}: {ended.reason}",
                hint="Run the demo again: it goes on from the last checkpoint.",
            )
        return ended

    async def _register(self, run: str, gain: float) -> int:
        added = await self._call("registry.add", "register", model=_MODEL, run=run, key=run, note="made by the demo")
        await self._call(
            "registry.promote", "promote", model=_MODEL, version=str(added.version), to="deployed",
            note=f"{100 * gain:+.1f} points against the base on held-out rows",
        )  # fmt: skip
        return int(added.version)

    async def _call(self, name: str, stage: str, /, **values: str) -> Any:
        """The action called ``name``, its progress shown under the demo's stage."""
        action = actions.find(name)
        number = _STAGES.index(stage) + 1

        def report(progress: Progress) -> None:
            title = f"{number}/{len(_STAGES)} {stage}"
            self.ctx.report(msgspec.structs.replace(progress, stage=title, partial=None))

        report(Progress(stage))
        function: Callable[[Context, Any], Awaitable[Any]] = action.function()
        return await function(replace(self.ctx, report=report), actions.convert(action, values))

    def _unfinished(self) -> _State | None:
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=_State)
        except (OSError, msgspec.MsgspecError):
            return None
        gone = state.run and not (self.ctx.workspace.runs / state.run).is_dir()
        return None if gone or state.params != self.params else state

    def _remember(self) -> None:
        atomic.write_bytes(self.path, msgspec.json.encode(self.state))
