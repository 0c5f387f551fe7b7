"""The queue of transfers: state in a word and a sign, progress, rate, time left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from rich.cells import cell_len
from textual.content import Content

from services import formats
from services.transfers.types import TransferView
from widgets.gauge import EMPTY, bar
from widgets.line_list import Cell, Column, LineList, cut, shortened, visible

STATES = {
    "queued": "◌ queued",
    "running": "▶ running",
    "retrying": "↻ retrying",
    "paused": "◫ paused",
    "done": "✓ done",
    "failed": "✗ failed",
    "cancelled": "■ cancelled",
    "interrupted": "? interrupted",
}
ARROWS = {"push": "↑", "pull": "↓"}
_COLOURS = {"done": "good", "failed": "warn", "interrupted": "warn", "retrying": "warn", "running": ""}
_BAR = 10


class TransferRow(msgspec.Struct, frozen=True):
    """A transfer as a row of the list."""

    key: str
    view: TransferView


class TransferList(LineList[TransferRow]):
    """One line a transfer, in the order of the queue. Names are literal."""

    COLUMNS: ClassVar = (
        Column("state", "State", 13),
        Column("bar", "", _BAR, least=16, rank=1, gap=1),
        Column("share", "", 5, right=True, least=16, rank=1),
        Column("rate", "Rate", 10, right=True, least=14, rank=2),
        Column("left", "Left", 11, right=True, least=20, rank=3),
        Column("size", "Size", 9, right=True, least=24, rank=4),
        Column("tries", "Retries", 7, right=True, least=24, rank=5),
        Column("what", "What", 0),
    )

    def columns(self) -> tuple[Column, ...]:
        views = [row.view for row in self.rows]
        empty = {"rate"} if not any(v.rate is not None for v in views) else set()
        empty |= {"left"} if not any(v.eta_s for v in views) else set()
        empty |= {"tries"} if not any(v.retries for v in views) else set()
        return tuple(column for column in self.COLUMNS if column.name not in empty)

    def show(self, views: Sequence[TransferView]) -> None:
        """Draw these transfers; the cursor stays on its own."""
        self.show_rows([TransferRow(view.id, view) for view in views])

    def cell(self, row: TransferRow, column: str, width: int) -> Cell:
        view = row.view
        match column:
            case "state":
                return Cell(STATES[view.state], _COLOURS.get(view.state, "quiet"))
            case "bar":
                return Cell("".join(bar(share(view), width)) if view.total_bytes else EMPTY * width, "bar")
            case "share":
                return Cell(share_words(view))
            case "size":
                return Cell(formats.size(view.total_bytes) if view.total_files else formats.MISSING)
            case "rate":
                return Cell(f"{formats.size(view.rate)}/s" if view.rate is not None else "", "quiet")
            case "left":
                return Cell(formats.duration(view.eta_s) if view.eta_s else "", "quiet")
            case "tries":
                return Cell(formats.count(view.retries) if view.retries else "", "warn")
        what = f"{ARROWS[view.direction]} {visible(view.label)}"
        mark = " (foreground)"  # where there is room; the facts say it in any case
        if view.foreground and cell_len(what + mark) <= width:
            return Cell(what + mark)
        return Cell(shortened(what, width))


def share(view: TransferView) -> float:
    """How much of it is done, 0 to 1; a finished one is whole."""
    if view.state == "done":
        return 1.0
    return view.done_bytes / view.total_bytes if view.total_bytes else 0.0


def share_words(view: TransferView) -> str:
    """ "45 %", never 100 before it is done."""
    if view.state == "done":
        return "100 %"
    return f"{min(int(100 * share(view)), 99)} %" if view.total_bytes else ""


def transfer_facts(view: TransferView, width: int, lines: int) -> Content:
    """One transfer whole, in at most ``lines`` lines: where from and to, figures, trouble, the files on their way."""
    local, store = visible(view.local), visible(view.store)
    way = f"{local} → {store} in the store" if view.direction == "push" else f"{store} in the store → {local}"
    found = [Content.styled(shortened(f"{view.direction}  {way}", width), "bold")]
    found.append(Content(cut(_figures(view), width)))
    for text, style in _words(view):
        found.append(Content.styled(cut(visible(text), width), style))
    room = lines - len(found)
    for file in view.files[:room]:
        found.append(_file_line(file.path, file.done, file.size, width))
    return Content("\n").join(found[:lines])


def _figures(view: TransferView) -> str:
    if not view.total_files:
        return "all that was missing is there" if view.state == "done" else "nothing was compared yet"
    parts = [
        f"{formats.count(view.done_files)} of {formats.count(view.total_files)} files",
        f"{formats.size(view.done_bytes)} of {formats.size(view.total_bytes)}",
        f"{formats.duration(view.eta_s)} left" if view.eta_s else "",
        f"{formats.size(view.moved_bytes)} over the line",
    ]
    if view.attempt > 1:
        parts.append(f"attempt {view.attempt}")
    if view.retries:
        parts.append(f"{formats.count(view.retries)} retries")
    if view.ended_at and view.started_at:
        parts.append(f"took {formats.duration(view.ended_at - view.started_at)}")
    return " · ".join(part for part in parts if part)


def _words(view: TransferView) -> list[tuple[str, str]]:
    """Sentences about it, each with its colour."""
    bad = "$text-muted" if view.state == "done" else "$text-warning"
    found = [(view.note, "$text-muted"), (view.reason, bad), (view.hint, "$text-muted")]
    if view.trouble:
        found.append((f"last trouble: {view.trouble}", "$text-warning"))
    found += [(problem, "$text-warning") for problem in view.problems]
    return [(text, style) for text, style in found if text]


def _file_line(path: str, done: int, size: int, width: int) -> Content:
    percent = min(int(100 * done / size), 99) if size else 0
    full, empty = bar(done / size if size else 0.0, _BAR)
    tail = f" {percent:>3} % of {formats.size(size):>9}  "
    name = shortened(visible(path), max(width - _BAR - len(tail), 8))
    return Content.assemble((full, "$primary"), (empty, "$foreground-muted"), tail, name)
