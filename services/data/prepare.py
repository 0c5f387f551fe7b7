"""A person's CSV or JSONL file into a dataset: columns, task, duplicates, splits, and what to know about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.data import near, prompts, split, store, table
from services.data.types import DatasetInfo, Row, Split, Task
from services.errors import BadInput, nearest

_TEXT = (
    "text", "query", "question", "utterance", "prompt", "input", "sentence", "message", "instruction", "request",
    "title",
)  # fmt: skip
_LABEL = ("label", "category", "intent", "class", "target", "topic", "tag", "label_text")
_ANSWER = ("answer", "completion", "output", "response", "reply", "solution")
_FEWEST_ROWS = 4
_FEW_OF_A_LABEL = 5
_MOST_LABELS = 1000


class PrepareParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to read and how to split it."""

    source: Annotated[str, Meta(description="CSV (or TSV) with a header line, or JSONL file.")]
    name: Annotated[str, Meta(description="Name of the dataset; empty: made from the file's name.")] = ""
    text: Annotated[str, Meta(description="Column of the texts; empty: found by its name.")] = ""
    label: Annotated[str, Meta(description="Column of the labels or answers; empty: found by its name.")] = ""
    task: Annotated[
        Literal["auto", "classify", "generate"],
        Meta(description="classify: answers are a closed set of labels; generate: free answers; auto: by the data."),
    ] = "auto"
    seed: Annotated[int, Meta(description="Seed of the split.")] = 0
    val: Annotated[float, Meta(gt=0, lt=0.5, description="Share of the rows for validation.")] = 0.1
    test: Annotated[float, Meta(gt=0, lt=0.5, description="Share of the rows for the test.")] = 0.1
    test_file: Annotated[str, Meta(description="A file that is the test split as it stands; test= is not used.")] = ""


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
    data = table.read(source)
    columns = _columns(data, params)
    _unused(data, columns, warnings)
    rows = _rows(data, columns, warnings, checks)
    tests = _test_rows(root, params, columns, warnings, checks)
    task = _task(params, columns[1], rows)
    rows = _distinct(rows, warnings, checks)
    if tests is None:
        splits = _split(rows, task, params)
    else:
        rows = _without(rows, tests, warnings, checks)
        splits = {**_split(rows, task, params, test=False), "test": tests}
    _check(source, task, rows, splits, warnings)
    checks["near_duplicates_test_train"] = near.count_near(
        (row.text for row in splits["test"]), (row.text for row in splits["train"])
    )
    if checks["near_duplicates_test_train"]:
        warnings.append(
            f"{checks['near_duplicates_test_train']:.0f} of {len(splits['test'])} test texts share at least "
            f"{near.NEAR:.0%} of their words with a training text; the test is easier for it."
        )
    prompt = prompts.CLASSIFY if task == "classify" else prompts.GENERATE
    info = store.build_info(
        name, task, prompt, splits, source=str(source), seed=params.seed, warnings=warnings, checks=checks
    )
    return info, splits


def _path(root: Path, given: str) -> Path:
    path = Path(given).expanduser()
    if not given.strip():
        raise BadInput("source is empty.", hint="Name a CSV or JSONL file: source=FILE.")
    return path.absolute() if path.exists() or path.is_absolute() or not (root / path).exists() else root / path


def _columns(data: table.Table, params: PrepareParams) -> tuple[str, str]:
    """The columns of the texts and of the labels. Raises BadInput naming the columns there are."""
    by_name = {column.lower().strip(): column for column in reversed(data.columns)}
    found: list[str] = []
    for parameter, given, known in (("text", params.text, _TEXT), ("label", params.label, (*_LABEL, *_ANSWER))):
        if given:
            if given not in data.columns and given.lower() not in by_name:
                raise BadInput(
                    f"{data.path.name} has no column '{given}'{nearest(given, data.columns) or '.'}",
                    hint=f"Its columns: {_listed(data.columns)}.",
                )
            found.append(given if given in data.columns else by_name[given.lower()])
            continue
        other = {*found, by_name.get(params.label.lower())}
        match = next((by_name[word] for word in known if word in by_name and by_name[word] not in other), None)
        if match is None:
            what = "texts" if parameter == "text" else "labels or answers"
            raise BadInput(
                f"{data.path.name} has no column that is known to hold {what}; its columns: {_listed(data.columns)}.",
                hint="Name them: text=COLUMN label=COLUMN (the first line must be a header).",
            )
        found.append(match)
    if found[0] == found[1]:
        raise BadInput(f"text and label are the same column, '{found[0]}'.", hint=f"Columns: {_listed(data.columns)}.")
    return found[0], found[1]


def _listed(columns: Sequence[str]) -> str:
    plain = [" ".join(column.split()) for column in columns[:12]]
    shown = [column if len(column) <= 40 else column[:39] + "…" for column in plain]
    more = [f"and {len(columns) - 12} more"] if len(columns) > 12 else []
    return ", ".join([*(f"'{column}'" for column in shown), *more])


def _unused(data: table.Table, columns: tuple[str, str], warnings: list[str]) -> None:
    unused = [column for column in data.columns if column not in columns]
    if unused:
        warnings.append(f"Texts are from '{columns[0]}', answers from '{columns[1]}'; not used: {_listed(unused)}.")


def _rows(
    data: table.Table, columns: tuple[str, str], warnings: list[str], checks: dict[str, float], prefix: str = ""
) -> list[Row]:
    """Rows with both values; the others are counted and named by line. Raises BadInput when none is left."""
    rows, missing = [], []
    for line, record in data.records:
        text, answer = record.get(columns[0], "").strip(), record.get(columns[1], "").strip()
        if text and answer:
            rows.append(Row(text, answer))
        else:
            missing.append(line)
    if not data.records:
        raise BadInput(f"{data.path} has a header but no rows.")
    if not rows:
        raise BadInput(
            f"{data.path}: in every row '{columns[0]}' or '{columns[1]}' is empty.", hint="Name others: text=… label=…"
        )
    checks[f"{prefix}missing_values"] = len(missing)
    if missing:
        some = ", ".join(str(line) for line in missing[:5]) + (", …" if len(missing) > 5 else "")
        warnings.append(
            f"{data.path.name}: {len(missing)} of {len(data.records)} rows lack a text or a label and were left out "
            f"(line {some})."
        )
    return rows


def _test_rows(
    root: Path, params: PrepareParams, columns: tuple[str, str], warnings: list[str], checks: dict[str, float]
) -> list[Row] | None:
    """The rows of ``test_file``, all of them, so that figures on them compare with others'; None without one."""
    if not params.test_file:
        return None
    data = table.read(_path(root, params.test_file))
    named = columns if set(columns) <= set(data.columns) else _columns(data, params)
    return _rows(data, named, warnings, checks, "test_")


def _task(params: PrepareParams, column: str, rows: Sequence[Row]) -> Task:
    if params.task != "auto":
        return params.task
    if column.lower() in _LABEL:
        return "classify"
    labels = {row.answer for row in rows}
    short = all(len(label) <= 80 and "\n" not in label for label in labels)
    return "classify" if short and len(labels) * 2 <= len(rows) and len(labels) <= _MOST_LABELS else "generate"


def _distinct(rows: Sequence[Row], warnings: list[str], checks: dict[str, float]) -> list[Row]:
    """Each text once, whatever its case, punctuation and spacing; of several the first."""
    first: dict[str, Row] = {}
    torn: list[Row] = []
    for row in rows:
        kept = first.setdefault(near.normalise(row.text), row)
        if kept.answer != row.answer:
            torn.append(row)
    removed = len(rows) - len(first)
    checks["duplicates"], checks["contradictions"] = removed, len(torn)
    if removed:
        warnings.append(f"{removed} duplicate texts (but for case, punctuation and spacing) were left out.")
    if torn:
        warnings.append(
            f"{len(torn)} of them had another answer than the first such text, which was kept, "
            f"e.g. {torn[0].text[:60]!r}."
        )
    return list(first.values())


def _without(rows: Sequence[Row], tests: Sequence[Row], warnings: list[str], checks: dict[str, float]) -> list[Row]:
    """``rows`` without those whose text occurs in the test file."""
    known = {near.normalise(row.text) for row in tests}
    kept = [row for row in rows if near.normalise(row.text) not in known]
    checks["leaks"] = len(rows) - len(kept)
    if len(kept) < len(rows):
        warnings.append(f"{len(rows) - len(kept)} texts of the test file were left out of train and val.")
    return kept


def _split(rows: Sequence[Row], task: Task, params: PrepareParams, *, test: bool = True) -> dict[Split, list[Row]]:
    if len(rows) < _FEWEST_ROWS:
        raise BadInput(f"{len(rows)} usable rows are too few to split: at least {_FEWEST_ROWS} are needed.")
    shares: dict[Split, float] = {"test": params.test, "val": params.val} if test else {"val": params.val}
    return split.stratified(rows, shares, params.seed, by_label=task == "classify")


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
        warnings.append(f"{len(few)} labels have fewer than {_FEW_OF_A_LABEL} rows: {_listed(few)}.")
    unseen = sorted({row.answer for row in splits["test"]} - {row.answer for row in splits["train"]})
    if unseen:
        warnings.append(f"{len(unseen)} labels occur in the test but not in train: {_listed(unseen)}.")
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
