"""The view of installed packages: environments, their distributions, and what packages for GPUs cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from hybrid_tui.actions import ACTIONS
from hybrid_tui.storage.view import StorageView
from services import formats
from services.context import Progress
from services.errors import HybridError
from widgets.dialogs import Message
from widgets.filter_line import FilterLine
from widgets.line_list import visible
from widgets.package_list import KINDS, PackageList, PackageRow
from widgets.status import Section

if TYPE_CHECKING:
    from services.storage.packages.types import CudaAudit, CudaFinding, Distribution, Environments, Why
    from services.storage.packages.types import PackageList as Packages

GROUP = "packages.environments"
AUDIT = "packages.cuda"


class PackagesView(StorageView):
    """What the CUDA audit says, the environments, and what the one under the cursor is."""

    NAME, TITLE, ACTION, LIST = "packages", "Packages", GROUP, "package-list"
    DEFAULT_CSS = """
    PackagesView #cuda-words { height: auto; max-height: 4; display: none; margin-bottom: 1; }
    PackagesView #cuda-words.-some { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._environments: Environments | None = None
        self._lists: dict[str, Sequence[Distribution]] = {}
        self._audit: CudaAudit | None = None
        self._reading: set[str] = set()  # groups of work

    def compose(self) -> ComposeResult:
        with Section("Packages", loading="Looking for Python environments…"):
            yield Static(id="cuda-words")
            yield PackageList(id="package-list")
            yield Static(classes="view--facts", id="package-facts")
        yield FilterLine()
        yield Static(classes="view--state")

    # Reading

    def begin(self) -> None:
        self.reload()

    def reload(self) -> None:
        """Look for environments, read those that are unfolded, audit them."""
        self._lists = {}
        if self._environments is None:
            self.section.loading_state("Looking for Python environments…")
        self._load(GROUP, GROUP, {}, self._draw_environments, self._draw_environments)
        if AUDIT in ACTIONS:
            self._load(AUDIT, AUDIT, {}, self._draw_audit)
        for path in self.query_one(PackageList).unfolded:
            self._read_list(path)

    def _read_list(self, path: str) -> None:
        group = f"packages.list {path}"
        if path not in self._lists and group not in self._reading:
            draw = partial(self._draw_list, path)
            self._load(group, "packages.list", {"env": path}, draw, draw)

    def _load(self, group: str, action: str, params: dict[str, Any], then: Any, so_far: Any = None) -> None:
        def done(result: Any) -> None:
            self._reading.discard(group)
            then(result)

        def failed(error: HybridError) -> None:
            self._reading.discard(group)
            if group == GROUP:
                self.failed(error)
            else:
                self.host.panel.toast(error)
            self._draw_state()

        def progress(report: Progress) -> None:
            if so_far and group in self._reading and report.partial is not None:
                so_far(report.partial)

        self._reading.add(group)
        self.host.load(action, params, then=done, failed=failed, progress=progress, group=group)
        self._draw_state()

    def halt(self) -> bool:
        ran = bool(self._reading)
        for group in self._reading:
            self.host.workers.cancel_group(self.host, group)
        self._reading.clear()
        if ran and self._environments is None:
            self.section.empty("Stopped before anything was found.", "r looks again.")
        self._draw_state()
        return ran

    def screen_hidden(self) -> None:
        if self._reading:
            self.halt()

    def screen_shown(self) -> None:
        if self._was_open and self.ACTION in ACTIONS and not (self._environments and self._environments.complete):
            self.reload()

    # Drawing

    def _draw_environments(self, found: Environments) -> None:
        self._environments = found
        self.query_one(PackageList).show(found.environments, self._lists)
        if not found.environments:
            if found.complete:
                self.section.empty("There is no Python environment on this box.", "r looks again.")
            return
        was_ready = self.section.state == "ready"
        self.section.ready()
        if not was_ready:
            self.take_focus()
        self._draw_state()
        self._draw_facts()

    def _draw_list(self, path: str, found: Packages) -> None:
        self._lists = self._lists | {path: found.distributions}
        if self._environments:
            self.query_one(PackageList).show(self._environments.environments, self._lists)
        self._draw_state()

    def _draw_audit(self, audit: CudaAudit) -> None:
        self._audit = audit
        words = self.query_one("#cuda-words", Static)
        costs = bool(audit.findings) and not audit.has_gpu
        lines = [f"{'▲ ' if costs and not i else ''}{sentence}" for i, sentence in enumerate(audit.sentences)]
        lines += [
            f"▲ A swap was interrupted in {visible(path)}: packages.restore undoes it." for path in audit.unfinished
        ]
        words.update(Content.styled(" ".join(lines), "$text-warning" if costs else "$foreground-muted"))
        words.set_class(bool(lines), "-some")
        self._draw_state()
        self._draw_facts()

    def _draw_state(self) -> None:
        found = self._environments
        if found is None:
            self.tell(["… looking"] if self._reading else [])
            return
        count = len(found.environments)
        stopped = not self._reading and not found.complete
        parts = ["… measuring" if self._reading else "▲ partial: stopped" if stopped else ""]
        parts.append(f"{formats.size(found.total_bytes)} in {count} environment{'s' * (count != 1)}")
        audit = self._audit
        if audit and audit.total_bytes:
            parts.append(f"for NVIDIA GPUs {formats.size(audit.total_bytes)}")
            if not audit.has_gpu:
                parts.append("s swaps them for the CPU build")
        self.tell(parts, partial=stopped)

    def on_line_list_highlighted(self) -> None:
        """Say what is under the cursor."""
        self._draw_facts()

    def _draw_facts(self) -> None:
        row = self.query_one(PackageList).row
        findings = self._audit.findings if self._audit else ()
        found = next((f for f in findings if row and _is_of(f, row)), None)
        self.query_one("#package-facts", Static).update(facts(row, found) if row else "")

    # Keys

    def do_open(self) -> None:
        """Unfold the environment, or fold it."""
        if path := self.query_one(PackageList).fold():
            self._read_list(path)

    def opened(self, row: Any) -> None:
        self.do_open()

    def do_filter(self) -> None:
        """Type what the names are to contain."""
        self.query_one(FilterLine).open()

    def on_filter_line_filtered(self, event: FilterLine.Filtered) -> None:
        """Show only what fits."""
        self.query_one(PackageList).filter(event.text)

    def on_filter_line_left(self) -> None:
        """Back to the list."""
        self.take_focus()

    def do_who(self) -> None:
        """Who needs the package under the cursor, in a dialog."""
        row = self.query_one(PackageList).row
        if row is None or row.distribution is None:
            self.host.say("Unfold an environment with enter and choose a package; w then shows who needs it.")
        elif "packages.why" not in ACTIONS:
            self.host.say("This installation has no action packages.why.")
        else:
            self.host.load(
                "packages.why", {"name": row.distribution.name, "env": row.environment.path}, then=self._show_why
            )

    def _show_why(self, why: Why) -> None:
        self.app.push_screen(Message(f"{why.name} {why.version}", why_text(why), keys=self.host.dialog_keys))

    def do_swap(self) -> None:
        """Replace the CUDA builds in this environment by the CPU builds; the action shows its plan and asks."""
        row = self.query_one(PackageList).row
        if row is not None:
            self.host.cleaner.swap(row.environment.path)


def _is_of(finding: CudaFinding, row: PackageRow) -> bool:
    one = row.distribution
    return one is not None and (finding.environment, finding.name) == (one.environment, one.name)


def facts(row: PackageRow, finding: CudaFinding | None) -> Content:
    """What the environment or package is; for one for GPUs, what to do with it and why."""
    one, environment = row.distribution, row.environment
    if one is None:
        return Content.assemble(
            (visible(environment.path), "bold $text"),
            f"\n{KINDS[environment.kind]} · Python {environment.python} · ",
            f"{formats.count(environment.distributions)} packages",
            (f"\n▲ {environment.problem}" if environment.problem else "", "$text-warning"),
        )
    asked = "asked for by name" if one.requested else "brought by others" if one.needed_by else "nobody needs it"
    parts: list[Any] = [
        (f"{visible(one.name)} {visible(one.version)}", "bold $text"),
        f" · {asked} · {formats.count(one.files)} files · by {one.installer or 'an unknown installer'}",
        (f" · ▲ {one.problem}" if one.problem else "", "$text-warning"),
        f"\nneeded by {', '.join(map(visible, one.needed_by)) or 'nothing here'}",
    ]
    if finding:
        step = {"swap": f"swap for {finding.replacement}", "remove": "remove", "keep": "keep"}[finding.step]
        parts.append((f"\n▲ {step}: {finding.reason} {finding.breaks}".rstrip(), "$text-warning"))
    elif one.editable:
        parts.append(f"\nits source: {visible(one.editable)}")
    return Content.assemble(*parts)


def why_text(why: Why) -> Content:
    """The tree of who needs a package, and what it alone brings."""
    lines = [Content(why.sentence), Content("")]
    for need in why.needed:
        extra = f" for its extra {need.extra}" if need.extra else ""
        again = " (as above)" if need.again else ""
        name = "  " * need.depth + f"{need.name} {need.version}"
        lines.append(Content.assemble(name, (f"  {need.requirement}{extra}{again}", "$foreground-muted")))
    if why.brought:
        lines += [Content(""), Content.styled(f"Only it brings ({formats.size(why.freed_bytes)} with it):", "bold")]
        lines += [Content(f"{formats.size(b.bytes):>11}  {b.name} {b.version}") for b in why.brought]
    return Content("\n").join(lines)
