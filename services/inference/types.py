"""What can be talked to, and the lines exchanged with the runtime worker.

The worker (``python -m services.runtime.worker``) reads one JSON request a line on stdin and writes one JSON reply a
line on stdout. Replies carry the request's ``id``; several "token" replies may come before one final reply
("done" or "error"). ``cancel`` names the request to stop in ``target``; the stopped request then ends with "done",
``stopped`` true. Requests are worked off one at a time, in order; ``cancel`` and ``ping`` at once.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from services.data.types import Split
from services.errors import BadInput


class Subject(msgspec.Struct, frozen=True):
    """A resolved thing to talk to: a base model with or without an adapter.

    ``label`` e.g. "base", "banking@2", "run:k3v9". ``prompt`` is the task's template, "" for free chat;
    ``labels`` the closed set of answers of a task ("" prompt → empty). ``head``: it has a classification head, which
    names one of its labels at once and can't write. ``chat``: trained on conversations.
    """

    label: str
    model: str
    adapter: str | None = None
    prompt: str = ""
    labels: tuple[str, ...] = ()
    head: bool = False
    chat: bool = False


def no_chat(subject: Subject) -> BadInput:
    """What to say when a classifier is asked to chat."""
    return BadInput(
        f"{subject.label} is a classifier: it names one of {len(subject.labels)} labels and can't chat.",
        hint="Ask it in task mode, or with inference.classify.",
    )


def as_task(subject: Subject, task: Subject) -> Subject:
    """``subject`` with the prompt and labels of ``task``; a classifier keeps its own, which its head was trained on."""
    return subject if subject.head else msgspec.structs.replace(subject, prompt=task.prompt, labels=task.labels)


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line to the worker. ``text`` is a task's input (rendered with ``subject.prompt``), ``messages`` a free chat."""

    id: int
    op: Literal["load", "generate", "classify", "evaluate", "cancel", "ping", "unload", "quit"]
    subject: Subject | None = None
    text: str = ""
    messages: tuple[Message, ...] = ()
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    constrain: bool = False
    data: str = ""
    split: Split = "test"
    limit: int = 0
    target: int = 0


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line from the worker. ``data`` by ``ev``:

    - ready: (once, id 0) pid, torch, threads
    - loading: stage, seconds
    - token: text (the new piece)
    - progress: done, total, and figures so far (accuracy)
    - done: text, tokens, prompt_tokens, first_token_s, tokens_s, stopped, rss_bytes; a head's answer has
      probability, ranked and seconds instead of the figures of writing; for classify: text (the label), probability,
      ranked (label and probability, likeliest first), tokens, seconds; for evaluate: accuracy, macro_f1, rows,
      seconds; for load: seconds, rss_bytes, dtype
    - error: message, hint, exit_code
    """

    id: int
    ev: Literal["ready", "loading", "token", "progress", "done", "error"]
    data: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """What a model said. ``first_token_s`` from the prompt's start, without loading; ``tokens_s`` decoding after it
    (None for an answer of one token); ``stopped``: cancelled before its end; ``probability``: of a classifier's label.
    """

    model: str
    mode: Literal["chat", "task"]
    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_s: float | None = None
    tokens_s: float | None = None
    seconds: float = 0.0
    stopped: bool = False
    probability: float | None = None


class Guess(msgspec.Struct, frozen=True):
    """A label and how sure the head is of it; the probabilities of all labels add up to 1."""

    label: str
    probability: float


class Classification(msgspec.Struct, frozen=True):
    """What a classifier says of a text, in ``seconds`` without starting and loading. ``ranked``: likeliest first."""

    model: str
    text: str
    label: str
    probability: float
    ranked: tuple[Guess, ...]
    tokens: int
    seconds: float


class Comparison(msgspec.Struct, frozen=True):
    """Two answers to the same prompt, asked in the same way."""

    prompt: str
    mode: Literal["chat", "task"]
    left: Answer
    right: Answer


class EvaluationResult(msgspec.Struct, frozen=True):
    """Shares are of one. ``rows`` that were answered, in ``seconds`` without starting and loading.

    ``macro_f1`` is None for free answers, whose ``accuracy`` is exact match; ``perplexity`` is None for labels.
    """

    model: str
    data: str
    split: str
    accuracy: float | None
    macro_f1: float | None
    rows: int
    seconds: float
    data_sha256: str = ""
    perplexity: float | None = None
