"""How long a dataset's rows are as a model reads them: ``python -m services.runtime.measure REQUEST``, a JSON object.

Loads the tokenizer and nothing else. Writes JSON lines: ``{"done": rows}`` now and then, then one ``Measured`` as
``{"result": …}`` or ``{"error": …, "hint": …, "exit_code": …}``.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.data import prompts, store
from services.data.lengths import Measured, Request, Sample, SplitLengths, lengths
from services.data.types import DatasetInfo, Row
from services.errors import HybridError
from services.runtime import batches, conversations
from services.runtime.loading import local_folder
from services.runtime.tokenizer import Tokenizer

_PORTION = 2000  # rows that are tokens at a time


def main(arguments: list[str]) -> int:
    """Entry point; see the module's text."""
    request = msgspec.json.decode(arguments[0], type=Request)
    try:
        _say({"result": measure(request)})
    except HybridError as error:
        _say({"error": str(error), "hint": error.hint, "exit_code": error.exit_code})
        return error.exit_code
    return 0


def _say(line: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def measure(request: Request) -> Measured:
    """Token lengths of every split of ``request.data``, and some training rows as the model sees them."""
    folder = Path(request.data)
    info = store.load_info(folder)
    tokenizer = Tokenizer(local_folder(request.model))
    chat = info.format == "chat" and info.task == "generate"
    view = _View(tokenizer, info, chat, request.max_length)
    done = 0
    splits: list[SplitLengths] = []
    samples: list[Sample] = []
    for split in store.SPLITS:
        rows = store.read_rows(folder, split)
        whole, left_out = array("I"), 0
        for start in range(0, len(rows), _PORTION):
            portion = rows[start : start + _PORTION]
            found, dropped = view.lengths(portion)
            whole.extend(found)
            left_out += dropped
            done += len(portion)
            _say({"done": done})
        splits.append(lengths(split, whole, request.max_length, left_out))
        if split == "train":
            chosen = random.Random(request.seed).sample(rows, min(request.samples, len(rows)))
            samples = [view.sample(row) for row in chosen]
    return Measured(tuple(splits), tuple(samples), chat and tokenizer.chat_template is not None)


class _View:
    """Rows as the model sees them: in the dataset's prompt, or in the model's chat template, as they are trained on."""

    def __init__(self, tokenizer: Tokenizer, info: DatasetInfo, chat: bool, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._chat = chat
        self._most = max_length

    def _prompt(self, row: Row) -> str:
        return prompts.render(self._info.prompt, row.text)

    def _answer(self, row: Row) -> str:
        return prompts.completion(row.answer, classify=self._info.task == "classify")

    def lengths(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        """Tokens of each row, uncut, and how many rows have no room for more than the template and the answer."""
        if self._chat:
            chats = [len(conversations.render(self._tokenizer, row.messages).ids) for row in rows]
            long = [row for row, tokens in zip(rows, chats, strict=True) if tokens > self._most]
            return chats, sum(conversations.rendered(self._tokenizer, row.messages, self._most) is None for row in long)
        prefix = len(self._tokenizer.prefix)
        asked = self._tokenizer.encode_many([self._prompt(row) for row in rows])
        answers = self._tokenizer.encode_many([self._answer(row) for row in rows])
        whole: list[int] = []
        left_out = 0
        for row, prompt, answer in zip(rows, asked, answers, strict=True):
            whole.append(prefix + len(prompt) + len(answer) + 1)
            if whole[-1] > self._most:
                room = self._most - len(answer) - 1
                left_out += not batches.prompt_ids(self._tokenizer, self._info.prompt, row.text, room)
        return whole, left_out

    def sample(self, row: Row) -> Sample:
        """A row, written out."""
        if self._chat:
            return self._chat_sample(row)
        prompt, answer = self._prompt(row), self._answer(row)
        encode = self._tokenizer.encode
        prefix = list(self._tokenizer.prefix)
        end = [self._tokenizer.eos_id]
        shown = self._tokenizer.decode([*prefix, *encode(prompt)], specials=True)
        return Sample(
            prompt=shown,
            answer=answer + self._tokenizer.decode(end, specials=True),
            tokens=len(prefix) + len(encode(prompt)) + len(encode(answer)) + 1,
            answer_tokens=len(encode(answer)) + 1,
        )

    def _chat_sample(self, row: Row) -> Sample:
        """The last answer and all before it; the tokens of every answer are learned."""
        found = conversations.render(self._tokenizer, row.messages)
        start = found.spans[-1][0]
        return Sample(
            prompt=self._tokenizer.decode(found.ids[:start], specials=True),
            answer=self._tokenizer.decode(found.ids[start:], specials=True),
            tokens=len(found.ids),
            answer_tokens=sum(end - begin for begin, end in found.spans),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
