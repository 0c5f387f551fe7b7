"""The query language of files.list.

https://developers.google.com/workspace/drive/api/guides/ref-search-terms
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from tests.drive_bed.errors import ApiError
from tests.drive_bed.items import Item, Items
from tests.drive_bed.resources import moment

Test = Callable[["Scene", Item], bool]
_TOKEN = re.compile(r"\s*(?:('(?:[^'\\]|\\.)*')|(<=|>=|!=|=|<|>|\(|\)|\{|\})|([A-Za-z][\w.]*))", re.DOTALL)
_TIMES = {"modifiedTime": "modified", "createdTime": "created"}


class Scene(NamedTuple):
    """Who asks, among what: ``me`` an e-mail, ``client`` an OAuth client, ``root`` the id that 'root' stands for."""

    items: Items
    me: str
    client: str
    root: str


class Query(NamedTuple):
    """A parsed query. ``parents``: every match is a direct child of one of these folders; None: could be anywhere."""

    test: Test
    parents: frozenset[str] | None


@lru_cache(maxsize=1024)
def parse(text: str) -> Query:
    """Read a query. Raises ApiError 400."""
    if not text.strip():
        return Query(lambda scene, item: True, None)
    parser = _Parser(_tokens(text))
    query = parser.either()
    if parser.left():
        raise wrong()
    return query


def wrong() -> ApiError:
    """400 for a query that can't be read."""
    return ApiError(400, "invalid", "Invalid Value", location="q")


def _tokens(text: str) -> list[str]:
    found = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise wrong()
        found.append(match.group(1) or match.group(2) or match.group(3))
        at = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def left(self) -> bool:
        return self.at < len(self.tokens)

    def next(self) -> str:
        if not self.left():
            raise wrong()
        self.at += 1
        return self.tokens[self.at - 1]

    def ahead(self, *words: str) -> bool:
        return self.left() and self.tokens[self.at].lower() in words

    def expect(self, word: str) -> None:
        if self.next().lower() != word:
            raise wrong()

    def string(self) -> str:
        token = self.next()
        if not token.startswith("'"):
            raise wrong()
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)

    def either(self) -> Query:
        parts = [self.both()]
        while self.ahead("or"):
            self.next()
            parts.append(self.both())
        if len(parts) == 1:
            return parts[0]
        tests = [part.test for part in parts]
        known = [part.parents for part in parts if part.parents is not None]
        parents = frozenset().union(*known) if len(known) == len(parts) else None
        return Query(lambda scene, item: any(test(scene, item) for test in tests), parents)

    def both(self) -> Query:
        parts = [self.negated()]
        while self.ahead("and"):
            self.next()
            parts.append(self.negated())
        if len(parts) == 1:
            return parts[0]
        tests = [part.test for part in parts]
        known = [part.parents for part in parts if part.parents is not None]
        parents = min(known, key=len) if known else None
        return Query(lambda scene, item: all(test(scene, item) for test in tests), parents)

    def negated(self) -> Query:
        if self.ahead("not"):
            self.next()
            inner = self.negated().test
            return Query(lambda scene, item: not inner(scene, item), None)
        if self.ahead("("):
            self.next()
            query = self.either()
            self.expect(")")
            return query
        return self.term()

    def term(self) -> Query:
        if self.left() and self.tokens[self.at].startswith("'"):
            value = self.string()
            self.expect("in")
            return _contained(value, self.next())
        name, operator = self.next(), self.next().lower()
        if operator == "has" and name in ("properties", "appProperties"):
            return self.has(name)
        if name in ("trashed", "starred", "sharedWithMe"):
            wanted = self.next().lower()
            if operator not in ("=", "!=") or wanted not in ("true", "false"):
                raise wrong()
            return Query(_flag(name, (wanted == "true") == (operator == "=")), None)
        return Query(_compared(name, operator, self.string()), None)

    def has(self, name: str) -> Query:
        self.expect("{")
        self.expect("key")
        self.expect("=")
        key = self.string()
        self.expect("and")
        self.expect("value")
        self.expect("=")
        value = self.string()
        self.expect("}")
        if name == "properties":
            return Query(lambda scene, item: item.properties.get(key) == value, None)
        return Query(lambda scene, item: item.app_properties.get(scene.client, {}).get(key) == value, None)


def _contained(value: str, where: str) -> Query:
    if where == "parents":
        return Query(lambda scene, item: (scene.root if value == "root" else value) in item.parents, frozenset({value}))
    if where in ("owners", "writers", "readers"):
        return Query(lambda scene, item: item.owner == (scene.me if value == "me" else value), None)
    raise wrong()


def _flag(name: str, wanted: bool) -> Test:
    if name == "trashed":
        return lambda scene, item: scene.items.in_trash(item) == wanted
    if name == "starred":
        return lambda scene, item: item.starred == wanted
    return lambda scene, item: (item.owner != scene.me and not item.drive) == wanted


def _compared(name: str, operator: str, value: str) -> Test:
    if name in _TIMES:
        return _time(_TIMES[name], operator, moment(value, "q"))
    folded = value.lower()
    match name, operator:
        case "name", "=":
            return lambda scene, item: item.name.lower() == folded  # Drive compares names without case
        case "name", "!=":
            return lambda scene, item: item.name.lower() != folded
        case "name", "contains":
            return lambda scene, item: any(word.startswith(folded) for word in _suffixes(item.name.lower()))
        case "fullText", "contains":
            return lambda scene, item: folded in item.name.lower() or folded in item.description.lower()
        case "mimeType", "=":
            return lambda scene, item: item.mime == value
        case "mimeType", "!=":
            return lambda scene, item: item.mime != value
        case "mimeType", "contains":
            return lambda scene, item: item.mime.startswith(value)
        case "shortcutDetails.targetId", "=":
            return lambda scene, item: item.target == value
    raise wrong()


def _time(field: str, operator: str, then: float) -> Test:
    def at(item: Item) -> float:
        return int(getattr(item, field) * 1000) / 1000

    match operator:
        case "=":
            return lambda scene, item: at(item) == then
        case "!=":
            return lambda scene, item: at(item) != then
        case "<":
            return lambda scene, item: at(item) < then
        case "<=":
            return lambda scene, item: at(item) <= then
        case ">":
            return lambda scene, item: at(item) > then
        case ">=":
            return lambda scene, item: at(item) >= then
    raise wrong()


def _suffixes(name: str) -> list[str]:
    """What "name contains" looks at: Drive matches from the beginning of a word only."""
    return [name[found.start() :] for found in re.finditer(r"\w+", name)] or [name]
