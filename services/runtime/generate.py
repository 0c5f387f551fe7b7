"""From a prompt to an answer: sampling, stop strings, pieces of text as they come, answers out of a closed set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from services.data import prompts
from services.errors import BadInput
from services.inference.types import Message, Subject
from services.runtime.engine import Engine
from services.runtime.tokenizer import Tokenizer
from services.runtime.trie import label_trie

_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character (yet)


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0 is greedy. ``top_p`` keeps the likeliest tokens that together reach this probability."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """An answer. ``first_token_s`` counts from the prompt's first token read; ``tokens_s`` is decoding steps
    a second after it."""

    text: str
    tokens: int
    prompt_tokens: int
    first_token_s: float
    tokens_s: float | None
    seconds: float
    stopped: bool


def prompt_ids(tokenizer: Tokenizer, subject: Subject, text: str = "", messages: tuple[Message, ...] = ()) -> list[int]:
    """What the model reads: ``text`` in the task's prompt, or ``messages`` in the model's chat template.

    A model without a template gets the messages' texts as plain paragraphs to go on from, or what it was trained with.
    """
    if messages and (subject.chat or tokenizer.chat_template is not None):
        return tokenizer.chat_ids([{"role": m.role, "content": m.content} for m in messages])
    if messages:
        plain = "\n\n".join(m.content for m in messages)
    else:
        plain = prompts.render(subject.prompt, text) if subject.prompt else text
    return [*tokenizer.prefix, *tokenizer.encode(plain)]


class Pieces:
    """Ids one by one → text in pieces that never split a character; joined they are the text of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # decoding begins here: far enough back for the decoder's own context
        self._given = 0  # ids before this one have been given out

    def add(self, id: int) -> str:
        """The text that ``id`` completes; "" while a character is unfinished."""
        self._ids.append(id)
        before, now = self._texts()
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """What is left when no more ids come (bytes that stayed unfinished show as the replacement character)."""
        before, now = self._texts()
        self._start = self._given = len(self._ids)
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        decode = self._tokenizer.decode
        return decode(self._ids[self._start : self._given]), decode(self._ids[self._start :])


@dataclass
class Stops:
    """Cuts a text, which comes in pieces, before the first of ``stop`` that is complete.

    Holds back what may become one. The result does not depend on how the text is split into pieces.
    """

    stop: tuple[str, ...]
    hit: bool = False
    _held: str = field(default="", repr=False)

    def add(self, piece: str) -> str:
        """The part of the text so far that is now certain to stay."""
        self._held += piece
        found = [(at + len(word), at) for word in self.stop if word and (at := self._held.find(word)) >= 0]
        if found:
            self.hit = True
            text, self._held = self._held[: min(found)[1]], ""
            return text
        keep = max((self._overlap(word) for word in self.stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def rest(self) -> str:
        """What was held back, when no more text comes."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, word: str) -> int:
        """Length of the longest end of the held text that is a beginning of ``word``."""
        for size in range(min(len(word) - 1, len(self._held)), 0, -1):
            if self._held.endswith(word[:size]):
                return size
        return 0


def pick(scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from its ``scores`` (vocabulary,); drawn on the CPU, so that a seed means the same anywhere."""
    if sampling.temperature <= 0:
        return int(scores.argmax())
    chances = (scores.float().cpu() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = chances.sort(descending=True)
        kept = ordered.cumsum(-1) - ordered < sampling.top_p  # the one that crosses the border stays in
        chances = torch.zeros_like(chances).scatter(0, order[kept], ordered[kept])
    return int(torch.multinomial(chances, 1, generator=generator))


def generate(
    engine: Engine,
    tokenizer: Tokenizer,
    ids: list[int],
    sampling: Sampling,
    emit: Callable[[str], None],
    stopped: Callable[[], bool],
    *,
    trim: bool = False,
) -> Generated:
    """Answer the prompt ``ids``; ``emit`` gets each new piece of text, ``stopped`` is asked before every token.

    ``trim`` leaves out white space before the answer's first word, which a task's answers begin with.
    Ends at an end-of-text token, a stop string, ``max_tokens`` or the model's last position. Raises BadInput when the
    prompt alone is longer than the model's positions.
    """
    room = _room(engine, ids, sampling.max_tokens)
    generator = torch.Generator().manual_seed(sampling.seed)
    pieces, stops = Pieces(tokenizer), Stops(sampling.stop)
    text: list[str] = []

    def give(piece: str) -> None:
        piece = piece.lstrip() if trim and not text else piece
        if piece:
            text.append(piece)
            emit(piece)

    begun = time.perf_counter()
    scores = engine.prefill(ids, room, stopped)
    first = begun
    count = steps = 0
    cancelled = scores is None
    while scores is not None:
        id = pick(scores, sampling, generator)
        if count == 0:
            first = time.perf_counter()
        if id in tokenizer.stop_ids:
            break
        count += 1
        give(stops.add(pieces.add(id)))
        cancelled = stopped()
        if stops.hit or count == room or cancelled:
            break
        scores = engine.step(id)
        steps += 1
    if not stops.hit:
        give(stops.add(pieces.rest()))
    if not stops.hit:
        give(stops.rest())
    ended = time.perf_counter()
    return Generated(
        "".join(text), count, len(ids), first - begun, _rate(steps, ended - first), ended - begun, cancelled
    )


def _room(engine: Engine, ids: list[int], wanted: int) -> int:
    if not ids:
        raise BadInput("There is nothing to answer: the prompt is empty.", hint="Give a prompt.")
    if len(ids) >= engine.limit:
        raise BadInput(
            f"The prompt has {len(ids):,} tokens; the model takes {engine.limit:,}.",
            hint="Shorten the text or the chat.",
        )
    return min(wanted, engine.limit - len(ids))


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def choose(
    engine: Engine,
    tokenizer: Tokenizer,
    ids: list[int],
    labels: tuple[str, ...],
    sampling: Sampling,
    stopped: Callable[[], bool],
) -> Generated:
    """Answer the prompt ``ids`` with one of ``labels``: at every step only tokens that lead to a label can be chosen.

    Stops as soon as one label is left. ``text`` is the label's name, "" when ``stopped`` came first.
    """
    _room(engine, ids, 1)
    node = label_trie(tokenizer, labels)
    generator = torch.Generator().manual_seed(sampling.seed)
    begun = time.perf_counter()
    scores = engine.prefill(ids, 64, stopped)
    first = time.perf_counter()
    count = 0
    cancelled = scores is None
    while scores is not None and not (cancelled := stopped()):
        allowed = list(node.next)
        id = allowed[pick(scores[allowed], sampling, generator)]
        node = node.next[id]
        count += 1
        if node.only() is not None:
            break
        scores = engine.step(id)
    ended = time.perf_counter()
    text = "" if cancelled else node.only() or ""
    return Generated(text, count, len(ids), first - begun, _rate(count - 1, ended - first), ended - begun, cancelled)
