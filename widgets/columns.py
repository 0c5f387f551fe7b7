"""Rows of short texts in aligned columns, as one piece of text: cheaper than a table where nothing is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

Cell = str | Content | tuple[str, str]  # plain text, content, or (text, style)


def columns(rows: Sequence[Sequence[Cell]], *, right: frozenset[int] = frozenset(), gap: int = 2) -> Content:
    """Align ``rows``; the columns numbered in ``right`` to the right, all others to the left. Text is literal."""
    table = [[_content(cell) for cell in row] for row in rows]
    count = max((len(row) for row in table), default=0)
    widths = [max((row[i].cell_length for row in table if i < len(row)), default=0) for i in range(count)]
    lines: list[Content] = []
    for row in table:
        parts: list[Content | str] = []
        for i, cell in enumerate(row):
            pad = " " * (widths[i] - cell.cell_length)
            last = i == len(row) - 1
            parts += [pad, cell] if i in right else [cell, "" if last else pad]
            if not last:
                parts.append(" " * gap)
        lines.append(Content.assemble(*parts))
    return Content("\n").join(lines)


def _content(cell: Cell) -> Content:
    if isinstance(cell, Content):
        return cell
    if isinstance(cell, tuple):
        return Content.styled(cell[0], cell[1])
    return Content(cell)
