"""What goes wrong, by rule: which requests, how often, and how."""

from __future__ import annotations

import itertools
import random
import re

import msgspec

from tests.drive_bed.messages import Request, Trouble


class Fault(msgspec.Struct, omit_defaults=True):
    """A rule. A request must match all of the first group; all that the second group says then happens to it.

    Several rules may strike one request and add up; of those with ``status`` only the first does, the others wait.

    Which: ``method``; ``path``, a regular expression searched in "path?query" (the sign-in addresses are matched too);
    ``account``, an e-mail (known only after sign-in, so such a rule is not for the token address); ``after`` so many
    matches are let pass; ``times`` it then happens, 0 for ever; ``probability`` of each, from ``seed``.

    What, in the order of a request's life:

    - ``latency``: seconds before anything is done.
    - ``status`` with ``reason`` and ``retry_after`` (seconds): this error is answered in place of doing it. As JSON in
      Google's words, but 502 and 504 without a ``reason`` as the page of HTML that Google's front end sends, and at the
      sign-in addresses as an OAuth error.
    - ``rate``: bytes a second in both directions.
    - ``drop_request_at``: the connection breaks after this many bytes of the request's body (before anything is done,
      if it has none); a resumable upload keeps what came, in whole 256 KiB.
    - ``commit_at_most``: of the bytes of this chunk only so many are kept, rounded down to 256 KiB.
    - ``corrupt_stored``: the byte at this offset of the chunk is stored wrongly.
    - ``forget_session``: the upload session is gone, 404.
    - ``stale``: a listing as it was so many seconds ago.
    - ``incomplete``: a listing lacks every second match and says incompleteSearch.
    - ``page_at_most``: a listing's page is so short, perhaps empty, though more follow.
    - ``lose_reply``: all is done, then the connection breaks.
    - ``corrupt_at``: this byte of the answer's body is wrong.
    - ``truncate_at``: the answer's body ends there and looks complete.
    - ``drop_response_at``: the connection breaks after so many bytes of the answer's body.
    - ``reset``: connections break by a TCP reset in place of a close.
    """

    method: str = ""
    path: str = ""
    account: str = ""
    after: int = 0
    times: int = 1
    probability: float = 1.0
    seed: int = 0

    latency: float = 0.0
    status: int = 0
    reason: str = ""
    retry_after: float | None = None
    rate: int = 0
    drop_request_at: int | None = None
    commit_at_most: int | None = None
    corrupt_stored: int | None = None
    forget_session: bool = False
    stale: float = 0.0
    incomplete: bool = False
    page_at_most: int | None = None
    lose_reply: bool = False
    corrupt_at: int | None = None
    truncate_at: int | None = None
    drop_response_at: int | None = None
    reset: bool = False


_EFFECTS = (
    "status", "reason", "retry_after", "rate", "drop_request_at", "commit_at_most", "corrupt_stored",
    "forget_session", "stale", "incomplete", "page_at_most", "lose_reply", "corrupt_at", "truncate_at",
    "drop_response_at", "reset",
)  # fmt: skip


class _Rule:
    def __init__(self, id: int, fault: Fault) -> None:
        self.id, self.fault = id, fault
        self.seen = self.hits = 0
        self.path = re.compile(fault.path)
        self.chance = random.Random(fault.seed or id)

    def hit(self, request: Request, target: str, refused: bool) -> bool:
        """It strikes. ``refused``: an earlier rule answers this request already."""
        fault = self.fault
        if fault.times and self.hits >= fault.times:
            return False
        if fault.method and fault.method != request.method:
            return False
        if (fault.account and fault.account != request.account) or not self.path.search(target):
            return False
        if self.chance.random() >= fault.probability:
            return False
        self.seen += 1
        if self.seen <= fault.after:
            return False
        if refused and fault.status:
            return False
        self.hits += 1
        return True


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: dict[int, _Rule] = {}
        self._ids = itertools.count(1)

    def add(self, fault: Fault) -> int:
        """Put a rule in force; returns its number."""
        id = next(self._ids)
        self._rules[id] = _Rule(id, fault)
        return id

    def remove(self, id: int | None = None) -> None:
        """Take a rule away, all of them without ``id``."""
        if id is None:
            self._rules.clear()
        else:
            self._rules.pop(id, None)

    def hits(self) -> dict[int, int]:
        """How often each rule has struck."""
        return {id: rule.hits for id, rule in self._rules.items()}

    def on(self, request: Request) -> Trouble:
        """What shall happen to a request."""
        trouble = Trouble()
        if not self._rules:
            return trouble
        target = f"{request.path}?{request.raw_query}" if request.raw_query else request.path
        nothing = Fault()
        for rule in self._rules.values():
            if not rule.hit(request, target, bool(trouble.status)):
                continue
            trouble.names.append(str(rule.id))
            trouble.latency += rule.fault.latency
            for name in _EFFECTS:
                if (value := getattr(rule.fault, name)) != getattr(nothing, name):
                    setattr(trouble, name, value)
        return trouble
