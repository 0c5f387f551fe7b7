"""Read a person's CSV, JSON or Parquet file as records, or say in one sentence what is wrong with it and where.

Records come one after the other: of a CSV, JSONL or Parquet file only a block is in memory besides what the caller
keeps. A JSON array has no lines to stop at, so such a file is held whole, once.
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.data.encoding import check_utf8, missing
from services.errors import BadInput, HybridError

_DELIMITERS = (",", "\t", ";", "|")
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_PARQUET_SUFFIXES = {".parquet", ".pq"}
_SNIFF = 100_000  # letters by which the delimiter is found
_BATCH = 1000  # rows of a Parquet file that are Python objects at a time
_FIRST = 1000  # records of a JSONL file that are looked at for the columns there are
MOST_ARRAY_BYTES = 1_000_000_000

Record = tuple[int, dict[str, Any]]


class Table(msgspec.Struct):
    """``records`` gives (line number, values by column) once; a value is a string, or whatever JSON can hold.

    ``columns`` are in the file's order: those of the first records, and of the others as they come by.
    """

    path: Path
    columns: tuple[str, ...]
    records: Iterator[Record]


def read(path: Path) -> Table:
    """The records of ``path``. Raises BadInput: missing, empty, not UTF-8, and, while they are read, a damaged line
    (with its number)."""
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        return _read_parquet(path)
    check_utf8(path)
    start = _start(path)
    if path.suffix.lower() in _JSON_SUFFIXES or (path.suffix.lower() != ".csv" and start.startswith(("{", "[{"))):
        return _read_array(path) if start.startswith("[") else _read_json_lines(path)
    return _read_csv(path)


def _start(path: Path) -> str:
    """The first letters that are no white space."""
    with path.open(encoding="utf-8-sig") as file:
        while block := file.read(4096):
            if text := block.lstrip():
                return text
    return ""


def _read_csv(path: Path) -> Table:
    records = _csv_records(path, _delimiter(path))
    _, header = next(records, (0, {}))
    columns = tuple(header)
    if not columns:
        raise BadInput(f"{path} is empty.", hint="A CSV with a header line is needed.")
    return Table(path, columns, records)


def _csv_records(path: Path, delimiter: str) -> Iterator[Record]:
    """The header first, as a record whose keys are the columns; then the rows."""
    columns: list[str] = []
    start = 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue
                if not columns:
                    columns = _header(path, cells)
                    yield line, dict.fromkeys(columns, "")
                    continue
                if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                    raise BadInput(
                        f"{path}, line {line} has {len(cells)} fields where the header has {len(columns)}.",
                        hint='A text that holds the delimiter must stand in double quotes: "…".',
                    )
                padded = [*cells, *[""] * (len(columns) - len(cells))]
                yield line, dict(zip(columns, padded, strict=False))
        except csv.Error as error:
            raise BadInput(
                f"{path}, line {start} can't be read as CSV: {error}.",
                hint='Inside quotes, a quote is written twice: "".',
            ) from None


def _header(path: Path, cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    named = [column for column in columns if column]
    double = next((column for column in named if named.count(column) > 1), None)
    if double is not None:
        raise BadInput(f"{path} has two columns called '{double}'.", hint="Rename one in the header line.")
    return [column or f"column {number}" for number, column in enumerate(columns, 1)]


def _delimiter(path: Path) -> str:
    """The delimiter that splits the first records most evenly, the header into the most columns; a comma in doubt."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(_SNIFF).lstrip("\r\n")
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        widths: list[int] = []
        try:
            for cells in csv.reader(io.StringIO(start, newline=""), delimiter=delimiter):
                if cells:
                    widths.append(len(cells))
                if len(widths) == 30:
                    break
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        even = sum(width == widths[0] for width in widths) / len(widths)
        if (even, widths[0]) > best_score:
            best, best_score = delimiter, (even, widths[0])
    return best


def _read_json_lines(path: Path) -> Table:
    table = Table(path, (), iter(()))
    records = _json_lines(path, table)
    first = list(itertools.islice(records, _FIRST))
    table.records = itertools.chain(first, records)
    return table


def _json_lines(path: Path, table: Table) -> Iterator[Record]:
    columns: dict[str, None] = {}
    # Bytes, since only "\n" ends a line: other separators, such as U+2028, may stand inside a JSON string.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, _object(f"{path}, line {number}", line, columns, table)


def _object(where: str, data: bytes | msgspec.Raw, columns: dict[str, None], table: Table) -> dict[str, Any]:
    """One JSON object; columns that are new are added to the table's."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadInput(f"{where} is not JSON: {error}.", hint="One JSON object a line is needed.") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where} is {type(value).__name__}, not a JSON object.")
    if not columns.keys() >= value.keys():
        columns.update(dict.fromkeys(value))
        table.columns = tuple(columns)
    return value


def _read_array(path: Path) -> Table:
    """A JSON array of objects. Its items are kept as bytes of the file and taken apart one by one."""
    if path.stat().st_size > MOST_ARRAY_BYTES:
        raise BadInput(
            f"{path} is one JSON array of more than {MOST_ARRAY_BYTES // 10**9} GB, which would have to be held whole.",
            hint=f"Convert it to one object a line: jq -c '.[]' {path.name} > rows.jsonl",
        )
    try:
        items = msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not JSON: {error}.", hint="A JSON array or one JSON object a line.") from None
    table = Table(path, (), iter(()))
    columns: dict[str, None] = {}

    def records() -> Iterator[Record]:
        for number, item in enumerate(items, 1):
            yield number, _object(f"{path}, item {number}", item, columns, table)

    every = records()
    table.records = itertools.chain(list(itertools.islice(every, _FIRST)), every)
    return table


def _read_parquet(path: Path) -> Table:
    if not path.exists():
        raise missing(path)
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        errors: Any = importlib.import_module("pyarrow").ArrowException
    except ImportError:
        raise HybridError(
            f"{path.name} is a Parquet file, and reading those needs pyarrow, which is not installed.",
            hint="pip install 'hybrid-tui[parquet]', or save the file as CSV or JSONL.",
        ) from None
    try:
        file = parquet.ParquetFile(path)
        columns = tuple(str(name) for name in file.schema_arrow.names)
    except (errors, OSError) as error:
        raise BadInput(f"{path} can't be read as Parquet: {_first_line(error)}.") from None

    def records() -> Iterator[Record]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=_BATCH):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (errors, OSError) as error:
            raise BadInput(f"{path}, row {number + 1} can't be read: {_first_line(error)}.") from None

    return Table(path, columns, records())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["it is damaged"])[0].rstrip(".")


def cell(value: Any) -> str:
    """A value as text; what has parts stays JSON, so that a column of it is seen and can be named in errors."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):  # Parquet knows more types than JSON
        return str(value)
