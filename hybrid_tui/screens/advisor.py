"""The advisor: this machine's facts, and openly what is not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from hybrid_tui import keymap
from hybrid_tui.screens.base import PanelScreen
from services import formats
from widgets.columns import Cell, columns
from widgets.status import Section

if TYPE_CHECKING:
    from services.advisor.machine import Machine

NOT_YET = (
    "Advice is not built yet. This screen will say where a job fits (this machine, Colab, a cluster), how much memory "
    "it takes and what it costs, and check the set-up for what stands in the way."
)


class AdvisorScreen(PanelScreen):
    """Facts now, advice later."""

    NAME = "advisor"
    BINDINGS = keymap.bindings("advisor")

    def body(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Section("This machine", Static(id="machine"), id="machine-box", loading="Looking at this machine…")
            advice = Section("Advice", id="advice")
            advice.empty(NOT_YET)
            yield advice

    def first_shown(self) -> None:
        self.action_refresh()

    def action_refresh(self) -> None:
        """Look at the machine again."""
        self.background(self._look(), group="machine")

    async def _look(self) -> None:
        from services.advisor.machine import look

        self._show(await look())

    def _show(self, machine: Machine) -> None:
        self.query_one("#machine", Static).update(columns(facts(machine)))
        self.query_one("#machine-box", Section).ready()


def facts(machine: Machine) -> list[list[Cell]]:
    """The machine as rows of name and value."""
    memory = f"{formats.size(machine.memory_bytes)}, {formats.size(machine.available_bytes)} available now"
    gpus = [f"{gpu.name}, {formats.size(gpu.memory_bytes)}" for gpu in machine.gpus] or [f"none: {machine.gpu_note}"]
    missing = [name for name, version in machine.model_stack.items() if not version]
    stack = (
        ", ".join(f"{name} {version}" for name, version in machine.model_stack.items() if version) or "not installed"
    )
    rows: list[tuple[str, str]] = [("CPU cores", str(machine.cores)), ("Memory", memory)]
    rows += [("GPU", gpu) for gpu in gpus]
    rows.append(("Model stack", stack))
    if missing:
        rows.append(("Missing", f"{', '.join(missing)}: training and inference need them"))
    return [[(name, "$foreground-muted"), value] for name, value in rows]
