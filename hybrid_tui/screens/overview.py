"""The overview: is the disk within budget, what is deployed and how good, what is running, what is due."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeGuard

from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.content import Content

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from services import formats
from services.context import Progress
from services.errors import HybridError
from widgets.card import Card
from widgets.columns import Cell, columns
from widgets.gauge import GaugeCard, Reading, bar

if TYPE_CHECKING:
    from services.registry.types import Listing, Version
    from services.runs.costs import Costs
    from services.runs.types import RunView
    from services.storage.types import Caches, DiskUsage
    from services.storage.upkeep.types import Glance

RUNS_SECONDS = 2.0
DISK_SECONDS = 30.0
GLANCE_SECONDS = 600.0  # what is due by the day needs no second look before
ROWS = 6  # of any one list; the rest is on its own screen
BAR = 16


class OverviewScreen(PanelScreen):
    """Four boxes, each loaded in the background by itself; one that fails says so and the others stand."""

    NAME = "overview"
    BINDINGS = keymap.bindings("overview")
    HORIZONTAL_BREAKPOINTS = [(0, "-one-column"), (110, "-two-columns")]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._usage: DiskUsage | None = None
        self._caches: Caches | None = None
        self._listing: Listing | None = None
        self._runs: tuple[RunView, ...] = ()
        self._glance: Glance | None = None
        self._glance_at = 0.0
        self._glance_problem = ""
        self._known: set[str] = set()
        self._cost = ""  # the month's, "" while nothing was paid

    def body(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield GaugeCard("Disk", ("Used", "Caches", "Free"), id="disk", loading="Reading the disk…")
            with Container(id="models"):
                yield Card("Deployed", id="deployed", loading="Reading the registry…")
                yield Card("Running", id="running", loading="Reading the runs…")
            yield Card("Due", id="due", loading="Waiting for the others…")

    def first_shown(self) -> None:
        self.action_refresh()
        self.every(RUNS_SECONDS, self._read_runs)
        self.every(DISK_SECONDS, self._read_disk_and_costs)

    def shown(self) -> None:
        if self._known:  # back from another screen, where a version may have been promoted
            self._read_registry()
            self._read_runs()
            self._read_glance()

    def action_refresh(self) -> None:
        """Read everything again."""
        self._read_disk()
        self._read_caches()
        self._read_registry()
        self._read_runs()
        self._read_glance()
        self._read_costs()

    def _read_costs(self) -> None:
        self.load("costs.show", then=self._show_costs, failed=lambda e: self.panel.toast(e))

    def _read_disk_and_costs(self) -> None:
        self._read_disk()
        self._read_costs()

    def _read_disk(self) -> None:
        if self._glance_at and monotonic() - self._glance_at > GLANCE_SECONDS:
            self._read_glance()
        self.load("storage.usage", then=self._show_usage, failed=lambda e: self._show_error("disk", e))

    def _read_caches(self) -> None:
        def partly(progress: Progress) -> None:
            if progress.partial is not None:
                self._show_caches(progress.partial)

        self.load("storage.caches", then=self._show_caches, progress=partly, failed=self._show_caches_error)

    def _read_registry(self) -> None:
        self.load("registry.list", then=self._show_listing, failed=lambda e: self._show_error("deployed", e))

    def _read_runs(self) -> None:
        self.load("train.list", then=lambda found: self._show_runs(found.runs),
                  failed=lambda e: self._show_error("running", e))  # fmt: skip

    def _read_glance(self) -> None:
        self._glance_at = monotonic()
        self.load("upkeep.glance", then=self._show_glance, failed=self._show_glance_error)

    def _show_error(self, box: str, error: HybridError) -> None:
        self.query_one(f"#{box}", Card).error(str(error), error.hint)
        self._know(box)

    def _show_usage(self, usage: DiskUsage) -> None:
        self._usage = usage
        self.query_one("#disk", GaugeCard).read(
            Used=Reading.of_budget(usage.used_bytes, usage.budget_bytes),
            Free=Reading.of_reserve(usage.free_bytes, usage.min_free_bytes),
        )
        self._know("disk")

    def _show_caches(self, caches: Caches) -> None:
        self._caches = caches
        self.query_one("#disk", GaugeCard).read(Caches=Reading.of_budget(caches.total_bytes, caches.budget_bytes))
        if caches.complete:
            self._know("caches")

    def _show_caches_error(self, error: HybridError) -> None:
        self.query_one("#disk", GaugeCard).read(Caches=Reading(None, formats.MISSING, "not readable", over=True))
        self.panel.toast(error)
        self._know("caches")

    def _show_listing(self, listing: Listing) -> None:
        self._listing = listing
        box = self.query_one("#deployed", Card)
        deployed = [v for v in listing.versions if "deployed" in v.aliases]
        if deployed:
            box.show(_deployed(deployed, self.panel.clock()))
        elif listing.versions:
            box.empty("Nothing is deployed.", f"{len(listing.versions)} registered: see 3 Registry.")
        else:
            box.empty("No model is registered yet.", "Train one (4 Training), then register its run (3 Registry).")
        self._know("registry")

    def _show_runs(self, runs: Sequence[RunView]) -> None:
        found = tuple(runs)
        if found == self._runs and "running" in self._known:
            return
        self._runs = found
        self._draw_runs()
        self._know("running")

    def _show_costs(self, costs: Costs) -> None:
        words = _month(costs)
        if words != self._cost:
            self._cost = words
            self._draw_runs()

    def _draw_runs(self) -> None:
        from services.runs.types import FINISHED

        found = self._runs
        box = self.query_one("#running", Card)
        active = [run for run in found if run.phase not in FINISHED]
        if active:
            shown = _running(active)
            box.show(
                Content("\n").join([shown, Content.styled(self._cost, "$foreground-muted")]) if self._cost else shown
            )
        elif found:
            last = f"Last: {_last(found[0], self.panel.clock())}"
            box.empty("Nothing is running.", f"{last}\n{self._cost}" if self._cost else last)
        else:
            box.empty("No run yet.", self._cost or "4 Training starts one.")

    def _show_glance(self, glance: Glance) -> None:
        self._glance, self._glance_problem = glance, ""
        self._know("upkeep")

    def _show_glance_error(self, error: HybridError) -> None:
        self._glance_problem = str(error)
        self._know("upkeep")

    def _know(self, what: str) -> None:
        from hybrid_tui.due import Due, due

        self._known.add(what)
        box = self.query_one("#due", Card)
        found = due(
            self._usage,
            self._caches,
            self._listing,
            self._runs,
            now=self.panel.clock(),
            glance=self._glance,
            warn_days=self.panel.workspace.settings.upkeep.warn_days,
        )
        if self._glance_problem:
            found.append(Due(self._glance_problem, "2 Storage"))
        if found:
            mark = ("▲ ", "bold $text-warning")
            rows = [
                Content.assemble(mark, item.what, (f"  → {item.where}", "$foreground-muted")) for item in found[:ROWS]
            ]
            if len(found) > ROWS:
                rows.append(Content.styled(f"and {len(found) - ROWS} more", "$foreground-muted"))
            box.show(Content("\n").join(rows))
        elif {"disk", "caches", "registry", "running", "upkeep"} <= self._known:
            box.empty("✓ Nothing.")


def _deployed(versions: Sequence[Version], now: float) -> Content:
    rows: list[list[Cell]] = []
    for v in versions[:ROWS]:
        accuracy, f1 = v.metrics.get("accuracy"), v.metrics.get("macro_f1")
        row: list[Cell] = [(v.id, "bold")]
        row += (
            [("accuracy", "$foreground-muted"), formats.percent(accuracy)]
            if _is_number(accuracy)
            else ["not evaluated", ""]
        )
        row += [("F1", "$foreground-muted"), formats.percent(f1)] if _is_number(f1) else ["", ""]
        rows.append([*row, (formats.age(v.deployed_at, now), "$foreground-muted")])
    if len(versions) > ROWS:
        rows.append([(f"and {len(versions) - ROWS} more", "$foreground-muted")])
    return columns(rows)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _running(runs: Sequence[RunView]) -> Content:
    parts: list[Content] = []
    for run in runs[:ROWS]:
        left = f"{formats.duration(run.eta_s)} left" if run.eta_s is not None else "no ETA yet"
        link = "" if run.link == "live" else f" · {run.link}"
        parts.append(
            Content.assemble((run.id, "bold"), f"  {run.phase}{link}", (f"  {run.data} · {left}", "$foreground-muted"))
        )
        steps = formats.count(run.step) + (f" of {formats.count(run.total_steps)}" if run.total_steps else "")
        full, empty = bar(run.step / run.total_steps if run.total_steps else 0.0, BAR)
        loss = ("  loss ", "$foreground-muted"), formats.number(run.metrics.get("loss"))
        parts.append(
            Content.assemble(
                (full, "$primary"), (empty, "$foreground-muted"), ("  step ", "$foreground-muted"), steps, *loss
            )
        )
    if len(runs) > ROWS:
        parts.append(Content.styled(f"and {len(runs) - ROWS} more", "$foreground-muted"))
    return Content("\n").join(parts)


def _month(costs: Costs) -> str:
    """The month's total and the nearest ceiling; "" when nothing was paid."""
    if costs.cost == "free":
        return ""
    over = [c for c in costs.ceilings if c.verdict != "ok"]
    words = f"This month: {costs.cost}"
    for ceiling in over:
        mark = "over" if ceiling.verdict == "stop" else "near"
        words += f" · ▲ {mark} the ceiling of {ceiling.words}"
    return words


def _last(run: RunView, now: float) -> str:
    accuracy = run.results.get("accuracy")
    figure = f", accuracy {formats.percent(accuracy)}" if accuracy is not None else ""
    return f"{run.id} {run.phase} {formats.age(run.ended_at, now)}{figure}"
