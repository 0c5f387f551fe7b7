"""A person's file into a dataset: columns, task, duplicates, splits, and what to know about it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.data import chat, near, prompts, shapes, split, store, table
from services.data.shapes import Item, Shape, listed
from services.data.types import DatasetInfo, Row, Split, Task
from services.errors import BadInput

_FEWEST_ROWS = 4
_FEW_OF_A_LABEL = 5
_MOST_LABELS = 1000
_MOST_NEAR = 20_000  # test rows that are compared with train for near-duplicates


class PrepareParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to read and how to split it."""

    source: Annotated[str, Meta(description="CSV (or TSV) with a header line, JSONL, JSON array or Parquet file.")]
    name: Annotated[str, Meta(description="Name of the dataset; empty: made from the file's name.")] = ""
    text: Annotated[str, Meta(description="Column of the texts, or of conversations; empty: found by its name.")] = ""
    label: Annotated[str, Meta(description="Column of the labels or answers; empty: found by its name.")] = ""
    task: Annotated[
        Literal["auto", "classify", "generate"],
        Meta(description="classify: answers are a closed set of labels; generate: free answers; auto: by the data."),
    ] = "auto"
    seed: Annotated[int, Meta(description="Seed of the split.")] = 0
    val: Annotated[float, Meta(gt=0, lt=0.5, description="Share of the rows for validation.")] = 0.1
    test: Annotated[float, Meta(gt=0, lt=0.5, description="Share of the rows for the test.")] = 0.1
    test_file: Annotated[str, Meta(description="A file that is the test split as it stands; test= is not used.")] = ""
    group: Annotated[
        str, Meta(description="Column whose values stay together in one split, such as a customer's id.")
    ] = ""


async def prepare(ctx: Context, params: PrepareParams) -> DatasetInfo | Plan:
    """Check, split and store the file ``params.source`` as a dataset.

    What was left out or looks odd is in ``warnings``. The test split shares no text with train and val, in spite of
    differences in case, punctuation and spacing: such rows are taken out of train and val. Raises BadInput with the
    file, and the line where one is meant.
    """
    ctx.will_write("data.prepare")
    ctx.report(Progress("read", note=params.source))
    info, rows = await asyncio.to_thread(build, ctx.workspace.root, params)
    if ctx.dry_run:
        return await asyncio.to_thread(store.plan, ctx, "data.prepare", info, rows)
    ctx.report(Progress("write", total=sum(info.counts.values()), unit="rows"))
    return await asyncio.to_thread(store.write, ctx, "data.prepare", info, rows)


def build(root: Path, params: PrepareParams) -> tuple[DatasetInfo, dict[Split, list[Row]]]:
    """The dataset as it would be stored, writing nothing. ``root`` is where relative paths are looked up second."""
    warnings: list[str] = []
    checks: dict[str, float] = {}
    source = _path(root, params.source)
    name = store.check_name(params.name) if params.name else store.slug(source.stem)
    data, sample = _open(source)
    shape = shapes.find(data, sample, params.text, params.label, params.group)
    items = shapes.items(data, shape, warnings, checks)
    tests = _tests(root, params, shape, warnings, checks)
    task = _task(params, shape, items)
    items = _distinct(items, warnings, checks)
    if tests is not None:
        items = _without(items, tests, warnings, checks)
    splits = _split(items, task, params, test=tests is None)
    if params.group:
        _count_groups(items, checks)
    if tests is not None:
        splits["test"] = [item.row for item in tests]
    _check(source, task, [item.row for item in items], splits, warnings)
    _count_near(splits, warnings, checks)
    info = store.build_info(
        name,
        task,
        prompts.CLASSIFY if task == "classify" else prompts.GENERATE,
        splits,
        source=str(source),
        seed=params.seed,
        warnings=warnings,
        checks=checks,
    )
    return info, splits


def _open(source: Path) -> tuple[table.Table, dict[str, object]]:
    """The table, and its first record, which it still gives."""
    data = table.read(source)
    first = next(data.records, None)
    if first is None:
        return data, {}
    data.records = itertools.chain([first], data.records)
    return data, first[1]


def _path(root: Path, given: str) -> Path:
    path = Path(given).expanduser()
    if not given.strip():
        raise BadInput("source is empty.", hint="Name a CSV or JSONL file: source=FILE.")
    return path.absolute() if path.exists() or path.is_absolute() or not (root / path).exists() else root / path


def _tests(
    root: Path, params: PrepareParams, shape: Shape, warnings: list[str], checks: dict[str, float]
) -> list[Item] | None:
    """The rows of ``test_file``, all of them, so that figures on them compare with others'; None without one."""
    if not params.test_file:
        return None
    data, sample = _open(_path(root, params.test_file))
    if not set(shape.used) <= set(data.columns):
        shape = shapes.find(data, sample, params.text, params.label, params.group)
    noted: list[str] = []
    found = shapes.items(data, shape, noted, checks, "test_")
    warnings += [warning for warning in noted if "not used:" not in warning]
    return found


def _count_near(splits: dict[Split, list[Row]], warnings: list[str], checks: dict[str, float]) -> None:
    tests = splits["test"][:_MOST_NEAR]
    found = near.count_near(
        (chat.asked(row, system=False) for row in tests), (chat.asked(row, system=False) for row in splits["train"])
    )
    checks["near_duplicates_test_train"] = found
    if len(tests) < len(splits["test"]):
        checks["near_duplicates_of"] = len(tests)
    if found:
        warnings.append(
            f"{found} of {len(tests)} test texts share at least {near.NEAR:.0%} of their words with a training text; "
            "the test is easier for it."
        )


def _task(params: PrepareParams, shape: Shape, items: Sequence[Item]) -> Task:
    if shape.kind.startswith("chat"):
        if params.task == "classify":
            raise BadInput(
                "Conversations have free answers; a classifier needs a column of texts and one of labels.",
                hint="Leave out task=, or name the columns: text=COLUMN label=COLUMN.",
            )
        return "generate"
    if params.task != "auto":
        return params.task
    if shape.columns[-1].lower() in shapes.LABEL:
        return "classify"
    if shape.kind == "instruction":
        return "generate"
    labels = {item.row.answer for item in items}
    short = all(len(label) <= 80 and "\n" not in label for label in labels)
    return "classify" if short and len(labels) * 2 <= len(items) and len(labels) <= _MOST_LABELS else "generate"


def _distinct(items: Sequence[Item], warnings: list[str], checks: dict[str, float]) -> list[Item]:
    """Each text once, whatever its case, punctuation and spacing; of several the first."""
    first: dict[str, Item] = {}
    torn: list[Row] = []
    for item in items:
        kept = first.setdefault(near.normalise(chat.asked(item.row)), item)
        if kept.row.answer != item.row.answer:
            torn.append(item.row)
    removed = len(items) - len(first)
    checks["duplicates"], checks["contradictions"] = removed, len(torn)
    if removed:
        warnings.append(f"{removed} duplicate texts (but for case, punctuation and spacing) were left out.")
    if torn:
        warnings.append(
            f"{len(torn)} of them had another answer than the first such text, which was kept, "
            f"e.g. {torn[0].text[:60]!r}."
        )
    return list(first.values())


def _without(items: Sequence[Item], tests: Sequence[Item], warnings: list[str], checks: dict[str, float]) -> list[Item]:
    """``items`` without those whose text, or whose group, occurs in the test file."""
    known = {near.normalise(chat.asked(item.row)) for item in tests}
    groups = {item.group for item in tests if item.group}
    kept = [item for item in items if near.normalise(chat.asked(item.row)) not in known]
    checks["leaks"] = len(items) - len(kept)
    if len(kept) < len(items):
        warnings.append(f"{len(items) - len(kept)} texts of the test file were left out of train and val.")
    apart = [item for item in kept if item.group not in groups]
    if len(apart) < len(kept):
        checks["group_leaks"] = len(kept) - len(apart)
        warnings.append(f"{len(kept) - len(apart)} rows were left out of train and val: the test has their group.")
    return apart


def _split(items: Sequence[Item], task: Task, params: PrepareParams, *, test: bool = True) -> dict[Split, list[Row]]:
    if len(items) < _FEWEST_ROWS:
        raise BadInput(f"{len(items)} usable rows are too few to split: at least {_FEWEST_ROWS} are needed.")
    shares: dict[Split, float] = {"test": params.test, "val": params.val} if test else {"val": params.val}
    rows = [item.row for item in items]
    if params.group:
        groups = [item.group for item in items]
        return split.grouped(rows, groups, shares, params.seed, by_label=task == "classify")
    return split.stratified(rows, shares, params.seed, by_label=task == "classify")


def _count_groups(items: Sequence[Item], checks: dict[str, float]) -> None:
    sizes = Counter(item.group for item in items if item.group)
    checks["groups"] = len(sizes) + sum(not item.group for item in items)
    checks["largest_group"] = max(sizes.values(), default=1)


def _check(source: Path, task: Task, rows: Sequence[Row], splits: dict[Split, list[Row]], warnings: list[str]) -> None:
    if task != "classify":
        return
    counts = Counter(row.answer for row in rows)
    if len(counts) == 1:
        raise BadInput(
            f"{source.name} has one class only, '{next(iter(counts))}'; a classifier needs at least two.",
            hint="Name another column with label=…, or use task=generate.",
        )
    few = sorted(label for label, number in counts.items() if number < _FEW_OF_A_LABEL)
    if few:
        warnings.append(f"{len(few)} labels have fewer than {_FEW_OF_A_LABEL} rows: {listed(few)}.")
    unseen = sorted({row.answer for row in splits["test"]} - {row.answer for row in splits["train"]})
    if unseen:
        warnings.append(f"{len(unseen)} labels occur in the test but not in train: {listed(unseen)}.")
    _check_spelling(source, {row.answer for part in splits.values() for row in part}, warnings)


def _check_spelling(source: Path, labels: set[str], warnings: list[str]) -> None:
    """Labels must differ as the model writes them, as words; that they differ in case alone is worth a word."""
    spelled: dict[str, str] = {}
    folded: dict[str, str] = {}
    for label in sorted(labels):
        words = prompts.label_words(label)
        if (other := spelled.setdefault(words, label)) != label:
            raise BadInput(
                f"{source.name}: the labels '{other}' and '{label}' are the same words.", hint="Write them in one way."
            )
        if (other := folded.setdefault(words.casefold(), label)) != label:
            warnings.append(f"The labels '{other}' and '{label}' differ in case alone.")
