"""``data.check``: what a dataset is worth, and what a pass over it costs, before any of it is trained on."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Progress
from services.data import chat, lengths, near, personal, store
from services.data.lengths import Request, Sample, SplitLengths
from services.data.personal import PersonalFound
from services.data.prepare import PrepareParams, build
from services.data.types import DatasetInfo, Row, Split
from services.errors import BadInput, HybridError
from services.models.resolve import MODEL_STACK_HINT, ensure_ready, resolve_base

_DAMAGED = re.compile("�|Ã[\\x80-\\xbf]|â€|Â[\\xa0-\\xbf]")  # what UTF-8 looks like that was read as Latin-1
_MOST_NEAR = 20_000  # rows of val and test that are compared with train for near-duplicates
_UNEVEN = 10.0
_CUT_WARNING = 0.01
_A = {"e-m": "an", "IBA": "an", "car": "a", "pho": "a", "nat": "a"}


class CheckParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to check, for which model."""

    name: Annotated[str, Meta(description="A dataset's name or folder, or a file as data.prepare would take it in.")]
    model: Annotated[
        str, Meta(description="Base model whose tokenizer counts; empty: the settings', if it is here already.")
    ] = ""
    max_length: Annotated[int, Meta(ge=16, description="Longest row in tokens, as in train.start.")] = 512
    samples: Annotated[
        int, Meta(ge=0, le=100, description="How many training rows to show as the model sees them.")
    ] = 3
    seed: Annotated[int, Meta(description="Another seed shows other rows.")] = 0


class SplitCheck(msgspec.Struct, frozen=True):
    """What is wrong inside a split. ``duplicates``: rows whose text came before; ``contradictions``: those of them with
    another answer; ``in_train`` and ``near_train``: rows of val or test whose text, or nearly, train has as well
    (of ``near_checked`` rows); ``damaged``: rows with letters that were read in the wrong encoding."""

    split: Split
    rows: int
    duplicates: int
    contradictions: int
    in_train: int
    near_train: int
    near_checked: int
    damaged: int


class Balance(msgspec.Struct, frozen=True):
    """Labels of the training rows: how many, the largest and the smallest with their rows, and ``ratio`` of the two."""

    labels: int
    largest: str
    largest_rows: int
    smallest: str
    smallest_rows: int
    ratio: float


class DataCheck(msgspec.Struct, frozen=True):
    """``tokens_by`` says who counted; ``epoch_tokens`` is one pass over train; ``warnings`` are sentences."""

    name: str
    task: str
    format: str
    tokens_by: str
    max_length: int
    epoch_tokens: int
    splits: tuple[SplitCheck, ...]
    tokens: tuple[SplitLengths, ...]
    balance: Balance | None
    personal: tuple[PersonalFound, ...]
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]


async def check(ctx: Context, params: CheckParams) -> DataCheck:
    """Duplicates, leaks between splits, balance, personal data, damaged letters, token lengths; changes nothing.

    Tokens are counted by the tokenizer of ``model``, fetched first if it is named and not here; without the model stack
    or the model they are estimated by words, and ``tokens_by`` says so. Raises BadInput for a damaged dataset.
    """
    async with _opened(ctx, params.name) as folder:
        info = await asyncio.to_thread(store.load_info, folder)
        ctx.report(Progress("compare the rows", 0, sum(info.counts.values()), "rows"))
        splits, balance, found = await asyncio.to_thread(_rows, info, folder)
        measured, by = await _measure(ctx, params, info, folder)
    train = next(item for item in measured.splits if item.split == "train")
    warnings = (*_split_warnings(splits), *_balance_warnings(balance), *_length_warnings(measured.splits, params))
    personal_warnings = tuple(
        f"{_rows_have(item.rows)} what looks like {_A[item.kind[:3]]} {item.kind}, e.g. {item.examples[0]}."
        for item in found
    )
    return DataCheck(
        name=info.name,
        task=info.task,
        format=info.format,
        tokens_by=by,
        max_length=params.max_length,
        epoch_tokens=train.epoch_tokens,
        splits=splits,
        tokens=measured.splits,
        balance=balance,
        personal=found,
        samples=measured.samples,
        warnings=(*warnings, *personal_warnings),
    )


@asynccontextmanager
async def _opened(ctx: Context, name: str) -> AsyncIterator[Path]:
    """The dataset's folder; of a file, one that is gone afterwards."""
    try:
        folder = store.resolve(ctx.workspace, name)
    except BadInput:
        if not _is_file(ctx.workspace.root, name):
            raise
    else:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-check-") as place:
        info, rows = await asyncio.to_thread(build, ctx.workspace.root, PrepareParams(name))
        await asyncio.to_thread(store.write_to, Path(place), info, rows)
        yield Path(place)


def _is_file(root: Path, name: str) -> bool:
    given = Path(name).expanduser()
    return given.is_file() or (root / given).is_file()


def _rows(info: DatasetInfo, folder: Path) -> tuple[tuple[SplitCheck, ...], Balance | None, tuple[PersonalFound, ...]]:
    rows = {split: store.read_rows(folder, split) for split in store.SPLITS}
    known = {near.normalise(chat.asked(row)) for row in rows["train"]}
    splits = tuple(_split(split, rows[split], rows["train"], known) for split in store.SPLITS)
    balance = _balance(rows["train"]) if info.task == "classify" else None
    found = personal.scan(text for part in rows.values() for row in part for text in _texts(row))
    return splits, balance, found


def _texts(row: Row) -> Iterable[str]:
    yield "\n".join([*(turn.content for turn in row.messages)] or [row.text, row.answer])


def _split(split: Split, rows: Sequence[Row], train: Sequence[Row], known: set[str]) -> SplitCheck:
    first: dict[str, str] = {}
    duplicates = contradictions = in_train = 0
    for row in rows:
        key = near.normalise(chat.asked(row))
        if key in first:
            duplicates += 1
            contradictions += first[key] != row.answer
        first.setdefault(key, row.answer)
        in_train += split != "train" and key in known
    compared = [] if split == "train" else rows[:_MOST_NEAR]
    return SplitCheck(
        split=split,
        rows=len(rows),
        duplicates=duplicates,
        contradictions=contradictions,
        in_train=in_train,
        near_train=near.count_near(_asked(compared), _asked(train) if compared else ()),
        near_checked=len(compared),
        damaged=sum(1 for row in rows if any(_DAMAGED.search(text) for text in _texts(row))),
    )


def _asked(rows: Iterable[Row]) -> Iterable[str]:
    return (chat.asked(row, system=False) for row in rows)


def _balance(rows: Sequence[Row]) -> Balance | None:
    counts = sorted(Counter(row.answer for row in rows).items(), key=lambda item: (-item[1], item[0]))
    if not counts:
        return None
    (largest, most), (smallest, fewest) = counts[0], counts[-1]
    return Balance(len(counts), largest, most, smallest, fewest, most / fewest)


async def _measure(ctx: Context, params: CheckParams, info: DatasetInfo, folder: Path) -> tuple[lengths.Measured, str]:
    label = params.model or ctx.workspace.settings.model.base
    total = sum(info.counts.values())
    request = Request("", str(folder), params.max_length, params.samples, params.seed)
    why = ""
    try:
        model = await asyncio.to_thread(resolve_base, ctx.workspace, label)
        if importlib.util.find_spec("tokenizers") is None:
            raise HybridError("Counting tokens needs the model stack.", hint=MODEL_STACK_HINT)
        if params.model:
            model = await ensure_ready(ctx, label)
        if model.kind == "folder" or params.model:
            request = msgspec.structs.replace(request, model=model.path)
            measured = await lengths.count(
                request, lambda done: ctx.report(Progress("count tokens", done, total, "rows"))
            )
            in_chat = "in its chat template" if measured.chat else "in the dataset's prompt"
            if info.format == "chat" and not measured.chat:
                in_chat = "as User: and Assistant: lines: it has no chat template"
            return measured, f"the tokenizer of {label}, {in_chat}"
        why = f"{label} is not here yet: model={label} fetches it"
    except HybridError as error:
        if params.model:
            raise
        why = str(error).removesuffix(".")
    ctx.report(Progress("estimate tokens", 0, total, "rows"))
    measured = await asyncio.to_thread(lengths.estimate, info, folder, request)
    return measured, f"an estimate from words, good to perhaps a quarter for English ({why})"


def _rows_have(number: int) -> str:
    return f"{number:,} row{' has' if number == 1 else 's have'}"


def _split_warnings(splits: Sequence[SplitCheck]) -> Iterable[str]:
    for item in splits:
        where = f"In {item.split}"
        if item.in_train:
            yield f"{where}, {_rows_have(item.in_train)} a text that train has too: a leak."
        if item.contradictions:
            yield f"{where}, {_rows_have(item.contradictions)} the text of an earlier one and another answer."
        if item.near_train > item.in_train:
            yield (
                f"{where}, {_rows_have(item.near_train)} at least {near.NEAR:.0%} of the words in common with a row "
                f"in train (of {item.near_checked:,} compared); measuring on them is easier."
            )
        if item.duplicates:
            yield f"{where}, {_rows_have(item.duplicates)} the text of an earlier one."
        if item.damaged:
            yield f"{where}, {_rows_have(item.damaged)} letters that were read in the wrong encoding, such as Ã©."


def _balance_warnings(balance: Balance | None) -> Iterable[str]:
    if balance is not None and balance.ratio > _UNEVEN:
        yield (
            f"Labels are uneven: '{balance.largest}' has {balance.largest_rows} training rows, '{balance.smallest}' "
            f"{balance.smallest_rows}; macro-F1 tells more than accuracy."
        )


def _length_warnings(tokens: Sequence[SplitLengths], params: CheckParams) -> Iterable[str]:
    for item in tokens:
        if item.cut_share >= _CUT_WARNING:
            yield (
                f"{item.cut_share:.1%} of the rows in {item.split} are longer than {params.max_length} tokens and are "
                f"cut (the longest has {item.max}); a larger max_length keeps them whole."
            )
        if item.left_out:
            yield f"In {item.split}, {_rows_have(item.left_out)} no room for their answer: they are left out."
