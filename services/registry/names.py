"""Names of models and aliases: plain enough to be a folder on every system and a word on every command line."""

from __future__ import annotations

import getpass
import os
import re
import socket

LATEST = "latest"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NUMBER = re.compile(r"v?([0-9]{1,9})")
_RESERVED = frozenset({"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)})


def check_model(name: str) -> None:
    """Raises ValueError with a sentence when ``name`` can't be a model's name."""
    if not _MODEL.fullmatch(name) or ".." in name or name.endswith(".") or name.split(".")[0].lower() in _RESERVED:
        raise ValueError(
            f"{_shown(name)} can't be a model's name: use 1 to 64 letters, digits, '-', '_' and single dots, "
            "starting with a letter or digit and not a name that Windows reserves"
        )


def check_alias(name: str) -> None:
    """Raises ValueError with a sentence when ``name`` can't be a movable alias."""
    if name == LATEST:
        raise ValueError(f"{LATEST!r} always points to the highest version and can't be moved")
    if not _ALIAS.fullmatch(name) or number(name) is not None:
        raise ValueError(
            f"{_shown(name)} can't be an alias: use 1 to 32 small letters, digits, '-' and '_', starting with a letter "
            "and not looking like a version number"
        )


def number(text: str) -> int | None:
    """A version's number from "2" or "v2"; None when the text is not one."""
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else None


def who() -> str:
    """Who writes, for people: "user@host/pid", printable and at most 100 characters."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry for this user id, as in some containers
        user = f"uid{os.getuid()}"
    text = f"{user}@{socket.gethostname()}"
    return "".join(c if c.isprintable() else "?" for c in text)[:90] + f"/{os.getpid()}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "…")
