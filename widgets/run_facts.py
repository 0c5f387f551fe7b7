"""One run in words and figures: where it stands, how fast it goes, what it left, why it ended."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from services import formats
from services.runs.types import FINISHED, RunView
from widgets.run_table import LINKS, PHASES, last_name, progress

Fact = tuple[str, str]
_LABEL_WIDTH = 10


class RunFacts(Static):
    """Labels and values below each other; redrawn only when one of them changed."""

    DEFAULT_CSS = """
    RunFacts { height: auto; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(markup=False, id=id)
        self._shown: list[Fact] | None = None

    def show(self, view: RunView, disk_free_bytes: int | None) -> None:
        """Draw ``view``."""
        found = facts(view, disk_free_bytes)
        if found != self._shown:
            self._shown = found
            lines = [_line(label, value) for label, value in found]
            self.update(Content("\n").join(lines))


def _line(label: str, value: str) -> Content:
    if not label:
        return Content(value)
    return Content.assemble((f"{label:<{_LABEL_WIDTH}}", "dim"), value)


def facts(view: RunView, disk_free_bytes: int | None) -> list[Fact]:
    """What to say of a run, most important first; a label of "" is a sentence of its own."""
    ended = view.phase in FINISHED
    link = "" if ended else "  " + LINKS.get(view.link, view.link)
    found = [("state", PHASES.get(view.phase, view.phase) + link)]
    if ended and view.reason and view.phase != "succeeded":
        found.append(("", f"{view.reason} {view.hint}".strip()))
    if view.note:
        found.append(("now", view.note))
    found.append(("step", progress(view)))
    if not ended:
        found.append(("left", formats.duration(view.eta_s)))
    else:
        found += _results(view)
    found += _training(view)
    if not ended:
        found += _results(view)
        found.append(("memory", formats.size(view.rss_bytes)))
        found.append(("disk free", formats.size(disk_free_bytes)))
    checkpoint = last_name(view.last_checkpoint) if view.last_checkpoint else "none yet"
    found += [("saved", checkpoint), ("attempt", str(view.attempt))]
    if ended and view.started_at and view.ended_at:
        found.append(("took", formats.duration(view.ended_at - view.started_at)))
    found += [("model", last_name(view.model)), ("data", last_name(view.data))]
    found.append(("on disk", formats.size(view.bytes)))
    if view.problems:
        found.append(("", f"▲ {len(view.problems)} damaged: {view.problems[0]}"))
    return found


def _training(view: RunView) -> list[Fact]:
    metrics = view.metrics
    found = [("loss", formats.number(metrics.get("loss")))]
    if metrics.get("val_loss") is not None:
        found.append(("val loss", formats.number(metrics["val_loss"])))
    return [
        *found,
        ("lr", formats.number(metrics.get("lr"), 3)),
        ("speed", formats.rate(metrics.get("tokens_s"), "tokens")),
    ]


def _results(view: RunView) -> list[Fact]:
    results = view.results
    found: list[Fact] = []
    if results.get("accuracy") is not None:
        of = f" of {formats.count(results['rows'])}" if results.get("rows") else ""
        found.append(("accuracy", formats.percent(results["accuracy"]) + of))
    if results.get("macro_f1") is not None:
        found.append(("macro-F1", formats.percent(results["macro_f1"])))
    if results.get("loss") is not None:
        found.append(("test loss", formats.number(results["loss"])))
    return found
