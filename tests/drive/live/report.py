"""The report: what we assume of Google Drive, and what was seen."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from services.errors import HybridError

Verdict = Literal["as assumed", "other", "not seen"]
_MARKS: dict[Verdict, str] = {"as assumed": "✓", "other": "✗", "not seen": "?"}


class Other(Exception):
    """Google Drive does not do what we assume; the words say what it does."""


class NotSeen(Exception):
    """This account, or this line, could not show it; the words say why."""


class Seen(msgspec.Struct, frozen=True):
    """One answer."""

    what: str
    assumed: str
    verdict: Verdict
    observed: str
    seconds: float


class Report:
    """Asks, prints each answer as it comes, and sums up."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def ask(self, what: str, assumed: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Whether it is as assumed. ``work`` returns what was seen, or raises Other or NotSeen."""
        begun = time.monotonic()
        print(f"… {what}", file=sys.stderr, flush=True)
        verdict: Verdict = "as assumed"
        try:
            observed = await work()
        except Other as other:
            verdict, observed = "other", str(other)
        except NotSeen as not_seen:
            verdict, observed = "not seen", str(not_seen)
        except HybridError as error:
            verdict, observed = "other", f"{type(error).__name__}: {error}"
        one = Seen(what, assumed, verdict, observed, time.monotonic() - begun)
        self.seen.append(one)
        print(
            f"{_MARKS[verdict]} {what}  ({one.seconds:.1f} s)\n    assumed   {assumed}\n    observed  {observed}",
            flush=True,
        )
        return verdict == "as assumed"

    def summary(self) -> str:
        """One line; what is other than assumed is for docs/unverified.md and for mending."""
        counts = {verdict: sum(one.verdict == verdict for one in self.seen) for verdict in _MARKS}
        return (
            f"{len(self.seen)} questions: {counts['as assumed']} as assumed, {counts['other']} other than assumed, "
            f"{counts['not seen']} not to be seen here"
        )
