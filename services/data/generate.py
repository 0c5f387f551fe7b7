"""Banking questions made from our own templates: any size, seeded, balanced, no near-duplicates across splits.

A core is one way to put one wish. Some cores of each intent are kept for val or test alone: ``UNSEEN`` of the texts
there are worded as nothing in training is. The others come from cores that training uses too, in other words, slots,
openers and closers: a text that comes near one of another split is not taken.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
import random
import re
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.data import near, prompts, store
from services.data.types import DatasetInfo, Row, Split
from services.errors import BadInput

_HOLE = re.compile(r"\{([^{}]*)\}|<(\w+)>")
UNSEEN = 0.3
"""Share of the texts of val and test whose core occurs in no other split."""

MOST_ROWS = 50_000
"""Reached with the usual shares and room to spare; beyond it more and more texts come near one of another split."""

_OWN_CORES = 2  # cores of each intent kept for val, and for test
_TRIES = 60  # draws in a row that give nothing new before a label counts as exhausted
_ORDER: tuple[Split, ...] = ("test", "val", "train")


class Templates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of templates; ``intents`` holds the cores of a label, one a line."""

    openers: list[str]
    closers: list[str]
    slots: dict[str, list[str]]
    intents: dict[str, str]


class GenerateParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to make."""

    name: Annotated[str, Meta(description="Name of the dataset.")] = "banking"
    rows: Annotated[int, Meta(ge=240, description="Rows in all, shared evenly by 24 intents.")] = 2400
    seed: Annotated[int, Meta(description="Seed: the same one gives the same rows.")] = 0
    val: Annotated[float, Meta(gt=0, le=0.3, description="Share of the rows for validation.")] = 0.1
    test: Annotated[float, Meta(gt=0, le=0.3, description="Share of the rows for the test.")] = 0.1


class Cancelled(Exception):
    """The caller gave up while texts were being made."""


@functools.cache
def templates() -> Templates:
    """The banking templates of this package."""
    file = importlib.resources.files("services.data") / "templates" / "banking.toml"
    return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Templates)


async def generate(ctx: Context, params: GenerateParams) -> DatasetInfo | Plan:
    """Generate a banking-intents dataset and store it. Raises BadInput when so many rows can't be made apart."""
    ctx.will_write("data.generate")
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
    rows = make(templates(), params, progress)
    checks = {
        "unseen_core_share": UNSEEN,
        "near_duplicates_test_train": near.count_near(_texts(rows["test"]), _texts(rows["train"])),
        "near_duplicates_val_train": near.count_near(_texts(rows["val"]), _texts(rows["train"])),
        "near_duplicates_test_val": near.count_near(_texts(rows["test"]), _texts(rows["val"])),
    }
    info = store.build_info(
        params.name, "classify", prompts.CLASSIFY, rows, source="data.generate", seed=params.seed, checks=checks
    )
    return info, rows


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row.text for row in rows]


def make(
    source: Templates, params: GenerateParams, progress: Callable[[int], None] = lambda done: None
) -> dict[Split, list[Row]]:
    """Rows by split: balanced over labels to one row, each text once, none near one of another split.

    Raises BadInput with a reachable number when the templates can't give so many different texts.
    """
    if params.rows > MOST_ROWS:
        raise _too_many(params)
    rng = random.Random(params.seed)
    labels = sorted(source.intents)
    cores = {label: _share_cores(_cores(source.intents[label]), rng) for label in labels}
    totals: dict[Split, int] = {"test": round(params.rows * params.test), "val": round(params.rows * params.val)}
    totals["train"] = params.rows - totals["test"] - totals["val"]
    result: dict[Split, list[Row]] = {"train": [], "val": [], "test": []}
    others = near.NearIndex(_frequency(source))
    done = 0
    for split in _ORDER:  # the small splits first: then only the large one, which has the most room, has to keep away
        made: list[Row] = []
        taken: set[str] = set()
        extra = set(rng.sample(labels, totals[split] % len(labels)))
        for label in labels:
            wanted = totals[split] // len(labels) + (label in extra)
            texts: list[str] = []
            for number, pool in _pools(split, cores[label], wanted, rng):
                texts += _distinct(functools.partial(_compose, source, pool, rng), number, taken, others)
            if len(texts) < wanted:
                raise _too_many(params)
            made += [Row(text, label) for text in texts]
            progress(done + len(made))
        done += len(made)
        rng.shuffle(made)
        result[split] = made
        if split != "train":
            for row in made:
                others.add(near.words(row.text))
    return result


def _share_cores(cores: list[str], rng: random.Random) -> dict[Split, list[str]]:
    """A label's cores: those kept for test, those kept for val, and under "train" those that all splits draw from."""
    mixed = rng.sample(cores, len(cores))
    return {"test": mixed[:_OWN_CORES], "val": mixed[_OWN_CORES : 2 * _OWN_CORES], "train": mixed[2 * _OWN_CORES :]}


def _pools(
    split: Split, cores: Mapping[Split, list[str]], wanted: int, rng: random.Random
) -> list[tuple[int, list[str]]]:
    """How many of a label's ``wanted`` texts come from which cores; a part of one is given by lot."""
    if split == "train":
        return [(wanted, cores["train"])]
    own = int(wanted * UNSEEN + rng.random())
    return [(own, cores[split]), (wanted - own, cores["train"])]


def _cores(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _frequency(source: Templates) -> Counter[str]:
    """How common words are, judged by the templates: the openers' and closers' are everywhere."""
    common = near.frequencies(near.words(text) for text in (*source.openers, *source.closers) for _ in range(20))
    common.update(word for text in source.intents.values() for word in near.normalise(text).split())
    return common


def _distinct(draw: Callable[[], str], wanted: int, taken: set[str], others: near.NearIndex) -> list[str]:
    """Up to ``wanted`` texts, near none of ``others``, whose normalised form is not in ``taken`` (which grows)."""
    texts: list[str] = []
    misses = 0
    while len(texts) < wanted and misses < _TRIES:
        text = draw()
        key = near.normalise(text)
        if key in taken or others.find(frozenset(key.split())) is not None:
            misses += 1
            continue
        misses = 0
        taken.add(key)
        texts.append(text)
    return texts


def _too_many(params: GenerateParams) -> BadInput:
    return BadInput(
        f"{params.rows:,} rows (val={params.val}, test={params.test}) can't be made without near-duplicates across "
        "splits.",
        hint=f"The templates give up to {MOST_ROWS:,} rows with val=0.1 test=0.1.",
    )


def _compose(source: Templates, cores: Sequence[str], rng: random.Random) -> str:
    """One text: a core, perhaps with an opener and a closer, perhaps typed in haste."""
    core = fill(rng.choice(cores), source.slots, rng)
    opener = fill(rng.choice(source.openers), source.slots, rng) if rng.random() < 0.4 else ""
    closer = fill(rng.choice(source.closers), source.slots, rng) if rng.random() < 0.4 else ""
    if not opener or opener[-1] in ".?!":
        core = core[:1].upper() + core[1:]
    text = " ".join(part for part in (opener, _end(core, rng), closer) if part)
    return _hasty(text, rng) if rng.random() < 0.25 else text


def fill(pattern: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """``pattern`` with each {a|b} and <slot> replaced by one of its choices, from the inside out."""
    while match := _HOLE.search(pattern):
        choices = match[1].split("|") if match[1] is not None else slots[match[2]]
        pattern = pattern[: match.start()] + rng.choice(choices) + pattern[match.end() :]
    return re.sub(r" +([,:.?]|$)", r"\1", " ".join(pattern.split()))


_ASKING = "how|what|when|where|which|whom?|why|is|are|can|could|do|does|did|will|would|may|must|should|has|have"
_QUESTION = re.compile(rf"(?:^|, |: )(?:{_ASKING})\b", re.I)


def _end(core: str, rng: random.Random) -> str:
    """``core`` with the mark that ends it, or, as people write, sometimes without."""
    return core + (rng.choice(("?", "?", "?", "")) if _QUESTION.search(core) else rng.choice((".", ".", "", "!")))


_SHORT = {"please": "pls", "you": "u", "your": "ur", "thanks": "thx", "because": "cos", "are": "r", "account": "acct"}


def _hasty(text: str, rng: random.Random) -> str:
    """``text`` as typed on a phone: one or two slips among small letters, a typo, a short form, no punctuation."""
    for slip in rng.sample((_lower, _typo, _shorten, _bare), rng.choice((1, 1, 2))):
        text = slip(text, rng)
    return text


def _lower(text: str, rng: random.Random) -> str:
    return text.lower()


def _bare(text: str, rng: random.Random) -> str:
    return text.replace(",", "").replace("'", "").rstrip(".!?")


def _shorten(text: str, rng: random.Random) -> str:
    return re.sub(r"[A-Za-z]+", lambda match: _SHORT.get(match[0].lower(), match[0]), text)


def _typo(text: str, rng: random.Random) -> str:
    """Two letters swapped, one left out or one doubled, inside one longer word."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    index = rng.choice(long)
    word, at = words[index], rng.randrange(1, len(words[index]) - 2)
    ends = (word[at + 1] + word[at] + word[at + 2 :], word[at + 1 :], word[at] + word[at:])
    words[index] = word[:at] + rng.choice(ends)
    return " ".join(words)
