"""What every screen of the panel is made of. How to write one:

    class StorageScreen(PanelScreen):
        NAME = "storage"                               # its section of the key table and its place in the header
        BINDINGS = keymap.bindings("storage")          # add your keys to hybrid_tui/keymap.py, KEYS["storage"]

        def body(self) -> ComposeResult:               # the part between header and footer
            with Section("Caches", id="caches"):       # widgets.status.Section: titled box; starts as "Loading…"
                yield DataTable()

        def first_shown(self) -> None:                 # once: start loading (the screen is already painted)
            self.load("storage.caches", then=self.draw)
            self.every(2.0, self.reload)               # a timer that pauses while the screen is hidden

        def shown(self) -> None: ...                   # each time it comes to the front (also when a dialog closes)
        def hidden(self) -> None: ...                  # each time it goes to the back (also when a dialog opens)
        def action_refresh(self) -> None: ...          # "r" in the key table: Key("refresh", "r", "refresh", …)

- **Run an action in the background**: ``self.load("registry.promote", {"model": "banking", …}, then=…, failed=…,
  progress=…)``. Parameters: a dict, the params struct itself, or nothing. ``then(result)``, ``failed(HybridError)`` and
  ``progress(Progress)`` are called on the loop; progress at most 10 times a second, the last one always. Same ``group``
  (default: the action's name) = the older one is cancelled. A NeedsYes becomes a dialog that defaults to No and shows
  the plan; after a yes the action runs again with ``ctx.yes``. Without ``failed`` a HybridError is a toast.
  ``yes=True`` where the screen has shown the plan in a dialog of its own and got the yes.
  An unexpected exception is a dialog with its cause, never a dead panel (``failed`` is called as well).
- **Any other coroutine**: ``self.background(coroutine, group="stream", failed=…)``, with the same care for errors.
- **The context** to call a service yourself: ``self.panel.context(report)``; the workspace: ``self.panel.workspace``.
- **Toast an error**: ``self.panel.toast(error)`` (HybridError with hint); a note: ``self.notify(text, markup=False)``.
- **A dialog**: ``self.app.push_screen(Message("Title", "text", "next step", keys=self.dialog_keys))``; ask:
  ``self.app.push_screen(Confirm("Delete?", "…", ["12 files, 1.2 GB"], keys=self.dialog_keys), callback)``;
  a form for an action's parameters: ``self.panel.ask_action("train.start", {"data": "banking"}, then=…)``.
- **States** of a Section: ``loading_state()``, ``empty("No runs yet.", "Press n to start one.")``,
  ``error(message, hint)``, ``ready()``. The content is hidden meanwhile.
- Number keys, ``?``, ``:``, ``ctrl+p``, ``q`` are the app's; don't bind them. Widgets that take text swallow them by
  themselves while focused. Text from outside is literal: ``Content(text)`` or ``markup=False``.
- Import nothing heavy at the top of a screen: it is imported when first shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import Worker

from hybrid_tui import actions, keymap
from services.context import NeedsYes, Plan, Progress
from services.errors import HybridError
from widgets.footer import KeyFooter
from widgets.header import PanelHeader

if TYPE_CHECKING:
    from textual.binding import BindingType

    from hybrid_tui.app import HybridApp

AFTER_FIRST_FRAME = 0.03  # seconds
REPORT_SECONDS = 0.1  # live updates are drawn at most this often

Work = Coroutine[Any, Any, Any]
Then = Callable[[Any], None]
Failed = Callable[[HybridError], None]
Report = Callable[[Progress], None]
Ask = Callable[[Plan], Coroutine[Any, Any, bool]]


class PanelScreen(Screen[None]):
    """A screen of the panel: header, ``body()``, footer. See the module's text."""

    NAME: ClassVar[str]
    AUTO_FOCUS = "*"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)
        # A new screen's widgets get the styles in force as they are made: without this Textual reads all of them again.
        self._css_update_count = self.app._css_update_count
        self._was_shown = False
        self._timers_when_shown: list[Timer] = []

    def body(self) -> ComposeResult:
        """The part between header and footer."""
        yield from ()

    def first_shown(self) -> None:
        """Called once, after the first paint: start loading."""

    def shown(self) -> None:
        """Called each time the screen comes to the front."""

    def hidden(self) -> None:
        """Called each time the screen goes to the back."""

    @property
    def panel(self) -> HybridApp:
        """The app."""
        return cast("HybridApp", self.app)

    @property
    def dialog_keys(self) -> list[BindingType]:
        """Keys that dialogs take."""
        return keymap.bindings("dialog")

    def compose(self) -> ComposeResult:
        yield PanelHeader(self.NAME, self.panel.header_facts)
        with Container(id="body", classes=self.NAME):
            yield from self.body()
        yield KeyFooter()

    def on_screen_resume(self, _: events.ScreenResume) -> None:
        for timer in self._timers_when_shown:
            timer.resume()
        if not self._was_shown:
            self._was_shown = True
            # Loading imports services, in threads that would hold up the writing of the first frame.
            self.set_timer(AFTER_FIRST_FRAME, self.first_shown)
        self.shown()

    def on_screen_suspend(self, _: events.ScreenSuspend) -> None:
        for timer in self._timers_when_shown:
            timer.pause()
        self.hidden()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        # A blinking cursor is terminal output twice a second, which a Codespace bills as activity.
        if getattr(event.widget, "cursor_blink", False):
            event.widget.cursor_blink = False  # type: ignore[attr-defined]

    def every(self, seconds: float, callback: Callable[[], Any]) -> Timer:
        """Call ``callback`` every ``seconds`` while the screen is in front."""
        timer = self.set_interval(seconds, callback, pause=not self.is_current)
        self._timers_when_shown.append(timer)
        return timer

    def background(
        self, work: Work | Callable[[], Work], *, group: str, failed: Failed | None = None, exclusive: bool = True
    ) -> Worker[Any]:
        """Run a coroutine (or what makes one) as a worker of ``group``; a HybridError goes to ``failed`` or a toast."""
        guard = partial(guarded, self.panel, work, failed)
        return self.run_worker(guard, group=group, name=group, exclusive=exclusive, exit_on_error=False)

    def load(
        self,
        name: str,
        params: msgspec.Struct | Mapping[str, Any] | None = None,
        *,
        then: Then | None = None,
        failed: Failed | None = None,
        progress: Report | None = None,
        group: str = "",
        yes: bool = False,
    ) -> Worker[Any]:
        """Run the action ``name`` in the background; see the module's text."""
        return self.background(
            partial(perform, self.panel, name, params, then=then, progress=progress, yes=yes),
            group=group or name,
            failed=failed,
        )


async def guarded(panel: HybridApp, work: Work | Callable[[], Work], failed: Failed | None = None) -> None:
    """Await ``work``; an expected error goes to ``failed`` or a toast, any other to a dialog (and to ``failed``)."""
    try:
        await (work() if callable(work) else work)
    except HybridError as error:
        (failed or panel.toast)(error)
    except Exception as error:
        panel.show_crash(error)
        if failed:
            failed(HybridError(f"{type(error).__name__}: {error}", hint="Not foreseen; see .hybrid/panel-errors.log."))


async def perform(
    panel: HybridApp,
    name: str,
    params: msgspec.Struct | Mapping[str, Any] | None = None,
    *,
    then: Then | None = None,
    progress: Report | None = None,
    yes: bool = False,
    ask: Ask | None = None,
) -> None:
    """Run an action and hand its result to ``then``; a NeedsYes is asked in a dialog, or by ``ask``.

    Raises what the action raises.
    """
    action = actions.find(name)
    # The first import of a service takes a while: not on the loop's time.
    try:
        function, kind = await asyncio.to_thread(lambda: (action.function(), action.parameters()))
    except ImportError as error:
        raise HybridError(
            f"{name} can't be loaded: {error}.", hint="The installation is not whole; run the set-up."
        ) from error
    values = params if isinstance(params, msgspec.Struct) else msgspec.convert(dict(params or {}), kind)
    throttle = Throttle(progress) if progress else None
    context = panel.context(throttle or (lambda _: None), yes=yes)
    try:
        result = await function(context, values)
    except NeedsYes as need:
        if not await (ask or panel.confirm)(need.plan):
            return
        result = await function(panel.context(throttle or (lambda _: None), yes=True), values)
    finally:
        if throttle:
            throttle.flush()
    if then:
        then(result)


class Throttle:
    """Passes at most one Progress in 0.1 s on; of those between, the latest follows; ``flush`` passes it at once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = 0.0
        self._waiting: Progress | None = None
        self._handle: asyncio.TimerHandle | None = None

    def __call__(self, progress: Progress) -> None:
        self._waiting = progress
        wait = self._last + REPORT_SECONDS - monotonic()
        if wait <= 0:
            self.flush()
        elif self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(wait, self.flush)

    def flush(self) -> None:
        """Pass on what waits."""
        if self._handle:
            self._handle.cancel()
            self._handle = None
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._last = monotonic()
            self._report(waiting)
