"""What is known of a run that executes elsewhere: ``remote.json`` in its folder, written by its target's agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from services import atomic

FILE = "remote.json"


class Remote(msgspec.Struct, frozen=True):
    """``remote.json``: the machine that a run has elsewhere, written by its agent before anything is paid for.

    ``name`` is what the target calls it; ``live`` whether it may exist and cost. ``number`` counts the machines that
    the run has had, and is the number of the supervisor's attempt there. ``data`` is the target's own.
    """

    target: str
    name: str
    live: bool
    number: int = 1
    since: float = 0.0
    machine: str = ""
    data: dict[str, Any] = {}


def read_remote(run_dir: Path) -> Remote | None:
    """The run's machine elsewhere; None when it never had one (or the file is damaged: then nothing is known)."""
    try:
        return msgspec.json.decode((run_dir / FILE).read_bytes(), type=Remote)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_remote(run_dir: Path, remote: Remote) -> None:
    """Keep ``remote`` beside the run's spec, whole or not at all. Raises OSError."""
    atomic.write_bytes(run_dir / FILE, msgspec.json.encode(remote) + b"\n")
