"""What a person's records are: texts and labels, questions and answers, instructions, or conversations.

A shape says which columns are read and makes a row of a record. It is found by the columns' names or by those given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from services.data import chat
from services.data.table import Table, cell
from services.data.types import Row
from services.errors import BadInput, nearest

Kind = Literal["columns", "instruction", "chat", "chat pair"]

_TEXT = (
    "text", "query", "question", "utterance", "prompt", "input", "sentence", "message", "instruction", "request",
    "title",
)  # fmt: skip
LABEL = ("label", "category", "intent", "class", "target", "topic", "tag", "label_text")
_ANSWER = ("answer", "completion", "output", "response", "reply", "solution")
_CHAT = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
MOST_ROWS = 2_000_000


class Item(msgspec.Struct, frozen=True, gc=False):
    """A row and the value of the column by which rows stay together ("" without one)."""

    row: Row
    group: str = ""


@dataclass(frozen=True)
class Shape:
    """``columns``: of "columns" text and answer, of "instruction" instruction, input and output, of "chat" the one of
    the messages, of "chat pair" prompt and completion, both lists of messages. ``group``: see ``Item``."""

    kind: Kind
    columns: tuple[str, ...]
    group: str = ""

    @property
    def used(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (*self.columns, *filter(None, [self.group]))

    def describe(self) -> str:
        """Where texts and answers come from, as the beginning of a sentence."""
        first, last = self.columns[0], self.columns[-1]
        if self.kind == "chat":
            return f"Conversations are from '{first}'"
        if self.kind == "chat pair":
            return f"Conversations are from '{first}' and '{last}'"
        if self.kind == "instruction":
            return f"Texts are from '{first}' and '{self.columns[1]}', answers from '{last}'"
        return f"Texts are from '{first}', answers from '{last}'"

    def row(self, record: dict[str, Any]) -> Row:
        """The record as a row. Raises chat.Unusable when it lacks a part."""
        if self.kind == "chat":
            return chat.row(chat.turns(record.get(self.columns[0])))
        if self.kind == "chat pair":
            both = [record.get(column) for column in self.columns]
            return chat.row(chat.turns([message for part in both if isinstance(part, list) for message in part]))
        values = [cell(record.get(column)).strip() for column in self.columns]
        if not values[0] or not values[-1]:
            raise chat.Unusable("")
        return Row("\n\n".join(filter(None, values[:-1])), values[-1])


def find(table: Table, sample: dict[str, Any], text: str, label: str, group: str) -> Shape:
    """The shape of ``table``, whose first record is ``sample``; given columns decide. Raises BadInput naming those
    there are."""
    by_name = {column.lower().strip(): column for column in reversed(table.columns)}
    together = _named(table, by_name, group) if group else ""
    if not text and not label:
        conversation = next((by_name[w] for w in _CHAT if w in by_name and _is_chat(sample, by_name[w])), None)
        if conversation is not None:
            return Shape("chat", (conversation,), together)
        if all(w in by_name and _is_chat(sample, by_name[w]) for w in ("prompt", "completion")):
            return Shape("chat pair", (by_name["prompt"], by_name["completion"]), together)
        answer = next((by_name[w] for w in _ANSWER if w in by_name), None)
        if answer is not None and {"instruction", "input"} <= by_name.keys():
            return Shape("instruction", (by_name["instruction"], by_name["input"], answer), together)
    if text and not label and _is_chat(sample, _named(table, by_name, text)):
        return Shape("chat", (_named(table, by_name, text),), together)
    return Shape("columns", _columns(table, by_name, text, label), together)


def _is_chat(sample: dict[str, Any], column: str) -> bool:
    return chat.is_conversation(sample.get(column))


def _named(table: Table, by_name: dict[str, str], given: str) -> str:
    if given in table.columns:
        return given
    if given.lower() in by_name:
        return by_name[given.lower()]
    raise BadInput(
        f"{table.path.name} has no column '{given}'{nearest(given, table.columns) or '.'}",
        hint=f"Its columns: {listed(table.columns)}.",
    )


def _columns(table: Table, by_name: dict[str, str], text: str, label: str) -> tuple[str, str]:
    """The columns of the texts and of the labels."""
    found: list[str] = []
    for what, given, known in (("texts", text, _TEXT), ("labels or answers", label, (*LABEL, *_ANSWER))):
        if given:
            found.append(_named(table, by_name, given))
            continue
        other = {*found, by_name.get(label.lower())}
        match = next((by_name[word] for word in known if word in by_name and by_name[word] not in other), None)
        if match is None:
            raise BadInput(
                f"{table.path.name} has no column that is known to hold {what}; its columns: {listed(table.columns)}.",
                hint="Name them: text=COLUMN label=COLUMN (the first line must be a header).",
            )
        found.append(match)
    if found[0] == found[1]:
        raise BadInput(f"text and label are the same column, '{found[0]}'.", hint=f"Columns: {listed(table.columns)}.")
    return found[0], found[1]


def listed(columns: Sequence[str]) -> str:
    """Names in quotes, at most twelve, long ones cut."""
    plain = [" ".join(column.split()) for column in columns[:12]]
    shown = [column if len(column) <= 40 else column[:39] + "…" for column in plain]
    more = [f"and {len(columns) - 12} more"] if len(columns) > 12 else []
    return ", ".join([*(f"'{column}'" for column in shown), *more])


class Missing:
    """What was left out of a file, and why: counted, with the first lines."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[int] = []
        self._reasons: Counter[str] = Counter()

    def add(self, line: int, reason: str) -> None:
        """The record in ``line`` is left out; ``reason`` "" is a missing text or label."""
        self.count += 1
        self._reasons[reason] += 1
        if len(self._lines) < 5:
            self._lines.append(line)

    def sentence(self, name: str, total: int) -> str:
        """For a warning."""
        some = ", ".join(map(str, self._lines)) + (", …" if self.count > 5 else "")
        if set(self._reasons) == {""}:
            return f"{name}: {self.count} of {total} rows lack a text or a label and were left out (line {some})."
        why = ", ".join(f"{reason or 'a missing part'} ({number})" for reason, number in self._reasons.most_common(5))
        return f"{name}: {self.count} of {total} conversations were left out (line {some}): {why}."


def items(table: Table, shape: Shape, warnings: list[str], checks: dict[str, float], prefix: str = "") -> list[Item]:
    """The records as rows; those that lack a part are counted and named by line. Raises BadInput when none is left,
    or when there are more than ``MOST_ROWS``."""
    found: list[Item] = []
    missing = Missing()
    loners = total = 0
    for line, record in table.records:
        total += 1
        try:
            row = shape.row(record)
        except chat.Unusable as error:
            missing.add(line, str(error))
            continue
        group = cell(record.get(shape.group)).strip() if shape.group else ""
        loners += not group
        found.append(Item(row, group))
        if len(found) > MOST_ROWS:
            raise BadInput(
                f"{table.path} has more than {MOST_ROWS:,} rows, which are held in memory to be compared and split.",
                hint="Take a part of it: a shuffled sample trains as well, or several files.",
            )
    _tell(table, shape, found, missing, total, warnings)
    checks[f"{prefix}missing_values"] = missing.count
    if shape.group and loners:
        warnings.append(f"{loners} rows have no '{shape.group}'; each is taken as a group of its own.")
    return found


def _tell(table: Table, shape: Shape, found: list[Item], missing: Missing, total: int, warnings: list[str]) -> None:
    if not total:
        raise BadInput(f"{table.path} has a header but no rows.")
    if not found and shape.kind in ("chat", "chat pair"):
        raise BadInput(f"{missing.sentence(table.path.name, total).removesuffix('.')}: none is left.")
    if not found:
        raise BadInput(
            f"{table.path}: in every row '{shape.columns[0]}' or '{shape.columns[-1]}' is empty.",
            hint="Name others: text=… label=…",
        )
    unused = [column for column in table.columns if column not in shape.used]
    if unused:
        warnings.append(f"{shape.describe()}; not used: {listed(unused)}.")
    if missing.count:
        warnings.append(missing.sentence(table.path.name, total))
