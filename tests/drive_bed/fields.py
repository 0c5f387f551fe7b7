"""The ``fields`` parameter: which fields of an answer are wanted.

https://developers.google.com/workspace/drive/api/guides/fields-parameter
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from tests.drive_bed.errors import ApiError

Mask = dict[str, "Mask | None"]
"""Name → mask of what is below, None for all of it. The name "*" stands for every field."""

_TOKEN = re.compile(r"\s*([A-Za-z_*][\w.*-]*|[(),/])")


@lru_cache(maxsize=512)
def parse(text: str) -> Mask:
    """The mask that ``text`` asks for. Raises ApiError 400."""
    tokens = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(text)
        tokens.append(match.group(1))
        at = match.end()
    mask, rest = _list(tokens, text)
    if rest:
        raise _wrong(text)
    return mask


def _list(tokens: list[str], text: str) -> tuple[Mask, list[str]]:
    mask: Mask = {}
    while True:
        name, below, tokens = _one(tokens, text)
        mask[name] = _joined(mask, name, below)
        if not tokens or tokens[0] != ",":
            return mask, tokens
        tokens = tokens[1:]


def _one(tokens: list[str], text: str) -> tuple[str, Mask | None, list[str]]:
    if not tokens or tokens[0] in "(),/":
        raise _wrong(text)
    name, tokens = tokens[0], tokens[1:]
    if tokens and tokens[0] == "/":
        inner, below, tokens = _one(tokens[1:], text)
        return name, {inner: below}, tokens
    if tokens and tokens[0] == "(":
        mask, tokens = _list(tokens[1:], text)
        if not tokens or tokens[0] != ")":
            raise _wrong(text)
        return name, mask, tokens[1:]
    return name, None, tokens


def _joined(mask: Mask, name: str, below: Mask | None) -> Mask | None:
    had = mask.get(name, below)
    if had is None or below is None:
        return None
    return {**had, **below}


def _wrong(text: str) -> ApiError:
    return ApiError(400, "invalidParameter", f"Invalid field selection {text}", location="fields")


def check(mask: Mask, names: frozenset[str]) -> None:
    """Raise ApiError 400 for a field that there is not."""
    for name in mask:
        if name != "*" and name not in names:
            raise _wrong(name)


def cut(value: Any, mask: Mask | None) -> Any:
    """What ``mask`` leaves of ``value``."""
    if mask is None or ("*" in mask and mask["*"] is None):
        return value
    if isinstance(value, list):
        return [cut(one, mask) for one in value]
    if isinstance(value, dict):
        every = mask.get("*")
        return {name: cut(one, mask.get(name, every)) for name, one in value.items() if name in mask or "*" in mask}
    return value
