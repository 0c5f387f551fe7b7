"""What a prepared dataset is on disk and in memory.

A dataset is a folder ``.hybrid/datasets/<name>/`` with ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` (one JSON
object a line, see ``Row``) and ``dataset.json`` (``DatasetInfo``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Split = Literal["train", "val", "test"]
Task = Literal["classify", "generate"]


class Row(msgspec.Struct, frozen=True):
    """One example: ``text`` is what the user says, ``answer`` what the model must say (a label's name if classify)."""

    text: str
    answer: str


class DatasetInfo(msgspec.Struct, frozen=True):
    """``dataset.json``. ``sha256`` is the digest over the three split files in order, hence of the content.

    ``prompt`` is the template with ``{text}``; the model sees ``prompt`` + " " + answer words + end of text.
    ``labels`` is sorted; empty for the task "generate".
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
