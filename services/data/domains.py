"""The domains there are templates for, and the voices (tones and emotions) that texts of every domain can have."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib

import msgspec

from services.errors import BadInput, nearest

DOMAINS = ("banking", "healthcare", "education", "business", "mental_health")


class Templates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A domain's file. ``intents`` holds the cores of a label, one a line; ``most_rows`` is how many texts it is good
    for, with room to spare, and ``most_voiced`` by tone or emotion where that is less; ``unvoiced`` are intents that are
    never put in another tone or emotion; ``note`` is what must be said with every dataset made of it."""

    openers: list[str]
    closers: list[str]
    slots: dict[str, list[str]]
    intents: dict[str, str]
    most_rows: int
    most_voiced: int = 0
    unvoiced: list[str] = []
    note: str = ""

    def cores(self, intent: str) -> list[str]:
        """The ways to put a wish."""
        return [line.strip() for line in self.intents[intent].splitlines() if line.strip()]


class Voice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a tone or an emotion shows: beginnings and ends that carry it; without any the text stays plain."""

    openers: list[str] = []
    closers: list[str] = []


class Voices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of voices, by name."""

    tones: dict[str, Voice]
    emotions: dict[str, Voice]


def find(words: str) -> tuple[str, ...]:
    """The domains named in ``words``, separated by commas. Raises BadInput naming those there are."""
    names = [word.strip().lower().replace(" ", "_").replace("-", "_") for word in words.split(",") if word.strip()]
    for name in names:
        if name not in DOMAINS:
            raise BadInput(
                f"There is no domain '{name}'{nearest(name, DOMAINS) or '.'}", hint=f"Domains: {', '.join(DOMAINS)}."
            )
    if not names:
        raise BadInput("No domain is named.", hint=f"Domains: {', '.join(DOMAINS)}.")
    return tuple(dict.fromkeys(names))


@functools.cache
def templates(domain: str) -> Templates:
    """A domain's templates."""
    return msgspec.convert(_read(domain), Templates)


@functools.cache
def voices() -> Voices:
    """All tones and emotions."""
    return msgspec.convert(_read("voices"), Voices)


def _read(name: str) -> dict[str, object]:
    file = importlib.resources.files("services.data") / "templates" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
