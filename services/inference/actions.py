"""Talking to models from a script: generate, compare, evaluate. Each starts a worker and ends it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from services.context import Context, Progress
from services.errors import BadInput
from services.inference.client import RequestFields, WorkerClient, require_models
from services.inference.resolve import resolve
from services.inference.types import (
    Answer,
    Classification,
    Comparison,
    EvaluationResult,
    Guess,
    Message,
    Reply,
    Subject,
    as_task,
    no_chat,
)

_RESULT = "run:ID, NAME@VERSION, NAME@ALIAS or a folder, trained with task=classify"
_MODEL = "base, a built-in name, a folder, a .gguf file, a Hugging Face id, run:ID, NAME@VERSION or NAME@ALIAS"


class _Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to draw tokens; shared by generate and compare."""

    max_tokens: Annotated[int, Meta(ge=0, le=32768, description="Longest answer; 0 = [inference] max_tokens.")] = 0
    temperature: Annotated[float | None, Meta(description="0 is greedy; left out = [inference] temperature.")] = None
    top_p: Annotated[float, Meta(gt=0, le=1, description="Only the likeliest tokens of this total probability.")] = 1.0
    seed: Annotated[int, Meta(ge=0, description="The same seed draws the same answer.")] = 0
    stop: Annotated[tuple[str, ...], Meta(description="Texts that end the answer.")] = ()
    mode: Annotated[
        Literal["auto", "chat", "task"],
        Meta(description="chat: its chat template; task: the prompt it was trained with; auto: task if it has one."),
    ] = "auto"
    constrain: Annotated[bool, Meta(description="A classifier answers only with one of its labels.")] = True


class GenerateParams(_Sampling, frozen=True, forbid_unknown_fields=True):
    """One prompt to one model."""

    prompt: Annotated[str, Meta(min_length=1, description="What to say to the model.")]
    model: Annotated[str, Meta(description=f"Who answers: {_MODEL}.")] = "base"


class ClassifyParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text to one classifier."""

    text: Annotated[str, Meta(min_length=1, description="The text to put a label on.")]
    model: Annotated[str, Meta(description=f"A classifier: {_RESULT}.")]
    top: Annotated[int, Meta(ge=1, description="How many of the likeliest labels to name.")] = 3


class CompareParams(_Sampling, frozen=True, forbid_unknown_fields=True):
    """One prompt to two models."""

    prompt: Annotated[str, Meta(min_length=1, description="What to say to both models.")]
    right: Annotated[str, Meta(description=f"The second model: {_MODEL}.")]
    left: Annotated[str, Meta(description="The first model, named in the same way.")] = "base"


class EvaluateParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model against a dataset."""

    data: Annotated[str, Meta(description="A dataset's name, or its folder.")]
    model: Annotated[str, Meta(description=f"What to evaluate: {_MODEL}.")] = "base"
    split: Annotated[Literal["train", "val", "test"], Meta(description="Which rows.")] = "test"
    limit: Annotated[int, Meta(ge=0, description="Only so many rows; 0 = all.")] = 0


async def generate(ctx: Context, params: GenerateParams) -> Answer:
    """Answer ``params.prompt``; pieces are reported as they come (``note`` the piece, ``partial`` the answer so far).

    Raises BadInput for an unknown model or a mode it doesn't have, HybridError when the model's process fails.
    """
    require_models()
    subject = await resolve(ctx, params.model)
    async with WorkerClient(ctx) as worker:
        return await _answer(ctx, worker, subject, params.prompt, _mode(params.mode, subject), params)


async def classify(ctx: Context, params: ClassifyParams) -> Classification:
    """The label that a classification head puts on ``params.text``, with its probability.

    Raises BadInput for an unknown model or one without a head, HybridError when the model's process fails.
    """
    require_models()
    subject = await resolve(ctx, params.model)
    if not subject.head:
        raise BadInput(
            f"{subject.label} has no classification head: it writes its answers.",
            hint="inference.generate asks it; train.start task=classify makes a classifier.",
        )
    data: dict[str, Any] = {}
    async with (
        WorkerClient(ctx) as worker,
        aclosing(worker.stream("classify", subject=subject, text=params.text)) as replies,
    ):
        async for reply in replies:
            data = reply.data
            if reply.ev == "loading":
                ctx.report(Progress(str(data["stage"])))
    ranked = tuple(Guess(label, probability) for label, probability in data["ranked"][: params.top])
    return Classification(
        subject.label, params.text, data["text"], data["probability"], ranked, data["tokens"], data["seconds"]
    )


async def compare(ctx: Context, params: CompareParams) -> Comparison:
    """Give the same prompt to two models, one after the other in one process.

    In the mode "task" both get the prompt (and the labels) of whichever was trained for a task, the right one first.
    """
    require_models()
    left, right = await resolve(ctx, params.left), await resolve(ctx, params.right)
    task = right if right.prompt else left
    mode = _mode(params.mode, task)
    if mode == "chat" and (classifier := next((s for s in (left, right) if s.head), None)):
        raise no_chat(classifier)
    if mode == "task":
        left, right = (as_task(subject, task) for subject in (left, right))
    async with WorkerClient(ctx) as worker:
        first = await _answer(ctx, worker, left, params.prompt, mode, params)
        second = await _answer(ctx, worker, right, params.prompt, mode, params)
    return Comparison(params.prompt, mode, first, second)


async def evaluate(ctx: Context, params: EvaluateParams) -> EvaluationResult:
    """Accuracy and macro-F1 on rows the model has not seen (or any other split); reports rows done and accuracy so far.

    The rows' own prompt and labels are used, so that base and adapter are asked exactly the same.
    """
    from services.data import store

    require_models()
    folder = store.resolve(ctx.workspace, params.data)
    info = store.load_info(folder)
    subject = msgspec.structs.replace(await resolve(ctx, params.model), prompt=info.prompt, labels=info.labels)
    data: dict[str, Any] = {}
    async with WorkerClient(ctx) as worker:
        stream = worker.stream("evaluate", subject=subject, data=str(folder), split=params.split, limit=params.limit)
        async with aclosing(stream) as replies:
            async for reply in replies:
                _report_evaluation(ctx, subject.label, reply)
                data = reply.data
    return EvaluationResult(
        model=subject.label, data=info.name, split=params.split, accuracy=data.get("accuracy"),
        macro_f1=data.get("macro_f1"), rows=data["rows"], seconds=data["seconds"], data_sha256=info.sha256,
        perplexity=data.get("perplexity"),
    )  # fmt: skip


def _mode(wanted: str, subject: Subject) -> Literal["chat", "task"]:
    if subject.head:
        if wanted == "chat":
            raise no_chat(subject)
        return "task"
    if wanted == "task" and not subject.prompt:
        raise BadInput(
            f"{subject.label} was not trained for a task, so it has no prompt of its own.",
            hint="Use mode=chat, or name a run or a version whose adapter was trained.",
        )
    return "task" if wanted != "chat" and subject.prompt else "chat"


async def _answer(
    ctx: Context, worker: WorkerClient, subject: Subject, prompt: str, mode: Literal["chat", "task"], how: _Sampling
) -> Answer:
    given = ctx.workspace.settings.inference
    fields: RequestFields = {
        "subject": subject,
        "max_tokens": how.max_tokens or given.max_tokens,
        "temperature": given.temperature if how.temperature is None else how.temperature,
        "top_p": how.top_p,
        "seed": how.seed,
        "stop": how.stop,
    }
    if mode == "task":
        fields |= {"text": prompt, "constrain": how.constrain and bool(subject.labels)}
    else:
        fields |= {"messages": (Message("user", prompt),)}
    so_far = ""
    data: dict[str, Any] = {}
    async with aclosing(worker.stream("generate", **fields)) as replies:
        async for reply in replies:
            data = reply.data
            if reply.ev == "loading":
                ctx.report(Progress(str(data["stage"])))
            elif reply.ev == "token":
                so_far += data["text"]
                partial = Answer(subject.label, mode, so_far)
                ctx.report(Progress(f"{subject.label} answers", note=data["text"], partial=partial))
    return Answer(
        subject.label, mode, data["text"], data.get("tokens", 0), data.get("prompt_tokens", 0),
        data.get("first_token_s"), data.get("tokens_s"), data.get("seconds", 0.0), data.get("stopped", False),
        data.get("probability"),
    )  # fmt: skip


def _report_evaluation(ctx: Context, label: str, reply: Reply) -> None:
    data = reply.data
    if reply.ev == "loading":
        ctx.report(Progress(str(data["stage"])))
    elif reply.ev == "progress":
        accuracy = data.get("accuracy")
        note = "" if accuracy is None else f"accuracy so far {accuracy:.1%}"
        ctx.report(Progress(f"evaluating {label}", data["done"], data["total"], "rows", note))
