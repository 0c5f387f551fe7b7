"""From rows of text to batches of tokens: answer-only labels, token budgets, an order that only the seed decides."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from services.data import prompts
from services.data.types import Row
from services.errors import BadInput
from services.runtime import conversations
from services.runtime.tokenizer import Tokenizer

LOOKED = 16  # passes whose batches are made to count them; of the rest the mean is taken
CHUNK = 20  # batches' worth of rows that are sorted by length together


@dataclass(frozen=True)
class Example:
    """One row as tokens: prompt, answer, end of text. Only what lies from ``answer`` on carries a label.

    A conversation has several answers: ``spans`` (start, end) then says where labels are, from ``answer`` to the end.
    For a classification head nothing carries one; ``label`` is then the number of the row's label, else -1.
    """

    ids: tuple[int, ...]
    answer: int
    label: int = -1
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def tokens(self) -> int:
        """Length, all real."""
        return len(self.ids)

    @property
    def labels(self) -> int:
        """What is predicted of it: its labelled tokens, or one label."""
        if self.label >= 0:
            return 1
        return sum(end - start for start, end in self.spans) if self.spans else len(self.ids) - self.answer

    @property
    def learned(self) -> list[int]:
        """Where the tokens with a label are."""
        return [i for start, end in self.spans or ((self.answer, len(self.ids)),) for i in range(start, end)]


@dataclass(frozen=True)
class Batch:
    """Examples of one step and where they lie in the run: the ``epoch`` they belong to."""

    examples: tuple[Example, ...]
    epoch: int

    @property
    def tokens(self) -> int:
        """Real tokens, no padding."""
        return sum(example.tokens for example in self.examples)

    @property
    def labels(self) -> int:
        """Tokens that carry a label, or rows that have one."""
        return sum(example.labels for example in self.examples)


def packed(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows one after another: their ids, the positions that predict a labelled token, and those tokens; int64.

    The last token of a row predicts nothing, so it is not among the ids.
    """
    lengths = np.array([len(example.ids) for example in examples])
    ends = np.cumsum(lengths)
    ids = np.fromiter(itertools.chain.from_iterable(example.ids for example in examples), np.int64, ends[-1])
    learned = np.zeros(len(ids), bool)
    for example, start in zip(examples, (ends - lengths).tolist(), strict=True):
        for first, last in example.spans or ((example.answer, len(example.ids)),):
            learned[start + first : start + last] = True
    row = np.repeat(np.arange(len(examples)), lengths)
    at = np.flatnonzero(learned)
    arrays = np.delete(ids, ends - 1), at - 1 - row[at], ids[at]
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def prompt_ids(tokenizer: Tokenizer, template: str, text: str, room: int) -> list[int] | None:
    """The prompt's ids, at most ``room`` of them: the left of ``text`` is cut if need be, the template stays.

    None when not even the template alone fits.
    """
    ids = [*tokenizer.prefix, *tokenizer.encode(prompts.render(template, text))]
    over = len(ids) - room
    pieces = tokenizer.encode(text.strip()) if over > 0 else []
    while over > 0:
        if not pieces:
            return None
        pieces = pieces[over:]
        ids = [*tokenizer.prefix, *tokenizer.encode(prompts.render(template, tokenizer.decode(pieces)))]
        over = len(ids) - room
    return ids


def encode(
    tokenizer: Tokenizer, template: str, rows: Sequence[Row], *, classify: bool, max_length: int
) -> tuple[list[Example], int, int]:
    """Rows as examples of at most ``max_length`` tokens; how many texts were cut, and how many rows did not fit.

    A text is cut from the left; an answer never: a row whose template and answer alone are too long is left out.
    Conversations go into the model's chat template and teach every answer in them; they lose their oldest turns first.
    """
    if any(row.messages for row in rows) and not classify:
        return _encode_chats(tokenizer, template, rows, max_length)
    rendered = tokenizer.encode_many([prompts.render(template, row.text) for row in rows])
    answers = tokenizer.encode_many([prompts.completion(row.answer, classify=classify) for row in rows])
    examples: list[Example] = []
    cut = left_out = 0
    for row, whole, words in zip(rows, rendered, answers, strict=True):
        answer = [*words, tokenizer.eos_id]
        prompt: list[int] | None = [*tokenizer.prefix, *whole]
        if len(tokenizer.prefix) + len(whole) + len(answer) > max_length:
            prompt = prompt_ids(tokenizer, template, row.text, max_length - len(answer))
            cut += prompt is not None
        if not prompt:
            left_out += 1
            continue
        examples.append(Example((*prompt, *answer), len(prompt)))
    return examples, cut, left_out


def _encode_chats(
    tokenizer: Tokenizer, template: str, rows: Sequence[Row], max_length: int
) -> tuple[list[Example], int, int]:
    examples: list[Example] = []
    cut = left_out = 0
    for row in rows:
        if not row.messages:
            one, short, out = encode(tokenizer, template, [row], classify=False, max_length=max_length)
            examples += one
            cut, left_out = cut + short, left_out + out
            continue
        found = conversations.rendered(tokenizer, row.messages, max_length)
        if found is None:
            left_out += 1
            continue
        chat, was_cut = found
        cut += was_cut
        examples.append(Example(chat.ids, chat.spans[0][0], spans=chat.spans))
    return examples, cut, left_out


def asked_ids(tokenizer: Tokenizer, template: str, row: Row, room: int, *, classify: bool) -> list[int] | None:
    """What the model reads before it writes the row's answer: its prompt, or all of a conversation but the last turn.

    None when not even the template fits.
    """
    if row.messages and not classify:
        return conversations.prompt_ids(tokenizer, row.messages[:-1], room)
    return prompt_ids(tokenizer, template, row.text, room)


def head_ids(tokenizer: Tokenizer, template: str, text: str, max_length: int) -> list[int] | None:
    """What a classification head reads of a text: the prompt, or for an encoder the text between its special tokens.

    None when not even the template fits.
    """
    if not tokenizer.encoder:
        return prompt_ids(tokenizer, template, text, max_length)
    room = max_length - len(tokenizer.prefix) - 1
    return [*tokenizer.prefix, *tokenizer.encode(text.strip())[:room], tokenizer.eos_id]


def encode_labelled(
    tokenizer: Tokenizer, template: str, rows: Sequence[Row], labels: Sequence[str], *, max_length: int
) -> tuple[list[Example], int, int]:
    """Rows for a classification head; how many texts were cut (not counted: 0), and how many rows did not fit.

    Raises BadInput for a row whose answer is none of ``labels``.
    """
    number = {label: index for index, label in enumerate(labels)}
    examples: list[Example] = []
    for row in rows:
        if row.answer not in number:
            raise BadInput(f"The row '{row.text[:60]}' has the unknown label '{row.answer}'.")
        ids = head_ids(tokenizer, template, row.text, max_length)
        if ids:
            examples.append(Example(tuple(ids), len(ids), number[row.answer]))
    return examples, 0, len(rows) - len(examples)


def epoch_batches(
    examples: Sequence[Example], *, epoch: int, seed: int, batch_rows: int, batch_tokens: int
) -> list[Batch]:
    """One pass over ``examples``: shuffled, sorted by length inside chunks, cut into batches, those shuffled again.

    A batch has at most ``batch_rows`` rows and ``batch_tokens`` tokens (a longer single row is a batch of its own).
    The same arguments give the same list everywhere.
    """
    shuffle = random.Random(f"{seed}/{epoch}")
    order = list(range(len(examples)))
    shuffle.shuffle(order)
    batches: list[Batch] = []
    for start in range(0, len(order), CHUNK * batch_rows):
        chunk = sorted(order[start : start + CHUNK * batch_rows], key=lambda i: (examples[i].tokens, i))
        cut = list(_within_budget([examples[i] for i in chunk], batch_rows, batch_tokens))
        shuffle.shuffle(cut)
        batches += [Batch(rows, epoch) for rows in cut]
    return batches


def _within_budget(examples: Sequence[Example], rows: int, tokens: int) -> Iterator[tuple[Example, ...]]:
    current: list[Example] = []
    used = 0
    for example in examples:
        if current and (len(current) == rows or used + example.tokens > tokens):
            yield tuple(current)
            current, used = [], 0
        current.append(example)
        used += example.tokens
    if current:
        yield tuple(current)


@dataclass(frozen=True)
class Order:
    """The run's endless sequence of batches; a step's batch depends on the seed and its number alone."""

    examples: tuple[Example, ...]
    seed: int
    batch_rows: int
    batch_tokens: int

    def __post_init__(self) -> None:
        if not self.examples:
            raise BadInput("There is no row to train on.", hint="Look at the dataset: hybrid-tui --run data.show")

    def epoch(self, number: int) -> list[Batch]:
        """The batches of pass ``number`` (0, 1, …)."""
        return epoch_batches(
            self.examples,
            epoch=number,
            seed=self.seed,
            batch_rows=self.batch_rows,
            batch_tokens=self.batch_tokens,
        )

    def steps(self, epochs: float, most: int) -> int:
        """Steps that ``epochs`` passes take, from 1 to ``most``; a fraction of a pass is that share of its batches.

        Passes differ by a few batches where the token budget cuts them. Beyond ``LOOKED`` passes each counts as their
        mean: the plan is recorded, and what it says is what the run does.
        """
        if max(example.tokens for example in self.examples) * self.batch_rows <= self.batch_tokens:
            each = math.ceil(len(self.examples) / self.batch_rows)  # rows alone cut: every chunk but the last is full
            whole = min(math.floor(epochs), most)
            return max(1, min(whole * each + math.ceil((min(epochs, most) - whole) * each), most))
        steps = number = 0
        while number < epochs and steps < most:
            if number == LOOKED:
                steps += math.ceil(min((epochs - number) * steps / number, most))
                break
            steps += math.ceil(min(1.0, epochs - number) * len(self.epoch(number)))
            number += 1
        return max(1, min(steps, most))

    def batches(self, start: int = 0, epoch: int = 0, first: int = 0) -> Iterator[tuple[float, int, Batch]]:
        """From step ``start`` on: the epoch reached after the batch (1.5 = one and a half passes), the step at which
        that pass began, and the batch.

        Where it is known that pass ``epoch`` begins with step ``first``, those before it need not be made.
        """
        position = first
        for number in itertools.count(epoch):
            batches = self.epoch(number)
            if position + len(batches) > start:
                for index, batch in enumerate(batches):
                    if position + index >= start:
                        yield number + (index + 1) / len(batches), position, batch
            position += len(batches)
