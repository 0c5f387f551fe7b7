"""``data.synthesize``: a local model writes rows like those it is shown; what is unusable is dropped and counted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services import atomic
from services.context import Context, Plan, Progress
from services.data import domains, prompts, split, store, written
from services.data.baseline import NaiveBayes
from services.data.generate import GenerateParams, make
from services.data.types import DatasetInfo, Row
from services.data.written import Asked, Sieve
from services.errors import BadInput
from services.inference.client import WorkerClient, require_models
from services.inference.resolve import resolve
from services.inference.types import Subject

_SHOTS = 5
_SEEDS_OF_A_LABEL = 30
_HOPELESS = 40  # requests in a row without a new row
_FEWEST = 10  # rows that can be split


class SynthesizeParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to write, after which examples, at what cost at most."""

    rows: Annotated[int, Meta(ge=10, le=100_000, description="Usable rows wanted.")] = 100
    domain: Annotated[str, Meta(description=f"Built-in examples: one or several of {', '.join(domains.DOMAINS)}.")] = ""
    examples: Annotated[
        str, Meta(description="Own examples instead: a dataset's name or folder; its train is shown.")
    ] = ""
    model: Annotated[str, Meta(description="Who writes, as in inference.generate.")] = "base"
    name: Annotated[str, Meta(description="Name of the dataset; empty: made from the examples' name.")] = ""
    seed: Annotated[int, Meta(ge=0, description="Seed of examples and sampling.")] = 0
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 always writes the likeliest.")] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1, description="Only the likeliest tokens of this total probability.")] = 0.95
    max_tokens: Annotated[int, Meta(ge=16, le=4096, description="Longest row in tokens.")] = 100
    budget_tokens: Annotated[int, Meta(ge=1, description="Stop after so many tokens written, all calls together.")] = (
        50_000
    )
    budget_s: Annotated[float, Meta(gt=0, description="Stop after so many seconds of writing, all calls together.")] = (
        600.0
    )
    fresh: Annotated[bool, Meta(description="Forget what was written under this name, instead of going on.")] = False


class Synthesis(msgspec.Struct, frozen=True):
    """``lines`` is what the model wrote, one a request; ``usable_share`` of them became ``rows``, the others were
    dropped, counted by reason. ``agreement`` is the share of rows that words alone, learned from the examples, put
    under the same label. ``ended`` says why writing stopped; ``dataset`` is None when there are too few to split."""

    name: str
    model: str
    rows: int
    wanted: int
    lines: int
    usable_share: float
    dropped: dict[str, int]
    agreement: float | None
    tokens: int
    seconds: float
    ended: str
    dataset: DatasetInfo | None


class _Task(msgspec.Struct, frozen=True):
    """What is written after: examples by label ("" alone for questions and answers)."""

    name: str
    by_label: dict[str, list[Row]]
    notes: tuple[str, ...]

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(filter(None, self.by_label))

    @property
    def every(self) -> list[Row]:
        return [row for rows in self.by_label.values() for row in rows]


async def synthesize(ctx: Context, params: SynthesizeParams) -> Synthesis | Plan:
    """Write rows until there are enough or the budget is used up, then store them as a dataset.

    Each request shows the model some examples of one label as JSON lines and lets it write the next one. A row counts
    when it is JSON with the right fields, has the label asked for, and is near none of the examples and rows.
    Cancelled or out of budget, the next call with the same settings goes on.

    Raises BadInput (examples, model), HybridError (the worker).
    """
    ctx.will_write("data.synthesize")
    task = await asyncio.to_thread(_task, ctx, params)
    name = store.check_name(params.name or f"{task.name}-written")
    place = ctx.workspace.state / "synthesis" / name
    if ctx.dry_run:
        return Plan(
            "data.synthesize",
            f"let {params.model} write {params.rows} rows after {len(task.every)} examples, for at most "
            f"{params.budget_tokens:,} tokens and {params.budget_s:.0f} s",
            (f"write {ctx.workspace.datasets / name}",),
        )
    require_models()
    subject = msgspec.structs.replace(await resolve(ctx, params.model), prompt="", labels=())
    ctx.workspace.ensure_state()
    with written.alone(place):
        journal = await asyncio.to_thread(_open, ctx, place, task, subject, params)
        asked = await asyncio.to_thread(written.read_journal, journal)
        ended = await _write(ctx, params, task, subject, journal, asked)
        return await asyncio.to_thread(_result, ctx, params, task, name, subject, asked, ended)


def _task(ctx: Context, params: SynthesizeParams) -> _Task:
    if params.domain and params.examples:
        raise BadInput("domain= and examples= can't both be given.", hint="Leave one of them out.")
    if params.examples:
        return _own(ctx, params)
    names = domains.find(params.domain or "banking")
    intents = sum(len(domains.templates(name).intents) for name in names)
    made = make(GenerateParams(domains=",".join(names), rows=_SEEDS_OF_A_LABEL * intents, seed=params.seed))
    by_label: dict[str, list[Row]] = defaultdict(list)
    for drawn in made["train"]:
        if drawn.intent not in domains.templates(drawn.domain).unvoiced:
            by_label[drawn.label].append(Row(drawn.text, drawn.label))
    notes = tuple(note for name in names if (note := domains.templates(name).note))
    return _Task("-".join(names).replace("_", "-"), dict(sorted(by_label.items())), notes)


def _own(ctx: Context, params: SynthesizeParams) -> _Task:
    folder = store.resolve(ctx.workspace, params.examples)
    info = store.load_info(folder)
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in store.read_rows(folder, "train"):
        by_label[row.answer if info.task == "classify" else ""].append(Row(row.text, row.answer))
    few = [label for label, rows in by_label.items() if len(rows) < 2]
    if few or not by_label:
        raise BadInput(
            f"{info.name} has fewer than two training rows" + (f" of '{few[0]}'" if few and few[0] else "") + ".",
            hint="A model needs some examples to write after.",
        )
    return _Task(info.name, dict(sorted(by_label.items())), ())


def _open(ctx: Context, place: Path, task: _Task, subject: Subject, params: SynthesizeParams) -> Path:
    """The journal of this work. Other work under the name is discarded with a yes."""
    kept = {"rows", "budget_tokens", "budget_s", "fresh", "name"}  # may change from call to call
    settings = {key: value for key, value in msgspec.structs.asdict(params).items() if key not in kept}
    examples = store.digest({"train": task.every, "val": [], "test": []})
    about = msgspec.json.encode(
        settings | {"examples": examples, "subject": msgspec.to_builtins(subject)}, order="sorted"
    )
    known = place / "settings.json"
    if place.exists() and (params.fresh or not known.is_file() or known.read_bytes() != about):
        if not params.fresh:
            ctx.approve(
                Plan(
                    "data.synthesize",
                    f"forget the rows that {place.name} has so far: they were written with other settings",
                )
            )
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    if not known.exists():
        atomic.write_bytes(known, about)
    return place / "requests.jsonl"


async def _write(
    ctx: Context, params: SynthesizeParams, task: _Task, subject: Subject, journal: Path, asked: list[Asked]
) -> str:
    """Ask until there is enough; ``asked`` grows. Why it ended, in words."""
    rows = [item.kept for item in asked if item.kept is not None]
    sieve = Sieve(task.every, rows, task.labels)
    have = Counter(row.answer if task.labels else "" for row in rows)
    barren = 0
    async with WorkerClient(ctx) as worker:
        while True:
            tokens, seconds = sum(item.tokens for item in asked), sum(item.seconds for item in asked)
            ended = _ended(params, len(rows), tokens, seconds, barren)
            if ended:
                return ended
            number = len(asked)
            label = min(task.by_label, key=lambda word: (have[word], _lot(params.seed, number, word)))
            item = await _ask(worker, params, task, subject, sieve, number, label)
            await asyncio.to_thread(written.append, journal, item)
            asked.append(item)
            if item.kept is not None:
                rows.append(item.kept)
            have[label] += item.kept is not None
            barren = 0 if item.kept is not None else barren + 1
            ctx.report(
                Progress(
                    "write rows", len(rows), params.rows, "rows", f"{len(rows) / len(asked):.0%} of the lines usable"
                )
            )


def _lot(seed: int, number: int, label: str) -> float:
    return random.Random(f"{seed}/{number}/{label}").random()


def _ended(params: SynthesizeParams, rows: int, tokens: int, seconds: float, barren: int) -> str:
    if rows >= params.rows:
        return "enough rows"
    if tokens >= params.budget_tokens:
        return f"the budget of {params.budget_tokens:,} tokens is used up"
    if seconds >= params.budget_s:
        return f"the budget of {params.budget_s:.0f} s is used up"
    if barren >= _HOPELESS:
        return f"{_HOPELESS} requests in a row gave nothing new"
    return ""


async def _ask(
    worker: WorkerClient, params: SynthesizeParams, task: _Task, subject: Subject, sieve: Sieve, number: int, label: str
) -> Asked:
    rng = random.Random(f"{params.seed}/{number}")
    shots = rng.sample(task.by_label[label], min(_SHOTS, len(task.by_label[label])))
    begun = _line(shots[0], label).partition('"text":"')[0] + '"text":"'  # the next row's, up to its text
    started = time.monotonic()
    answer = await worker.ask(
        "generate", subject=subject, text=_prompt(shots, label) + begun, max_tokens=params.max_tokens,
        temperature=params.temperature, top_p=params.top_p, seed=params.seed * 1_000_003 + number, stop=("\n",),
    )  # fmt: skip
    tokens = int(answer.get("tokens", 0))
    line = begun + str(answer["text"])
    kept, dropped = sieve.take(line, label, cut=tokens >= params.max_tokens and not line.rstrip().endswith("}"))
    return Asked(number, kept, dropped, tokens, time.monotonic() - started)


def _prompt(shots: Sequence[Row], label: str) -> str:
    what = f'people\'s messages with the label "{label}"' if label else "questions and their answers"
    return f"A file of {what}, one JSON object a line. No two are alike.\n\n" + "".join(
        _line(shot, label) + "\n" for shot in shots
    )


def _line(row: Row, label: str) -> str:
    fields = {"label": row.answer, "text": row.text} if label else {"text": row.text, "answer": row.answer}
    return msgspec.json.encode(fields).decode()


def _result(
    ctx: Context, params: SynthesizeParams, task: _Task, name: str, subject: Subject, asked: Sequence[Asked], ended: str
) -> Synthesis:
    every = [item.kept for item in asked if item.kept is not None]
    rows = every[: params.rows]
    dropped = Counter(item.dropped for item in asked if item.dropped)
    lines = len(asked)
    share = len(every) / lines if lines else 0.0
    agreement = None
    if task.labels and rows:
        words = NaiveBayes(task.every)
        agreement = sum(words.label(row.text) == row.answer for row in rows) / len(rows)
    warning = (
        f"Written by {params.model}: {share:.0%} of its {lines:,} lines were usable"
        + (f", and words alone put {agreement:.0%} of the rows under the same label" if agreement is not None else "")
        + ". No person has read them."
    )
    info = None
    if len(rows) >= _FEWEST:
        parts = split.stratified(rows, {"test": 0.1, "val": 0.1}, params.seed, by_label=bool(task.labels))
        info = store.build_info(
            name, "classify" if task.labels else "generate", prompts.CLASSIFY if task.labels else prompts.GENERATE,
            parts, source=f"data.synthesize {params.model}", seed=params.seed, warnings=(warning, *task.notes),
            checks={"usable_share": share},
        )  # fmt: skip
        with contextlib.suppress(BadInput):
            old = store.load_info(ctx.workspace.datasets / name)
            if old.source == info.source:  # an earlier part of this very work: it grows without asking
                ctx = Context(ctx.workspace, ctx.report, ctx.dry_run, ctx.read_only, yes=True)
        info = store.write(ctx, "data.synthesize", info, parts)
    return Synthesis(
        name=name, model=subject.label, rows=len(rows), wanted=params.rows, lines=lines, usable_share=share,
        dropped=dict(sorted(dropped.items())), agreement=agreement, tokens=sum(item.tokens for item in asked),
        seconds=sum(item.seconds for item in asked), ended=ended, dataset=info,
    )  # fmt: skip
