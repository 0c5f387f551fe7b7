"""Signing in with a browser, on this machine or any other: listen for its answer and take a pasted one, at once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import msgspec

from services.drive.auth import endpoints, words
from services.drive.auth.client import OAuthClient, client_path, read_client
from services.drive.auth.listener import Listener, Query, Verdict
from services.drive.auth.tokens import in_thread
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput, HybridError
from services.workspace import Workspace

WAIT_SECONDS = 15 * 60.0
"""How long an answer is waited for, and how long a started sign-in can be ended by a second command."""


class Attempt(msgspec.Struct, frozen=True):
    """What was sent to Google and is needed to take its answer. ``verifier`` proves that who ends it began it."""

    scope: str
    state: str
    verifier: str
    redirect: str
    made: float

    def __repr__(self) -> str:  # never the verifier
        return f"Attempt({self.scope!r})"


class SignIn:
    """One sign-in under way. Use it so, from the command line or a dialog:

        async with await SignIn.begin(workspace) as sign_in:
            show(sign_in.address)          # a person opens it, in any browser
            grant = await sign_in.result() # whichever comes first: the browser's answer, or what was pasted
        # meanwhile, as often as it takes: sign_in.paste(text), which raises BadInput for what can't be used

    ``result`` raises BadInput when Google does not take the code (paste again and call it again), SignInNeeded when the
    person said no or nobody answered, StoreUnreachable. Leaving the block stops listening; nothing is left behind.
    """

    def __init__(self, workspace: Workspace, client: OAuthClient, attempt: Attempt) -> None:
        self.settings = workspace.settings.drive
        self.client = client
        self.attempt = attempt
        self.listener: Listener | None = None
        self.vault = Vault(client.id)
        self._answers: asyncio.Queue[str | HybridError] = asyncio.Queue()

    @classmethod
    async def begin(cls, workspace: Workspace, *, scope: str = "", port: int = 0, listen: bool = True) -> SignIn:
        """Start listening (unless ``listen`` is False) and make the address. Nothing is sent or written.

        ``scope``: "drive.file" or "drive", else the settings'. Raises SignInNeeded (no client), BadInput.
        """
        client = read_client(client_path(workspace))
        where, port = _redirect(client, port)
        attempt = Attempt(
            scope=scope or workspace.settings.drive.scope,
            state=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(64),
            redirect=where or f"http://127.0.0.1:{port or 1024 + secrets.randbelow(60000)}/",
            made=time.time(),
        )
        sign_in = cls(workspace, client, attempt)
        if listen:
            sign_in.listener = Listener(urlsplit(attempt.redirect).path or "/", sign_in._heard)
            await sign_in.listener.open(port)
            if not where:
                redirect = f"http://127.0.0.1:{sign_in.listener.port}/"
                sign_in.attempt = msgspec.structs.replace(attempt, redirect=redirect)
        return sign_in

    @property
    def address(self) -> str:
        """Google's page, for a browser on any machine. Parameters: see the native-app guide of Google's OAuth."""
        digest = hashlib.sha256(self.attempt.verifier.encode()).digest()
        query = {
            "client_id": self.client.id,
            "redirect_uri": self.attempt.redirect,
            "response_type": "code",
            "scope": words.full(self.attempt.scope),
            "state": self.attempt.state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "access_type": "offline",
            "prompt": "consent",  # without it a second sign-in may come without a refresh token
        }
        return f"{self.settings.auth_url}?{urlencode(query)}"

    def paste(self, answer: str) -> None:
        """Take the address that the browser ended at, whole, or the code in it. Raises BadInput for anything else."""
        text = "".join(answer.split()).strip("'\"<>")
        if "code=" in text or "error=" in text or "://" in text:
            query = _query(text)
            if not {"code", "error"} & set(query):
                raise BadInput("That address holds no answer of Google's.", hint=_PASTE)
            if not self._ours(query):
                raise BadInput("That address belongs to another sign-in.", hint=_PASTE)
            self._take(query)
        elif re.fullmatch(r"[\w/.~%+-]{20,2000}", text, re.ASCII):
            self._take({"code": unquote(text)})
        else:
            raise BadInput("That is neither the address nor the code.", hint=_PASTE)

    async def result(self) -> Grant:
        """Wait for the answer, have it turned into a grant, keep that. See the class."""
        left = self.attempt.made + WAIT_SECONDS - time.time()
        try:
            code = await asyncio.wait_for(self._answers.get(), left)
        except TimeoutError:
            raise SignInNeeded("Nobody answered Google's page in 15 minutes.", hint=words.LOGIN) from None
        if isinstance(code, HybridError):
            raise code
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": self.attempt.verifier,
            "redirect_uri": self.attempt.redirect,
        }
        grant = await endpoints.exchange(self.settings, self.client, self.attempt.scope, form)
        if grant in ("invalid_grant", "redirect_uri_mismatch"):  # the latter: a code of another sign-in
            raise BadInput("Google did not take that code: incomplete, used, old or another sign-in's.", hint=_PASTE)
        if isinstance(grant, str):
            raise words.refused(grant, self.settings.token_url)
        await keep(self.vault, grant)
        return grant

    def give_up(self) -> None:
        """Nobody will answer any more: ``result`` raises SignInNeeded."""
        self._answers.put_nowait(SignInNeeded("No answer of Google's was given.", hint=words.LOGIN))

    def close(self) -> None:
        """Stop listening."""
        if self.listener is not None:
            self.listener.close()

    async def __aenter__(self) -> SignIn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ours(self, query: Query) -> bool:
        return hmac.compare_digest(query.get("state", "").encode(), self.attempt.state.encode())

    def _heard(self, query: Query) -> Verdict:
        if not self._ours(query):
            return False, "This answer belongs to another sign-in, so hybrid-tui did not take it.", None
        said = "You said no." if "code" not in query else "Google's answer has arrived."
        return True, f"{said} You can close this page and go back to hybrid-tui.", lambda: self._take(query)

    def _take(self, query: Query) -> None:
        if "code" in query:
            self._answers.put_nowait(query["code"])
        elif query["error"] == "access_denied":
            self._answers.put_nowait(SignInNeeded("Google was told no, so nothing has changed.", hint=words.LOGIN))
        else:
            self._answers.put_nowait(words.refused(words.code_of(query), self.settings.auth_url))


_PASTE = "Copy all of the browser's address line after you agreed (it begins with http://) and paste it here."


def _query(address: str) -> Query:
    try:
        query = urlsplit(address).query or address
    except ValueError:  # no address at all, as "http://["
        return {}
    return {key: values[0] for key, values in parse_qs(query).items()}


async def keep(vault: Vault, grant: Grant) -> None:
    """Write ``grant`` where it belongs, not while another process renews the one before. Raises BadInput."""

    def write() -> None:
        with vault.lock():
            vault.write(grant)

    try:
        await in_thread(write)
    except OSError as error:
        raise BadInput(
            f"The sign-in can't be kept in {vault.folder}: {error.strerror}.", hint="Make room there, or permissions."
        ) from None


def _redirect(client: OAuthClient, port: int) -> tuple[str, int]:
    """The address Google is to send the browser to ("": any port of 127.0.0.1) and the port it needs.

    Desktop clients take every port; a web client only addresses it was registered with, to the letter.
    """
    if client.kind == "installed":
        return "", port
    for address in client.redirects:
        parts = urlsplit(address)
        if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost") and port in (0, parts.port or 80):
            return address, parts.port or 80
    wanted = f"port {port}" if port else "any port"
    raise BadInput(
        f'The OAuth client is of type "Web application" and has no redirect address on 127.0.0.1 with {wanted}.',
        hint="Make one of type Desktop app (it needs none), or register http://127.0.0.1:8765/ with this one.",
    )
