"""Ways to draw a text of a label: from cores that every split uses, and from what is kept for val or test alone."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from services.data import domains
from services.data.compose import compose, voiced
from services.data.domains import Templates, Voice
from services.data.types import Split

_OWN = 2  # cores of each intent, openers and closers of each voice, that are kept for val, and for test


class Drawn(msgspec.Struct, frozen=True):
    """A text and what it was made as; ``tone`` and ``emotion`` are "" where they were not varied."""

    text: str
    label: str
    domain: str
    intent: str
    tone: str = ""
    emotion: str = ""


Pools = Mapping[Split, Callable[[], Drawn]]
"""How to draw a label's texts: under "train" from what all splits draw from, else from what is kept for that one."""

_Shared = dict[Split, list[str]]


def by_intent(names: Sequence[str], rng: random.Random, reword: float) -> dict[str, Pools]:
    """By what is wanted. With several domains labels are "domain/intent"."""
    kept = _cores(names, rng)
    pools: dict[str, Pools] = {}
    for (name, intent), cores in kept.items():
        label = intent if len(names) == 1 else f"{name}/{intent}"
        pools[label] = {
            split: functools.partial(_intent, domains.templates(name), cores[split], label, name, intent, rng, reword)
            for split in cores
        }
    return pools


def by_voice(
    names: Sequence[str], kind: Literal["tone", "emotion"], rng: random.Random, reword: float
) -> dict[str, Pools]:
    """By how it is said, whatever is wanted."""
    kept = {
        (name, intent): cores
        for (name, intent), cores in _cores(names, rng).items()
        if intent not in domains.templates(name).unvoiced
    }
    known = domains.voices().tones if kind == "tone" else domains.voices().emotions
    pools: dict[str, Pools] = {}
    for label in sorted(known):
        openers, closers = _share(known[label].openers, rng), _share(known[label].closers, rng)
        pools[label] = {
            split: functools.partial(
                _voice, {key: cores[split] for key, cores in kept.items()}, Voice(openers[split], closers[split]),
                label, kind, rng, reword,
            )
            for split in openers
        }  # fmt: skip
    return pools


def _cores(names: Sequence[str], rng: random.Random) -> dict[tuple[str, str], _Shared]:
    keys = sorted((name, intent) for name in names for intent in domains.templates(name).intents)
    return {(name, intent): _share(domains.templates(name).cores(intent), rng) for name, intent in keys}


def _share(lines: Sequence[str], rng: random.Random) -> _Shared:
    """What is kept for test, what for val, and under "train" what all splits draw from."""
    mixed = rng.sample(lines, len(lines))
    return {"test": mixed[:_OWN], "val": mixed[_OWN : 2 * _OWN], "train": mixed[2 * _OWN :]}


def _intent(
    source: Templates, cores: Sequence[str], label: str, name: str, intent: str, rng: random.Random, reword: float
) -> Drawn:
    text = compose(rng.choice(cores), source.openers, source.closers, source.slots, rng, reword=reword)
    return Drawn(text, label, name, intent)


def _voice(
    cores: Mapping[tuple[str, str], Sequence[str]], voice: Voice, label: str, kind: str, rng: random.Random,
    reword: float,
) -> Drawn:  # fmt: skip
    name, intent = rng.choice(list(cores))
    slots = domains.templates(name).slots
    text = voiced(rng.choice(cores[name, intent]), voice.openers, voice.closers, slots, rng, reword=reword)
    return Drawn(text, label, name, intent, **{kind: label})
