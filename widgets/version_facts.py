"""A version in words, beside the deployed one; and the registry's history. Functions from data to text."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from services import formats
from services.registry.figures import difference, figure, label, ordered
from services.registry.types import HistoryEntry, Version
from widgets.columns import Cell, columns
from widgets.version_table import STATUS


def version_facts(version: Version, deployed: Version | None, now: float, *, whole: bool = False) -> Content:
    """What is known about ``version``, its figures against the ``deployed`` one. ``whole`` shortens nothing."""
    rows: list[list[Cell]] = [_row("status", STATUS.get(version.status, version.status))]
    if version.aliases:
        rows.append(_row("aliases", ", ".join(version.aliases)))
    other = deployed if deployed is not None and deployed.id != version.id else None
    shown = ordered(version.metrics)
    for name in shown if whole else shown[:6]:
        value = version.metrics[name]
        against = difference(name, value, other.metrics.get(name)) if other else ""
        told = f"  {against} vs {other.id}" if against and other else ""
        rows.append(_row(label(name), Content.assemble(figure(name, value), (told, "dim"))))
    if not shown:
        rows.append(_row("figures", "none recorded"))
    rows.append(_row("base", version.base_model or "not stated"))
    if version.training_date:
        rows.append(_row("trained", version.training_date))
    rows.append(_row("size", f"{formats.size(version.size_bytes)} in {formats.count(version.files)} files"))
    if version.deployed_at is not None:
        word = "deployed" if version.status == "deployed" else "last deployed"
        rows.append(_row(word, f"{formats.moment(version.deployed_at)} ({formats.age(version.deployed_at, now)})"))
    rows.append(_row("added", f"{formats.moment(version.added_at)} by {version.by or 'unknown'}"))
    if version.note:
        rows.append(_row("note", version.note))
    rows.append(_row("digest", version.digest if whole else f"{version.digest[:16]}…"))
    if whole:
        rows += [_row("type", version.type), _row("record", version.record)]
    rows.append(_row("folder", version.path))
    return columns(rows)


def _row(name: str, value: Cell) -> list[Cell]:
    return [(name, "dim"), value]


def history_lines(entries: Sequence[HistoryEntry]) -> Content:
    """Records in words, a paragraph each, as given (newest first)."""
    lines: list[Content] = []
    for entry in entries:
        note = f" “{entry.note}”" if entry.note else ""
        when, who = (f"{formats.moment(entry.at)}  ", "dim"), (f"  {entry.who}", "dim")
        lines.append(Content.assemble(when, entry.what, note, who))
        if not entry.accepted:
            lines.append(Content.styled(f"  ✗ without effect: {entry.why}", "$text-warning"))
    return Content("\n").join(lines)
