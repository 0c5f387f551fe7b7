"""How an explored folder is looked at: order, filter, hidden names; its rows and its state in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from services import formats
from services.storage.types import Explored, FileTypes, Largest, Row
from widgets.line_list import visible
from widgets.size_list import SizeRow

ORDERS = {"size": "size", "count": "number of files", "age": "last use", "name": "name"}


class Look(msgspec.Struct, frozen=True):
    """``order`` is one of ORDERS; ``text`` must be in a name; ``hidden`` names begin with a dot."""

    order: str = "size"
    text: str = ""
    hidden: bool = True

    def takes(self, name: str) -> bool:
        """Whether a thing of this name is shown."""
        if not self.hidden and any(part.startswith(".") for part in name.split("/")):
            return False
        return self.text.casefold() in name.casefold()

    def key(self) -> Callable[[Any], Any]:
        """What to sort rows by: the largest, fullest, longest unused, or first by name on top."""
        if self.order == "name":
            return lambda row: row.name.casefold()
        if self.order == "age":
            return lambda row: (row.last_used is None, row.last_used or 0.0)
        return (lambda row: -(row.files or 0)) if self.order == "count" else (lambda row: -row.bytes)


def rows_of(read: Explored | Largest | FileTypes, look: Look) -> list[SizeRow]:
    """The rows to draw; of folders the rest last, and only when nothing is filtered."""
    if isinstance(read, FileTypes):
        return _type_rows(read, look)
    taken = [row for row in read.rows if row.kind != "rest" and look.takes(row.name)]
    rest = [row for row in read.rows if row.kind == "rest" and row.bytes and not look.text]
    return [_row(row) for row in sorted(taken, key=look.key())] + ([_row(row) for row in rest] if taken else [])


def _row(row: Row) -> SizeRow:
    name = "(the rest)" if row.kind == "rest" else row.name
    return SizeRow(
        key=row.path if row.kind != "rest" else "",
        name=name + "/" * (row.kind == "folder"),
        bytes=row.bytes,
        share=row.share,
        files=row.files,
        last_used=row.last_used,
        quiet=row.kind != "folder",
        can_mark=row.kind != "rest",
    )


def _type_rows(read: FileTypes, look: Look) -> list[SizeRow]:
    named = [row for row in read.rows if look.text.casefold() in row.type.casefold()]
    names = {"none": "(no ending)", "other": "(other endings)"}
    rows = [SizeRow(row.type, names.get(row.type, row.type), row.bytes, row.share, row.files) for row in named]
    return rows if look.order == "size" else sorted(rows, key=look.key())


def state_words(
    read: Explored | Largest | FileTypes | None,
    reading: bool,
    look: Look,
    now: float,
    kept: tuple[Explored, float] | None,
) -> list[str]:
    """How far the scan is and what it found, part by part."""
    if read is None:
        return ["… scanning" if reading else "▲ nothing scanned"]
    parts = ["… scanning" if reading else "✓ complete" if read.complete else "▲ partial: stopped"]
    parts.append(formats.size(read.total_bytes))
    files = getattr(read, "files", None)
    if files is not None:
        parts.append(f"{formats.count(files)} files")
    unreadable = getattr(read, "unreadable_count", None)
    if unreadable is not None:
        parts.append(f"{formats.count(unreadable)} unreadable")
    if down_to := getattr(read, "down_to_bytes", 0):
        parts.append(f"all above {formats.size(down_to)}")
    if mounts := getattr(read, "other_mounts", ()):
        parts.append(f"{len(mounts)} other disks left out")
    if not look.hidden:
        parts.append("hidden names left out")
    at = kept[1] if kept and kept[0] is read else now - read.age
    if not reading and now - at >= 10:
        parts.append(f"read {formats.age(at, now)}")
    if first := getattr(read, "unreadable", ()):
        parts.append(f"first unreadable: {visible(first[0])}")
    return parts
