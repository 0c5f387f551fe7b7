"""Texts made from our own templates: any domain and size, seeded, balanced, no near-duplicates across splits.

A core is one way to put one wish. Some cores of each intent, and some phrases of each voice, are kept for val or test
alone: ``UNSEEN`` of the texts there are worded as nothing in training is. The others come from cores that training uses
too, in other words, slots, openers and closers: a text that comes near one of another split is not taken.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.data import domains, near, prompts, store
from services.data.drawing import Drawn, Pools, by_intent, by_voice
from services.data.types import DatasetInfo, Row, Split
from services.errors import BadInput

UNSEEN = 0.3
"""Share of the texts of val and test whose core or phrases occur in no other split."""

_FEWEST_OF_A_LABEL = 10
_TRIES = 60  # draws in a row that give nothing new before a label counts as exhausted
_ORDER: tuple[Split, ...] = ("test", "val", "train")


class GenerateParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to make."""

    name: Annotated[str, Meta(description="Name of the dataset; empty: the domains'.")] = ""
    rows: Annotated[int, Meta(ge=1, description="Rows in all, shared evenly by the labels: ten of each at least.")] = (
        2400
    )
    seed: Annotated[int, Meta(description="Seed: the same one gives the same rows.")] = 0
    val: Annotated[float, Meta(gt=0, le=0.3, description="Share of the rows for validation.")] = 0.1
    test: Annotated[float, Meta(gt=0, le=0.3, description="Share of the rows for the test.")] = 0.1
    domains: Annotated[
        str,
        Meta(description=f"What the texts are about: one or several of {', '.join(domains.DOMAINS)}."),
    ] = "banking"
    label: Annotated[
        Literal["intent", "tone", "emotion"],
        Meta(description="What is to be told apart: what is wanted, or how it is said; texts vary accordingly."),
    ] = "intent"
    reword: Annotated[
        float, Meta(ge=0, le=1, description="Share of the texts that say a template's words in another way.")
    ] = 0.0


class Cancelled(Exception):
    """The caller gave up while texts were being made."""


async def generate(ctx: Context, params: GenerateParams) -> DatasetInfo | Plan:
    """Generate a dataset and store it.

    Raises BadInput for an unknown domain, or when so many rows can't be made apart.
    """
    ctx.will_write("data.generate")
    if params.name:
        store.check_name(params.name)
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def progress(done: int) -> None:
        if stop.is_set():
            raise Cancelled
        step = Progress("generate", done, params.rows, "rows")
        loop.call_soon_threadsafe(ctx.report, step)

    work = asyncio.ensure_future(asyncio.to_thread(build, params, progress))
    try:
        info, rows = await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        raise
    if ctx.dry_run:
        return await asyncio.to_thread(store.plan, ctx, "data.generate", info, rows)
    return await asyncio.to_thread(store.write, ctx, "data.generate", info, rows)


def build(
    params: GenerateParams, progress: Callable[[int], None] = lambda done: None
) -> tuple[DatasetInfo, dict[Split, list[Row]]]:
    """The dataset as it would be stored, writing nothing. ``progress`` gets the number of rows made so far."""
    names = domains.find(params.domains)
    rows = {split: [Row(drawn.text, drawn.label) for drawn in made] for split, made in make(params, progress).items()}
    checks = {
        "unseen_core_share": UNSEEN,
        "near_duplicates_test_train": near.count_near(_texts(rows["test"]), _texts(rows["train"])),
        "near_duplicates_val_train": near.count_near(_texts(rows["val"]), _texts(rows["train"])),
        "near_duplicates_test_val": near.count_near(_texts(rows["test"]), _texts(rows["val"])),
    }
    notes = [note for name in names if (note := domains.templates(name).note)]
    prompt = prompts.CLASSIFY if params.label == "intent" else prompts.CLASSIFY.replace("Intent", params.label.title())
    info = store.build_info(
        params.name or default_name(params),
        "classify",
        prompt,
        rows,
        source="data.generate",
        seed=params.seed,
        warnings=notes,
        checks=checks,
    )
    return info, rows


def default_name(params: GenerateParams) -> str:
    """A dataset's name from what it holds: "banking", "healthcare-tone"."""
    name = "-".join(domains.find(params.domains))
    return store.slug(name if params.label == "intent" else f"{name}-{params.label}")


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row.text for row in rows]


def most_rows(params: GenerateParams) -> int:
    """How many rows these domains are good for, with the usual shares."""
    sources = [domains.templates(name) for name in domains.find(params.domains)]
    if params.label == "intent":
        return sum(source.most_rows for source in sources)
    return sum(source.most_voiced or source.most_rows for source in sources)


def make(params: GenerateParams, progress: Callable[[int], None] = lambda done: None) -> dict[Split, list[Drawn]]:
    """Texts by split: balanced over labels to one row, each text once, none near one of another split.

    Raises BadInput with a reachable number when the templates can't give so many different texts.
    """
    names = domains.find(params.domains)
    if params.rows > most_rows(params):
        raise _too_many(params)
    rng = random.Random(params.seed)
    pools = (
        by_intent(names, rng, params.reword)
        if params.label == "intent"
        else by_voice(names, params.label, rng, params.reword)
    )
    labels = sorted(pools)
    if params.rows < _FEWEST_OF_A_LABEL * len(labels):
        raise BadInput(
            f"{params.rows} rows are too few for {len(labels)} labels.",
            hint=f"At least {_FEWEST_OF_A_LABEL * len(labels)} are needed.",
        )
    totals: dict[Split, int] = {"test": round(params.rows * params.test), "val": round(params.rows * params.val)}
    totals["train"] = params.rows - totals["test"] - totals["val"]
    result: dict[Split, list[Drawn]] = {"train": [], "val": [], "test": []}
    others = near.NearIndex(_frequency(names))
    done = 0
    for split in _ORDER:  # the small splits first: then only the large one, which has the most room, has to keep away
        made: list[Drawn] = []
        taken: set[str] = set()
        extra = set(rng.sample(labels, totals[split] % len(labels)))
        for label in labels:
            wanted = totals[split] // len(labels) + (label in extra)
            found: list[Drawn] = []
            for number, draw in _portions(split, pools[label], wanted, rng):
                found += _distinct(draw, number, taken, others)
            if len(found) < wanted:
                raise _too_many(params)
            made += found
            progress(done + len(made))
        done += len(made)
        rng.shuffle(made)
        result[split] = made
        if split != "train":
            for drawn in made:
                others.add(near.words(drawn.text))
    return result


def _portions(split: Split, pools: Pools, wanted: int, rng: random.Random) -> list[tuple[int, Callable[[], Drawn]]]:
    """How many of a label's ``wanted`` texts are drawn in which way; a part of one is given by lot."""
    if split == "train":
        return [(wanted, pools["train"])]
    own = int(wanted * UNSEEN + rng.random())
    return [(own, pools[split]), (wanted - own, pools["train"])]


def _frequency(names: Sequence[str]) -> Counter[str]:
    """How common words are, judged by the templates: the openers' and closers' are everywhere."""
    common: Counter[str] = Counter()
    for name in names:
        source = domains.templates(name)
        common.update(
            near.frequencies(near.words(text) for text in (*source.openers, *source.closers) for _ in range(20))
        )
        common.update(word for text in source.intents.values() for word in near.normalise(text).split())
    return common


def _distinct(draw: Callable[[], Drawn], wanted: int, taken: set[str], others: near.NearIndex) -> list[Drawn]:
    """Up to ``wanted`` texts, near none of ``others``, whose normalised form is not in ``taken`` (which grows)."""
    found: list[Drawn] = []
    misses = 0
    while len(found) < wanted and misses < _TRIES:
        drawn = draw()
        key = near.normalise(drawn.text)
        if key in taken or others.find(frozenset(key.split())) is not None:
            misses += 1
            continue
        misses = 0
        taken.add(key)
        found.append(drawn)
    return found


def _too_many(params: GenerateParams) -> BadInput:
    return BadInput(
        f"{params.rows:,} rows (val={params.val}, test={params.test}) can't be made without near-duplicates across "
        "splits.",
        hint=f"The templates give up to {most_rows(params):,} rows with val=0.1 test=0.1.",
    )
