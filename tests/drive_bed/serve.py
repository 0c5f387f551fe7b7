"""The server from outside: started in a process of its own, spoken to over /testbed/. For tests and benchmarks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from services import settings
from tests.drive_bed.faults import Fault
from tests.drive_bed.state import Logged

CLIENT = "12345-hybrid.apps.googleusercontent.com"
CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Held(msgspec.Struct, frozen=True):
    """Something that the server holds. ``path`` is where its bytes lie on this disk, "" for what has none."""

    id: str
    name: str
    mime: str
    parents: tuple[str, ...]
    owner: str
    drive: str
    size: int | None
    path: str
    trashed: bool
    properties: dict[str, str]
    client: str
    modified: float
    root: bool

    def read(self) -> bytes:
        """Its bytes."""
        return Path(self.path).read_bytes()


class StaticTokens:
    """A `services.drive.api.types.Tokens` that asks the test bed for a new access token when one is refused."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._value = ""

    async def token(self, *, refused: str = "") -> str:
        if not self._value or refused == self._value:
            self._value = await asyncio.to_thread(self._account.access_token)
        return self._value


@dataclass(frozen=True)
class Account:
    """An account with a grant for one OAuth client. ``root`` is the id of its My Drive."""

    server: DriveServer
    email: str
    root: str
    refresh_token: str
    client: str
    secret: str
    scope: str

    def access_token(self) -> str:
        """A fresh access token."""
        return str(self.server.call("token", refresh_token=self.refresh_token)["access_token"])

    def client_json(self, path: Path) -> Path:
        """Write the OAuth client as the console gives it, with this server's addresses; returns ``path``."""
        about = {
            "client_id": self.client,
            "client_secret": self.secret,
            "auth_uri": self.server.url + "/o/oauth2/v2/auth",
            "token_uri": self.server.url + "/token",
            "redirect_uris": ["http://localhost"],
        }
        path.write_text(json.dumps({"installed": about}))
        return path

    def put(
        self, name: str, content: bytes | None = None, *, parent: str = "", by: str | None = None, **more: Any
    ) -> str:
        """Place a file (a folder without ``content``) at once; returns its id.

        ``by`` is the OAuth client that made it: this account's by default, "" for one placed by hand.
        """
        if content is not None:
            more["base64"] = base64.b64encode(content).decode()
        client = self.client if by is None else by
        told = self.server.call("put", email=self.email, name=name, parent=parent, client=client, **more)
        return str(told["id"])


class DriveServer:
    """A running server. All methods are synchronous and quick; safe from several threads."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._lock = threading.Lock()
        self._line = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)

    # -- control

    def call(self, name: str, /, **body: Any) -> Any:
        """One /testbed/ call. Raises RuntimeError with what the server says when it refuses."""
        with self._lock:
            try:
                answer = self._ask(name, body)
            except (http.client.HTTPException, ConnectionError):
                self._line.close()
                answer = self._ask(name, body)
        status, text = answer
        if status != 200:
            raise RuntimeError(f"/testbed/{name}: {text.decode(errors='replace')}")
        return json.loads(text)

    def _ask(self, name: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        self._line.request("POST", "/testbed/" + name, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._line.getresponse()
        return answer.status, answer.read()

    def reset(self, folder: Path | None = None) -> None:
        """Forget everything; bytes lie below ``folder`` from now on."""
        self.folder = folder or self.folder
        self.call("reset", folder=str(self.folder))

    def fault(self, **rule: Any) -> int:
        """Put a rule in force (see ``faults.Fault``); returns its number. Raises TypeError for an unknown word."""
        fault = Fault(**rule)
        return int(self.call("fault", **msgspec.to_builtins(fault))["id"])

    def clear(self, rule: int | None = None) -> None:
        """Take one rule away, or all."""
        self.call("clear", **({} if rule is None else {"id": rule}))

    def hits(self, rule: int) -> int:
        """How often a rule has struck."""
        return int(self.call("hits").get(str(rule), 0))

    def wait(self, **until: Any) -> None:
        """Wait for what a client does: ``rule=N`` has struck, ``uploaded=N`` bytes are stored by upload sessions, or
        ``finished=N`` requests ``of="METHOD path?query"`` (a regular expression) are over.

        Raises TimeoutError after ``timeout`` seconds, 10 by default.
        """
        line = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=600)
        with contextlib.closing(line):
            line.request("POST", "/testbed/wait", json.dumps(until), {"Content-Type": "application/json"})
            told = json.loads(line.getresponse().read())
        if not told.get("waited"):
            raise TimeoutError(f"the Drive server did not see {until}: {told}")

    # -- looking

    @property
    def requests(self) -> list[Logged]:
        """Every request so far, in the order in which they ended."""
        return msgspec.convert(self.call("requests"), list[Logged])

    def requests_since(self, count: int) -> list[Logged]:
        """The requests after the first ``count``."""
        return msgspec.convert(self.call("requests", since=count), list[Logged])

    @property
    def files(self) -> list[Held]:
        """All that is stored, without the roots of drives."""
        held = msgspec.convert(self.call("files"), list[Held])
        return [one for one in held if not one.root]

    def named(self, name: str) -> list[Held]:
        """What is stored by this name: Drive allows several."""
        return [one for one in self.files if one.name == name]

    # -- who

    def account(
        self,
        email: str = "ann@example.org",
        *,
        scope: str = "drive.file",
        client: str = CLIENT,
        kind: str = "installed",
        **about: Any,
    ) -> Account:
        """An account with a grant of ``scope`` ("drive.file", "drive", or several with spaces) for ``client``.

        ``about``: ``limit`` (bytes, None for no limit), ``units_per_minute``, ``creates_per_second``, ``name``.
        """
        made = self.call("account", email=email, **about)
        known = self.call("client", id=client, kind=kind)
        grant = self.call("grant", email=email, client=client, scopes=scope.split())
        return Account(self, email, made["root"], grant["refresh_token"], client, known["secret"], scope)

    def service_account(self, email: str = "robot@project.iam.gserviceaccount.com", *, path: Path) -> Path:
        """A service account with a new key; writes its key file and returns the path. Needs cryptography."""
        from tests.drive_bed.authority import new_key

        private, public = new_key()
        self.call("key", email=email, public_key=public)
        about = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": private,
            "client_email": email,
            "client_id": "1",
            "token_uri": self.url + "/token",
        }
        path.write_text(json.dumps(about))
        return path

    def shared_drive(self, name: str, members: Mapping[str, str]) -> str:
        """A shared drive; ``members``: e-mail → organizer, fileOrganizer, writer, reader. Returns its id."""
        return str(self.call("drive", name=name, members=dict(members))["id"])

    def settings(self, account: Account, **more: Any) -> settings.Drive:
        """Settings for our client to work with this account here."""
        return settings.Drive(
            scope="drive" if account.scope == "drive" else "drive.file",
            api=self.url,
            token_url=self.url + "/token",
            **more,
        )

    def tokens(self, account: Account) -> StaticTokens:
        """Access tokens for our client."""
        return StaticTokens(account)

    def close(self) -> None:
        """End the line to the test bed."""
        self._line.close()


@contextlib.contextmanager
def running(folder: Path, *, port: int = 0, prefix: Sequence[str] = ()) -> Iterator[DriveServer]:
    """Start a server in a process of its own and stop it in the end. ``prefix``: a command before it, as taskset."""
    process, server = start(folder, port=port, prefix=prefix)
    try:
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(10)


def start(folder: Path, *, port: int = 0, prefix: Sequence[str] = ()) -> tuple[subprocess.Popen[str], DriveServer]:
    """Start a server in a process of its own; returns once it listens. Raises RuntimeError when it does not."""
    command = [*prefix, sys.executable, "-m", "tests.drive_server", "--port", str(port), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    pipe = subprocess.PIPE  # of stdin as well: its end, when this process is gone however it went, ends the server
    process = subprocess.Popen(
        [*command, "--until-eof"], stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT, env=environment
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(10)
        raise RuntimeError(f"the Drive server did not start: {' '.join(command)}")
    return process, DriveServer(json.loads(line)["url"], folder)
