"""A result as a person reads it: scalars as a list, lists of structs as tables, formatted by the field's name."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services import formats

_SHARES = ("accuracy", "macro_f1", "share")
_DIGESTS = {"sha256", "digest", "data_sha256"}
_PLAIN_INTEGERS = {"version", "seed", "pid", "seq"}
_TOO_LONG_FOR_A_CELL = {"restore", "title"}  # sentences; ``--json`` and the panel have them
_CELL = 100  # letters of several values together, beyond which they are counted
_ONE_EACH = {"steps", "problems", "sentences", "warnings"}  # however many: one a line


def renderable(result: Any) -> RenderableType:
    """Rich output for a frozen struct (or a tuple of them). Text from outside is never read as markup."""
    if isinstance(result, (tuple, list)):
        return _table("", result)
    scalars = Table.grid(padding=(0, 2))
    scalars.add_column(style="bold", no_wrap=True)
    scalars.add_column(overflow="fold")
    tables: list[RenderableType] = []
    for f in msgspec.structs.fields(result):
        value = getattr(result, f.name)
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], msgspec.Struct):
            tables.append(_table(_words(f.name), value))
        elif isinstance(value, msgspec.Struct):
            tables.append(Group(Text(_words(f.name), style="bold"), renderable(value)))
        elif value not in ((), {}, "", None):
            scalars.add_row(Text(_words(f.name)), Text(cell(f.name, value)))
    return Group(scalars, *tables)


def _table(title: str, rows: Any) -> RenderableType:
    if not rows:
        return Text("nothing")
    every = [f.name for f in msgspec.structs.fields(rows[0])]
    named = {"id", "name", "kind", "item"} & set(every)  # a title stays where rows have no other name
    fields = [name for name in every if name not in _TOO_LONG_FOR_A_CELL or (name == "title" and not named)]
    names = [name for name in fields if any(_present(getattr(r, name)) for r in rows)]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        numeric = any(
            isinstance(getattr(r, name), (int, float)) and not isinstance(getattr(r, name), bool) for r in rows
        )
        table.add_column(_words(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_brief(name, getattr(row, name))) for name in names))
    return table


def _brief(name: str, value: Any) -> str:
    """A value in a table's cell: long lists are counted, digests shortened; ``--json`` and ``show`` have all of it."""
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], msgspec.Struct):
        return _counted(name, value)
    if isinstance(value, (tuple, list, dict)) and len(value) > 3:
        return _counted(name, value)
    if isinstance(value, (tuple, list)):
        text = ", ".join(cell(name, v) for v in value)
        return text if len(value) == 1 or len(text) <= _CELL else _counted(name, value)
    if name in _DIGESTS:
        return str(value)[:12]
    return " ".join(cell(name, value).split("\n"))


def _counted(name: str, value: Any) -> str:
    words = _words(name)
    return f"{len(value)} {words.removesuffix('s') if len(value) == 1 else words}"


def _present(value: Any) -> bool:
    return value not in ((), {}, "", None)


def _words(name: str) -> str:
    name = name.replace("tokens_s", "speed")
    for suffix in ("_bytes", "_at", "_s"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def cell(name: str, value: Any) -> str:
    """One value as text; the field's name says its unit (``…_bytes``, ``…_at``, ``…_s``, ``tokens_s``)."""
    if value is None:
        return formats.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(name, value)
    if isinstance(value, dict):
        separator = "\n" if any(isinstance(v, dict) for v in value.values()) else ", "
        return separator.join(f"{k} {cell(str(k), v)}" for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return ("\n" if len(value) <= 8 or name in _ONE_EACH else ", ").join(cell(name, v) for v in value)
    return str(value)


def _number(name: str, value: int | float) -> str:
    if name == "bytes" or name.endswith("_bytes"):
        return formats.size(value)
    if name.endswith("tokens_s"):
        return formats.rate(value, "tokens")
    if name == "seconds" or name.endswith(("_s", "_seconds")):
        return formats.duration(value)
    if name == "at" or name.endswith(("_at", "last_used")):
        return formats.moment(value)
    if name.endswith(_SHARES):
        return formats.percent(value)
    if name in _PLAIN_INTEGERS:
        return str(value)
    return formats.count(value) if isinstance(value, int) else formats.number(value)
