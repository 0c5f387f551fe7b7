"""Ceilings on what a run may cost. Standard library only: a supervisor on any target can use it as it is."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

WARN_SHARE = Decimal("0.8")  # of a ceiling, from where it is told

Verdict = Literal["ok", "warn", "stop"]


def exact(value: object) -> Decimal | None:
    """A number from an event or a setting as it was written: 0.1 is a tenth. None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() else None


def verdict(spent: object, ceiling: object) -> Verdict:
    """Whether ``spent`` may grow: "warn" from 80 % of ``ceiling``, "stop" once it is reached. No ceiling (0): "ok"."""
    used, most = exact(spent), exact(ceiling)
    if used is None or most is None or most <= 0:
        return "ok"
    if used >= most:
        return "stop"
    return "warn" if used >= most * WARN_SHARE else "ok"


def request_stop(run_dir: Path, reason: str) -> None:
    """Ask a run to write a checkpoint and end as "over-budget": ``control/cancel`` then says so and why.

    An earlier request stays: who asked first, a person or a ceiling, is why it ends. Raises OSError.
    """
    control = run_dir / "control"
    text = json.dumps({"phase": "over-budget", "reason": reason}, ensure_ascii=False) + "\n"
    fd, new = tempfile.mkstemp(prefix=".cancel-", dir=control)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        with contextlib.suppress(FileExistsError):
            os.link(new, control / "cancel")  # whole at once, and never over an earlier one
    finally:
        Path(new).unlink()
