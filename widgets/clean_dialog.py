"""The question before a clean-up: exactly what would go, what is held back, and where it would go. Default: No."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from services import formats
from services.storage.reclaim import CleanPlan, Held, PlanLine
from widgets.dialogs import Dialog
from widgets.line_list import visible

MOST_LINES, MOST_HELD = 400, 100
RISK_WORDS = {
    "none": "no risk",
    "low": "low risk",
    "high": "▲ high risk: may exist nowhere else",
}


class CleanDialog(Dialog[str]):
    """Dismisses "trash", "free" (without having asked for the second yes), or None."""

    DEFAULT_CSS = """
    CleanDialog > Vertical { width: 96; }
    CleanDialog #clean-total { margin-top: 1; }
    CleanDialog #clean-lines { margin-top: 1; }
    CleanDialog #clean-held { margin-top: 1; }
    """

    def __init__(self, plan: CleanPlan, *, free_key: str = "f", keys: Sequence[BindingType] = ()) -> None:
        super().__init__("Clean up?", keys=keys)
        self.plan = plan
        self.free_key = free_key

    def body(self) -> ComposeResult:
        yield Static(Content(self.plan.scope))
        yield Static(totals(self.plan), id="clean-total")
        for note in self.plan.notes:
            yield Static(Content(f"▲ {note}"))
        yield Static(plan_lines(self.plan.lines), id="clean-lines")
        if self.plan.held:
            yield Static(held_lines(self.plan.held), id="clean-held")

    def buttons(self) -> ComposeResult:
        yield Button("No", id="close", compact=True)
        if self.plan.lines:
            yield Button(Content(f"Free now… ({self.free_key})"), id="free", compact=True)
            yield Button("To the trash (y)", id="yes", variant="warning", compact=True)

    def on_mount(self) -> None:
        self.query_one("#close").focus()

    def on_key(self, event: events.Key) -> None:
        """The arrow keys scroll the list while a button has the focus."""
        body = self.query_one("#dialog-body", VerticalScroll)
        scroll = {
            "up": body.scroll_up,
            "down": body.scroll_down,
            "pageup": body.scroll_page_up,
            "pagedown": body.scroll_page_down,
            "home": body.scroll_home,
            "end": body.scroll_end,
        }.get(event.key)
        if scroll:
            event.stop()
            scroll(animate=False)

    @on(Button.Pressed, "#yes")
    def action_yes(self) -> None:
        if self.plan.lines:
            self.dismiss("trash")

    @on(Button.Pressed, "#free")
    def action_free(self) -> None:
        """Ask on: free at once."""
        if self.plan.lines:
            self.dismiss("free")


def totals(plan: CleanPlan) -> Content:
    """What it comes to, exactly."""
    if not plan.lines:
        return Content.styled("Nothing would go: all of it is held back.", "bold")
    things = f"{formats.count(len(plan.lines))} {'thing' if len(plan.lines) == 1 else 'things'}"
    return Content.assemble(
        (f"{things}, {formats.count(plan.files)} files, {formats.size(plan.moves_bytes)}.", "bold"),
        " Frees ",
        (formats.size(plan.freed_bytes), "bold"),
        f" ({plan.freed_bytes:,} bytes): with y once the trash is emptied, until then u brings all of it back; "
        "with f at once, for good.",
    )


def plan_lines(lines: Sequence[PlanLine]) -> Content:
    """Each thing with its size, under how it comes back and what is risked."""
    parts: list[Content] = []
    order = {"high": 0, "low": 1, "none": 2}
    shown = sorted(lines[:MOST_LINES], key=lambda line: (order[line.risk], line.restore, -line.freed_bytes))
    for (risk, restore), group in groupby(shown, key=lambda line: (line.risk, line.restore)):
        words = Content.styled(RISK_WORDS[risk], "$text-warning" if risk == "high" else "$foreground-muted")
        parts.append(Content.assemble(words, (f" · {restore}" if restore else "", "$foreground-muted")))
        for line in group:
            less = f"  (frees {formats.size(line.freed_bytes)})" if line.freed_bytes != line.bytes else ""
            parts.append(Content(f"{formats.size(line.bytes):>10}  {title(line)}{less}"))
    rest = lines[MOST_LINES:]
    if rest:
        parts.append(Content(f"{formats.size(sum(r.bytes for r in rest)):>10}  in {formats.count(len(rest))} more"))
    return Content("\n").join(parts)


def title(line: PlanLine) -> str:
    """What a line is called, its kind before it where the title does not say it."""
    kind = line.item.partition(":")[0]
    named = kind == "path" or kind.casefold() in line.title.casefold()
    return visible(line.title if named else f"{kind}: {line.title}")


def held_lines(held: Sequence[Held]) -> Content:
    """What was chosen and is left alone, and why."""

    def lines() -> Iterator[Content]:
        yield Content.styled(f"Left alone: {formats.count(len(held))}", "bold")
        for one in held[:MOST_HELD]:
            yield Content.assemble(visible(one.path), (f"\n    {one.reason}", "$foreground-muted"))
        if len(held) > MOST_HELD:
            yield Content(f"and {formats.count(len(held) - MOST_HELD)} more")

    return Content("\n").join(list(lines()))
