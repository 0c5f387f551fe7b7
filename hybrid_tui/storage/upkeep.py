"""The view of the budgets and of the team's recurrent tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from hybrid_tui.storage.view import StorageView
from services import formats
from services.errors import CheckFailed, HybridError
from widgets.line_list import visible
from widgets.status import Section
from widgets.upkeep_list import UpkeepList, UpkeepRow

if TYPE_CHECKING:
    from services.storage.upkeep.types import CheckResult, Finding, Marked, Task, TaskList

HERE = "storage"
PLACES_HERE = {"used": "explore", "free": "clean", "caches": "clean"}  # budget → the view that mends it


class UpkeepView(StorageView):
    """Budgets that are broken or hold, then tasks, the most pressing first; below, what to do about the chosen one."""

    NAME, TITLE, ACTION, LIST = "upkeep", "Upkeep", "upkeep.list", "upkeep-list"

    def __init__(self) -> None:
        super().__init__()
        self._findings: tuple[Finding, ...] = ()
        self._tasks: tuple[Task, ...] = ()
        self._checking = False

    def compose(self) -> ComposeResult:
        with Section("Budgets and upkeep", loading="Reading the tasks…"):
            yield UpkeepList(id="upkeep-list")
            yield Static(classes="view--facts", id="upkeep-facts")
        yield Static(classes="view--state")

    def begin(self) -> None:
        self.reload()

    def again(self) -> None:
        self._read_tasks()

    def reload(self) -> None:
        """Check the budgets and read the tasks again."""
        self._read_tasks()
        self._checking = True
        self.host.load("storage.check", then=self._checked, failed=self._check_failed)

    def _read_tasks(self) -> None:
        self.host.load(self.ACTION, then=self._draw_tasks, failed=self.failed)

    def _draw_tasks(self, found: TaskList) -> None:
        self._tasks = found.tasks
        self._draw(found.problems)

    def _checked(self, result: CheckResult) -> None:
        self._checking = False
        self._findings = result.findings
        self._draw()

    def _check_failed(self, error: HybridError) -> None:
        """A broken budget is an error to a script; here it is what there is to be seen."""
        if isinstance(error, CheckFailed):
            self._checked(error.result)
        else:
            self._checking = False
            self.host.panel.toast(error)

    def _draw(self, problems: tuple[str, ...] = ()) -> None:
        self.query_one(UpkeepList).show(self._findings, self._tasks, self.host.panel.clock())
        self.section.ready()
        self.take_focus()
        broken = sum(finding.level == "broken" for finding in self._findings)
        due = sum(task.state in ("due", "overdue") for task in self._tasks)
        budgets = "… checking the budgets" if self._checking else f"{broken or 'no'} budget{'s' * (broken != 1)} broken"
        tasks = f"{due or 'no'} task{'s' * (due != 1)} due"
        self.tell([budgets, tasks, *problems[:1]], partial=bool(broken or due or problems))
        self.on_line_list_highlighted()

    @property
    def _row(self) -> UpkeepRow | None:
        return self.query_one(UpkeepList).row

    def on_line_list_highlighted(self) -> None:
        """Say what to do about the row under the cursor."""
        row = self._row
        if row is None:
            return
        if row.finding is not None:
            first, second, third = row.finding.check, row.finding.sentence, row.finding.next
        else:
            assert row.task is not None
            task = row.task
            by = f", by {task.by}{f' “{task.note}”' if task.note else ''}" if task.by else ""
            done = f"last done {formats.moment(task.last_done_at)}{by}" if task.last_done_at else "never done"
            first, second = task.title, f"{task.every}, {done}{f'. {task.condition}' if task.condition else ''}"
            third = f"⏎ goes there, m marks it as done{f'. Helps: {task.action}' if task.action else ''}"
        lines = (visible(first), "bold $text"), f"\n{visible(second)}", f"\n{visible(third)}"
        self.query_one("#upkeep-facts", Static).update(Content.assemble(*lines))

    def do_open(self) -> None:
        """Go to the place where the task is done or the budget is mended."""
        row = self._row
        if row is None:
            return
        if row.task is not None and row.task.where != HERE:
            self.host.panel.action_go(row.task.where)
        elif (row.task is not None and row.task.action == "repo.check") or (
            row.finding is not None and row.finding.check.startswith("repo-")
        ):
            self.host.panel.ask_action("repo.check")
        else:
            self.host.action_view(PLACES_HERE.get(row.finding.check, "clean") if row.finding else "clean")

    def opened(self, row: Any) -> None:
        self.do_open()

    def do_done(self) -> None:
        """Mark the task under the cursor as done, now."""
        if self._row is not None and self._row.task is not None:
            self.host.load("upkeep.done", {"task": self._row.task.id}, then=self._marked)
        else:
            self.host.say("Budgets can't be marked; the tasks below can.")

    def take_back(self) -> None:
        """Take back the last mark of the task under the cursor."""
        if self._row is not None and self._row.task is not None:
            self.host.load("upkeep.undo", {"task": self._row.task.id}, then=self._marked)

    def _marked(self, marked: Marked) -> None:
        self.host.say(marked.sentence)
        self._read_tasks()
