"""Errors a person can act on. Each says what is wrong and where; ``hint`` says what to do next.

Exit codes of ``--run``: 0 done, 1 the operation failed, 2 bad usage or bad input,
3 refused (gate, budget, read-only, needs ``--yes``), 4 store unreachable, 130 interrupted.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HybridError(Exception):
    """The operation failed. ``str(error)`` is one sentence, ``hint`` the next step ("" if none)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(HybridError):
    """What the caller gave can't be used: a parameter, a file, a setting."""

    exit_code = 2


class Refused(HybridError):
    """The operation is possible but not allowed now: read-only, a gate, a lost race, a missing yes."""

    exit_code = 3


class CheckFailed(Refused):
    """A check found something broken. ``result`` is the check's whole result, printed as any other."""

    def __init__(self, message: str, result: Any, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result = result


class StoreUnreachable(HybridError):
    """The store (folder, mount or Drive) can't be reached or doesn't answer."""

    exit_code = 4


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A phrase naming the closest known word (", did you mean 'x'?"), or "" when none is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
