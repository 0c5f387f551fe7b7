"""Read a person's CSV or JSONL file as records, or say in one sentence what is wrong with it and where."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import msgspec

from services.errors import BadInput, nearest

_DELIMITERS = (",", "\t", ";", "|")
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}


class Table(msgspec.Struct, frozen=True):
    """``records`` are (line number, values by column); a missing value is "". ``columns`` are in the file's order."""

    path: Path
    columns: tuple[str, ...]
    records: list[tuple[int, dict[str, str]]]


def read(path: Path) -> Table:
    """The records of ``path``. Raises BadInput: missing, empty, not UTF-8, a damaged line (with its number)."""
    text = _text(path)
    if path.suffix.lower() in _JSON_SUFFIXES or (path.suffix.lower() != ".csv" and text.lstrip().startswith("{")):
        return _read_json_lines(path, text)
    return _read_csv(path, text)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(f"There is no file {path}{nearest(path.name, near) or '.'}") from None
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from None
    if not data.strip():
        raise BadInput(f"{path} is empty.", hint="A CSV with a header line or a JSONL file with rows is needed.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(
            f"{path} is UTF-16, not UTF-8.", hint=f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > utf8.csv"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path} is not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02x}.",
            hint=f"If it is Western European text: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadInput(f"{path} is no text file: line {line} holds a NUL byte.")
    return text


def _read_csv(path: Path, text: str) -> Table:
    text = text.lstrip("\r\n")
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _header(path, cells)
                continue
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                raise BadInput(
                    f"{path}, line {line} has {len(cells)} fields where the header has {len(columns)}.",
                    hint='A text that holds the delimiter must stand in double quotes: "…".',
                )
            padded = [*cells, *[""] * (len(columns) - len(cells))]
            records.append((line, dict(zip(columns, padded, strict=False))))
    except csv.Error as error:
        raise BadInput(
            f"{path}, line {start} can't be read as CSV: {error}.", hint='Inside quotes, a quote is written twice: "".'
        ) from None
    return Table(path, tuple(columns), records)


def _header(path: Path, cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    named = [column for column in columns if column]
    double = next((column for column in named if named.count(column) > 1), None)
    if double is not None:
        raise BadInput(f"{path} has two columns called '{double}'.", hint="Rename one in the header line.")
    return [column or f"column {number}" for number, column in enumerate(columns, 1)]


def _delimiter(text: str) -> str:
    """The delimiter that splits the first records most evenly, the header into the most columns; a comma in doubt."""
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        widths: list[int] = []
        try:
            for cells in csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=delimiter):
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


def _read_json_lines(path: Path, text: str) -> Table:
    if text.lstrip().startswith("["):
        raise BadInput(
            f"{path} is one JSON array; a JSONL file has one object a line.",
            hint=f"Convert it: jq -c '.[]' {path.name} > rows.jsonl",
        )
    records: list[tuple[int, dict[str, str]]] = []
    columns: dict[str, None] = {}
    # Only "\n" ends a line: other separators, such as U+2028, may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = _object(path, number, line)
        columns.update(dict.fromkeys(record))
        records.append((number, {key: _cell(value) for key, value in record.items()}))
    return Table(path, tuple(columns), records)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadInput(
            f"{path}, line {number} is not JSON: {error}.", hint="One JSON object a line is needed."
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}, line {number} is {type(value).__name__}, not a JSON object.")
    return value


def _cell(value: Any) -> str:
    """A JSON value as text; what has parts stays JSON, so that a column of it is seen and can be named in errors."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
