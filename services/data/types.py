"""What a prepared dataset is on disk and in memory.

A dataset is a folder ``.hybrid/datasets/<name>/`` with ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` (one JSON
object a line, see ``Row``) and ``dataset.json`` (``DatasetInfo``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Split = Literal["train", "val", "test"]
Task = Literal["classify", "generate"]
Role = Literal["system", "user", "assistant"]


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Role
    content: str


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One example: ``text`` is what the user says, ``answer`` what the model must say (a label's name if classify).

    A conversation has ``messages`` besides: perhaps one of the system, then user and assistant in turn, the last by
    the assistant. ``text`` is then its last user message and ``answer`` its last message, so that who knows nothing
    of conversations still reads a question and its answer. Without messages a line on disk has the two alone.
    """

    text: str
    answer: str
    messages: tuple[Turn, ...] = ()


class DatasetInfo(msgspec.Struct, frozen=True):
    """``dataset.json``. ``sha256`` is the digest over the three split files in order, hence of the content.

    ``prompt`` is the template with ``{text}``; the model sees ``prompt`` + " " + answer words + end of text. With
    ``format`` "chat" every row has ``messages``, to be put into the model's chat template instead.
    ``labels`` is sorted; empty for the task "generate". ``checks`` holds what was counted while building (duplicates
    removed, near-duplicates across splits, …). ``path`` is the folder, filled in when the dataset is opened.
    """

    name: str
    task: Task
    prompt: str
    labels: tuple[str, ...]
    counts: dict[str, int]
    sha256: str
    source: str
    seed: int
    created_at: float
    warnings: tuple[str, ...] = ()
    checks: dict[str, float] = {}
    path: str = ""
    format: Literal["text", "chat"] = "text"


class Datasets(msgspec.Struct, frozen=True):
    """Prepared datasets of a workspace, by name; ``problems`` names folders that can't be read as one."""

    datasets: tuple[DatasetInfo, ...]
    problems: tuple[str, ...] = ()


class LabelCount(msgspec.Struct, frozen=True):
    """How many rows of each split have ``label``."""

    label: str
    train: int
    val: int
    test: int


class DatasetView(msgspec.Struct, frozen=True):
    """A dataset as it is shown. ``words`` holds the length of the texts in words (min, median, p95, max) by split;
    ``samples`` are rows of the asked split; ``problems`` says what is wrong with the files, in words."""

    info: DatasetInfo
    labels: tuple[LabelCount, ...]
    words: dict[str, dict[str, float]]
    samples: tuple[Row, ...]
    bytes: int
    problems: tuple[str, ...] = ()
