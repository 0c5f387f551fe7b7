"""One run in words and figures: where it stands, how fast it goes, what it left, why it ended."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.widgets import Static

from services import formats
from services.runs.types import FINISHED, RunView
from widgets.run_table import PHASES, cost, last_name, link, progress

Fact = tuple[str, str]
ALARM = "!"  # the label of a sentence that must not be overlooked
_LABEL_WIDTH = 10


@dataclass(frozen=True)
class Device:
    """What the last heartbeat told of the machine: bytes free on its disk; its GPUs' mean load (0 to 1) and memory."""

    disk_free_bytes: int | None = None
    gpus: int = 0
    gpu_load: float | None = None
    gpu_used_bytes: float | None = None
    gpu_total_bytes: float | None = None


class RunFacts(Static):
    """Labels and values below each other; redrawn only when one of them changed."""

    DEFAULT_CSS = """
    RunFacts { height: auto; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(markup=False, id=id)
        self._shown: list[Fact] | None = None

    def show(self, view: RunView, device: Device) -> None:
        """Draw ``view`` and what is known of its machine."""
        found = facts(view, device)
        if found != self._shown:
            self._shown = found
            lines = [_line(label, value) for label, value in found]
            self.update(Content("\n").join(lines))


def _line(label: str, value: str) -> Content:
    if label == ALARM:
        return Content.styled(f"‼ {value}", "bold $error")
    if not label:
        return Content(value)
    return Content.assemble((f"{label:<{_LABEL_WIDTH}}", "dim"), value)


def facts(view: RunView, device: Device) -> list[Fact]:
    """What to say of a run, most important first; a label of "" is a sentence of its own."""
    ended = view.phase in FINISHED
    state = PHASES.get(view.phase, view.phase) + ("" if ended or view.unattached else "  " + link(view))
    found = [("state", state)]
    if view.unattached:
        found.append((ALARM, f"{view.reason} s reattaches, c stops it."))
    elif ended and view.reason and view.phase != "succeeded":
        found.append(("", f"{view.reason} {view.hint}".strip()))
    if view.target != "local":
        found.append(("where", f"{view.target} {view.machine}".strip()))
    if view.wants:
        found.append((ALARM, f"Waits for your consent (a): {view.wants}"))
    if view.note:
        found.append(("now", view.note))
    found.append(("step", progress(view)))
    found += _results(view) if ended else [("left", formats.duration(view.eta_s))]
    found += _training(view)
    if not ended:
        found += [*_results(view), *_device(view, device)]
    found += _cost(view, ended)
    checkpoint = last_name(view.last_checkpoint) if view.last_checkpoint else "none yet"
    found += [("saved", checkpoint), ("attempt", str(view.attempt))]
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
    if metrics.get("val_accuracy") is not None:
        found.append(("val acc.", formats.percent(metrics["val_accuracy"])))
    return [
        *found,
        ("lr", formats.number(metrics.get("lr"), 3)),
        ("speed", formats.rate(metrics.get("tokens_s"), "tokens")),
    ]


def _device(view: RunView, device: Device) -> list[Fact]:
    found = [("memory", formats.size(view.rss_bytes))]
    if device.gpus:
        many = f" of {device.gpus}" if device.gpus > 1 else ""
        used, total = formats.size(device.gpu_used_bytes), formats.size(device.gpu_total_bytes)
        if used[-3:] == total[-3:]:
            used = used[:-3]  # "9.1 of 15.8 GB"
        found.append(("GPU" if not many else "GPUs", f"{formats.percent(device.gpu_load, 0)}{many}, {used} of {total}"))
    return [*found, ("disk free", formats.size(device.disk_free_bytes))]


def _cost(view: RunView, ended: bool) -> list[Fact]:
    spent = view.cost
    until = view.ended_at if ended else view.last_event_at
    attempt = until - view.started_at if until and view.started_at else 0.0
    took = max(spent.seconds, attempt)  # the total is told once a minute
    found = [("took" if ended else "so far", formats.duration(took))] if took else []
    text = cost(view)
    if spent.rate:
        unit = "units" if spent.units is not None else spent.currency
        rate = f"{formats.number(spent.rate, 3)}/h"
        text = f"{text}, {rate}" if text else rate.replace("/h", f" {unit}/h")
    if text and spent.source == "settings":
        text += f" (table of {spent.dated})" if spent.dated else " (by the table)"
    if text:
        found.append(("cost", text))
    if spent.balance is not None:
        found.append(("balance", f"{formats.number(spent.balance, 4)} units"))
    return found


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
