"""The dialog that signs in to Google Drive: the page's address, a line to paste the answer into, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Button, Input, Static

from services.context import Context
from services.drive.auth import actions as sign_ins
from services.drive.auth.browser import SignIn
from services.errors import BadInput, HybridError
from services.workspace import Workspace
from widgets.dialogs import Dialog

_HEARD = (
    "If that browser runs on this machine, its answer is heard here. If it ends at an error page, it runs on another:"
    " copy its whole address line and paste it below."
)


class SignInDialog(Dialog[bool]):
    """Ends with True once signed in, with None when closed before; then nothing is left of the attempt.

    Push it from a screen: ``self.app.push_screen(SignInDialog(self.panel.workspace, keys=self.dialog_keys), then)``. A
    read-only panel is refused.
    ``open_page`` opens an address in a browser; by default the system's, where it has one with windows.
    """

    DEFAULT_CSS = """
    SignInDialog > Vertical { width: 104; }
    SignInDialog #sign-in-address { color: $text-accent; margin: 1 0; }
    SignInDialog #sign-in-state { color: $text-muted; margin-top: 1; }
    SignInDialog.-failed #sign-in-state { color: $text-error; }
    SignInDialog.-over #sign-in-answer { display: none; }
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        scope: str = "",
        keys: Sequence[BindingType] = (),
        open_page: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__("Sign in to Google Drive", keys=keys)
        self.workspace = workspace
        self.scope = scope
        self.open_page = open_page or (sign_ins.open_page if sign_ins.has_browser() else None)
        self.sign_in: SignIn | None = None

    def body(self) -> ComposeResult:
        yield Static("Open this page in a browser, on any machine, and agree:")
        yield Static("", id="sign-in-address")
        yield Static(_HEARD, classes="hint")
        yield Input(placeholder="http://127.0.0.1:…/?state=…&code=…", id="sign-in-answer", compact=True)
        yield Static("", id="sign-in-state")

    def buttons(self) -> ComposeResult:
        if self.open_page:
            yield Button("Open browser", id="open", compact=True)
        yield Button("Copy address", id="copy", compact=True)
        yield Button("Close", id="close", compact=True)

    def on_mount(self) -> None:
        self.query_one("#sign-in-answer").focus()
        self.run_worker(self._sign_in(), group="sign in", exit_on_error=False)

    async def _sign_in(self) -> None:
        try:
            panel = Context(self.workspace, read_only=getattr(self.app, "read_only", False))
            panel.will_write("drive.login")
            async with await SignIn.begin(self.workspace, scope=self.scope) as self.sign_in:
                self.query_one("#sign-in-address", Static).update(Content(self.sign_in.address))
                self._say("Waiting for the answer…")
                while not await self._one_answer(self.sign_in):
                    pass
        except HybridError as error:
            self.add_class("-over")
            self._say(f"{error} {error.hint}".strip(), failed=True)
            self.query_one("#close").focus()
            return
        self.dismiss(True)

    async def _one_answer(self, sign_in: SignIn) -> bool:
        """Whether it was good; a code that Google does not take can be given once more."""
        try:
            await sign_in.result()
        except BadInput as error:
            self._say(f"{error} {error.hint}".strip(), failed=True)
            return False
        return True

    @on(Input.Submitted, "#sign-in-answer")
    def _pasted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.sign_in is None or not event.value.strip():
            return
        try:
            self.sign_in.paste(event.value)
        except BadInput as error:
            self._say(f"{error} {error.hint}".strip(), failed=True)
            return
        event.input.clear()
        self._say("Asking Google…")

    @on(Button.Pressed, "#copy")
    def _copy(self) -> None:
        if self.sign_in is not None:
            self.app.copy_to_clipboard(self.sign_in.address)
            self._say("Copied, where the terminal allows it.")

    @on(Button.Pressed, "#open")
    def _open(self) -> None:
        if self.sign_in is not None and self.open_page is not None:
            address, open_page = self.sign_in.address, self.open_page
            self.run_worker(lambda: open_page(address), thread=True, group="open page", exit_on_error=False)

    def _say(self, text: str, *, failed: bool = False) -> None:
        self.set_class(failed, "-failed")
        self.query_one("#sign-in-state", Static).update(Content(text))
