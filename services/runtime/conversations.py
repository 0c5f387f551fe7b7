"""Conversations as tokens: the model's own chat template, and exactly which tokens the assistant says.

Training and evaluation come through here, and inference renders with the same template (``Tokenizer.chat_ids``), so
that what is learned is what is read later.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.data.types import Turn
from services.runtime.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Rendered:
    """A conversation's ids; ``spans`` (start, end) hold what the assistant says, each with the token that ends it."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Turn], room: int) -> list[int] | None:
    """What the model reads before it answers ``messages``, at most ``room`` ids.

    The oldest turns go first, the system's message stays; then the left of the last question goes. None when nothing
    of the question would be left.
    """

    def ids(turns: Sequence[Turn]) -> list[int] | None:
        found = _asked(tokenizer, turns)
        return found if len(found) <= room else None

    return _fitting(tokenizer, [*messages, Turn("assistant", "")], lambda turns: ids(turns[:-1]))


def rendered(tokenizer: Tokenizer, messages: Sequence[Turn], room: int) -> tuple[Rendered, bool] | None:
    """A conversation that ends with an answer, and whether it was cut to ``room`` ids as ``prompt_ids`` does.

    None when the last answer does not fit with anything of its question. Answers are never cut.
    """

    def whole(turns: Sequence[Turn]) -> Rendered | None:
        found = render(tokenizer, turns)
        return found if len(found.ids) <= room else None

    first = whole(messages)
    if first:
        return first, False
    cut = _fitting(tokenizer, messages, whole)
    return (cut, True) if cut else None


def _fitting(tokenizer: Tokenizer, messages: Sequence[Turn], made: Callable[[Sequence[Turn]], T | None]) -> T | None:
    """``made`` of as much of the end of ``messages`` as it accepts."""
    system, turns = list(messages[:1]), list(messages[1:])
    if messages[0].role != "system":
        system, turns = [], list(messages)
    starts = [i for i, turn in enumerate(turns) if turn.role == "user"]
    at = bisect.bisect_left(starts, True, key=lambda start: made([*system, *turns[start:]]) is not None)
    if at < len(starts):
        return made([*system, *turns[starts[at] :]])
    question, *rest = turns[starts[-1] :]
    pieces = tokenizer.encode(question.content)

    def kept(count: int) -> list[Turn]:
        return [*system, Turn("user", tokenizer.decode(pieces[len(pieces) - count :]).strip()), *rest]

    most = bisect.bisect_left(range(1, len(pieces)), True, key=lambda count: made(kept(count)) is None)
    while most:  # fewer pieces can be more tokens by one or two: the cut may split a word
        found = made(kept(most))
        if found is not None and kept(most)[len(system)].content:
            return found
        most -= 1
    return None


def render(tokenizer: Tokenizer, messages: Sequence[Turn]) -> Rendered:
    """A whole conversation. Its spans are the template's own marks (``{% generation %}``) where it has them, else what
    the template writes between the request for an answer and the end of that answer.

    A turn that the template writes otherwise than it asks for it (reasoning left out of earlier answers, …) carries no
    label; when that is the last, the conversation is put together as it would be generated, and only that turn counts.
    Raises BadInput when the template refuses the conversation.
    """
    text, marks = tokenizer.written(_plain(messages), ask=False)
    prefix = () if tokenizer.chat_template is not None else tokenizer.prefix
    ids, offsets = tokenizer.encode_offsets(text)
    answers = [i for i, turn in enumerate(messages) if turn.role == "assistant"]
    bounds: Sequence[tuple[int, int] | None] = marks or [_bounds(tokenizer, messages, i, text) for i in answers]
    if bounds[-1] is None:
        asked = _asked(tokenizer, messages[:-1])
        said = [*tokenizer.encode(messages[-1].content), tokenizer.eos_id]
        return Rendered((*asked, *said), ((len(asked), len(asked) + len(said)),))
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    spans = []
    for bound in bounds:
        if bound is None:
            continue
        start, end = bisect.bisect_right(ends, bound[0]), bisect.bisect_left(starts, bound[1])
        end = _ended(ids, start, end, tokenizer.stop_ids)
        spans.append((start, end))
    last = spans[-1][1]
    ids = ids[:last]  # after the last answer's end nothing is learned, so nothing need be read
    if ids[-1] not in tokenizer.stop_ids:
        ids.append(tokenizer.eos_id)
        spans[-1] = (spans[-1][0], last + 1)
    shift = len(prefix)
    return Rendered((*prefix, *ids), tuple((start + shift, end + shift) for start, end in spans))


def _plain(messages: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in messages]


def _asked(tokenizer: Tokenizer, messages: Sequence[Turn]) -> list[int]:
    return tokenizer.chat_ids(_plain(messages))


def _bounds(tokenizer: Tokenizer, messages: Sequence[Turn], index: int, text: str) -> tuple[int, int] | None:
    """Where in ``text`` the answer ``index`` lies, what ends it included; None when the template hides that.

    The line break that many templates write after a turn's last token is not of it.
    """
    before, _ = tokenizer.written(_plain(messages[:index]), ask=True)
    if not text.startswith(before):
        return None
    if index == len(messages) - 1:
        return len(before), len(text.rstrip())
    after, _ = tokenizer.written(_plain(messages[: index + 1]), ask=False)
    if not text.startswith(after):  # the last answer is written differently: look where the next question begins
        at = text.find(messages[index].content, len(before))
        return (len(before), at + len(messages[index].content)) if at >= 0 else None
    return len(before), len(after.rstrip())


def _ended(ids: Sequence[int], start: int, end: int, stops: frozenset[int]) -> int:
    """``end``, or right behind the token that ends the turn when that comes next."""
    if start < end and ids[end - 1] in stops:
        return end
    return end + 1 if end < len(ids) and ids[end] in stops else end
