"""All that a server knows, and the rules every call shares: who asks, what is visible, what counts."""

from __future__ import annotations

import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from tests.drive_bed.accounts import Account, Accounts, Client
from tests.drive_bed.blobs import Blobs
from tests.drive_bed.errors import ApiError, not_found
from tests.drive_bed.faults import Faults
from tests.drive_bed.items import FOLDER, Item, Items, new_root_id
from tests.drive_bed.messages import Request
from tests.drive_bed.resources import View

UNITS = {"get": 5, "list": 100, "edit": 50, "download": 200}


class Logged(msgspec.Struct, frozen=True):
    """One request as it went: ``bytes_in`` and ``bytes_out`` of bodies, ``units`` of quota, ``faults`` that struck.

    ``status`` is 0 when the connection broke before there was an answer.
    """

    n: int
    at: float
    method: str
    path: str
    query: str
    status: int
    bytes_in: int
    bytes_out: int
    units: int
    account: str
    faults: tuple[str, ...]


class State:
    """A server's memory; file contents are below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts = Accounts()
        self.blobs = Blobs(folder / "blobs")
        self.items = Items(self.blobs)
        self.faults = Faults()
        self.log: list[Logged] = []
        self.pages: dict[str, list[str]] = {}
        self.sessions: dict[str, Any] = {}  # upload sessions, see uploads.py
        self.codes: dict[str, Any] = {}  # OAuth's codes, see oauth.py
        self.deny: set[str] = set()  # OAuth clients whose next consent is denied
        self.withheld: set[str] = set()  # scopes whose box a person leaves unticked on the consent page
        self.device_interval = 5.0  # seconds between a device's questions
        self._spent: dict[str, deque[tuple[float, int]]] = {}

    def wipe(self) -> None:
        """Delete the stored bytes."""
        shutil.rmtree(self.folder / "blobs", ignore_errors=True)

    # -- making things from outside

    def account(self, email: str, name: str = "", limit: int | None = 15 * 2**30, service: bool = False) -> Account:
        """The account with this address, made if it is not there."""
        if (known := self.accounts.by_email.get(email)) is not None:
            return known
        account = Account(email, name or email.partition("@")[0].title(), new_root_id(), limit, service)
        self.accounts.by_email[email] = account
        self.items.add(Item(account.root, "My Drive", FOLDER, [], owner=email, root=True))
        return account

    def client(self, id: str, secret: str = "", kind: str = "installed") -> Client:
        """The OAuth client with this id, made if it is not there."""
        return self.accounts.clients.setdefault(id, Client(id, secret or "GOCSPX-" + id[:8], kind))

    # -- what every call needs

    def view(self, request: Request) -> View:
        """How the request's account sees things; notes who asks. Raises ApiError 401."""
        token = self.accounts.of(request.headers.get("authorization", ""))
        request.account, request.client = token.grant.account.email, token.grant.client
        return View(self.items, self.accounts.by_email, token)

    def spend(self, request: Request, kind: str, account: Account) -> None:
        """Count quota units. Raises ApiError 403 when the account's limits, if it has any, are used up."""
        request.units += UNITS[kind]
        if not account.units_per_minute:
            return
        spent = self._spent.setdefault(account.email, deque())
        now = time.monotonic()
        while spent and spent[0][0] < now - 60:
            spent.popleft()
        if sum(units for _, units in spent) + UNITS[kind] > account.units_per_minute:
            raise ApiError(403, "userRateLimitExceeded")
        spent.append((now, UNITS[kind]))

    def creating(self, account: Account) -> None:
        """Hold the account to its sustained rate of creates, if it has one. Raises ApiError 403."""
        if not account.creates_per_second:
            return
        made = self._spent.setdefault(account.email + " creates", deque())
        now = time.monotonic()
        while made and made[0][0] < now - 10:
            made.popleft()
        if len(made) >= account.creates_per_second * 10:
            raise ApiError(403, "rateLimitExceeded", "Rate limit exceeded. Too many creates.")
        made.append((now, 1))

    def visible(self, view: View, item: Item, all_drives: bool) -> bool:
        """The account, through this client, can see this item."""
        grant = view.token.grant
        if item.drive:
            drive = self.items.drives.get(item.drive)
            if drive is None or view.me not in drive.members or not all_drives:
                return False
        elif item.owner != view.me:
            return False
        return view.token.see_all() or item.app == grant.client or grant.client in item.opened_by

    def item(self, view: View, id: str, all_drives: bool) -> Item:
        """The item with this id ("root" is My Drive). Raises ApiError 404 when it is not there or can't be seen."""
        real = view.token.grant.account.root if id == "root" else id
        item = self.items.by_id.get(real)
        if item is None or not self.visible(view, item, all_drives):
            raise not_found("." if id == "root" else id)
        return item

    def parent(self, view: View, id: str, all_drives: bool) -> Item:
        """A folder to put something in. A client that sees only its own may still use My Drive's root."""
        account = view.token.grant.account
        if id in ("root", account.root):
            return self.items.by_id[account.root]
        item = self.item(view, id, all_drives)
        if not item.folder:
            raise ApiError(403, "parentNotAFolder", "The specified parent is not a folder.")
        return item

    def room(self, account: Account, drive: str, size: int, *, instead: int = 0) -> None:
        """Raise ApiError 403 when ``size`` more bytes don't fit, ``instead`` of those there."""
        if drive or account.limit is None:
            return
        if self.items.usage.get(account.email, 0) - instead + size > account.limit and size:
            message = "Service Accounts do not have storage quota. Leverage shared drives instead."
            raise ApiError(403, "storageQuotaExceeded", message if account.service else "")


def flag(request: Request, *names: str) -> bool:
    """One of these boolean parameters is true."""
    return any(request.query.get(name, "").lower() == "true" for name in names)


def all_drives(request: Request) -> bool:
    """The client says that it knows about shared drives."""
    return flag(request, "supportsAllDrives", "supportsTeamDrives")


def whole(request: Request, name: str, usual: int, least: int, most: int) -> int:
    """A whole number among the parameters. Raises ApiError 400."""
    text = request.query.get(name)
    if text is None:
        return usual
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ApiError(
            400, "invalidParameter",
            f"Invalid value '{text}'. Values must be within the range: [{least}, {most}]", location=name,
        )  # fmt: skip
    return value
