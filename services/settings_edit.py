"""Changing one value of hybrid.toml and nothing else: comments, order and line ends stay as the person wrote them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from services import atomic
from services.errors import HybridError

_SECTION = re.compile(r"^\s*\[([^\[\]]+)\]\s*(#.*)?$")


def put(path: Path, section: str, key: str, value: str) -> bool:
    """Set ``[section] key = "value"`` in the file (made when absent). False when it stands there already.

    Raises HybridError, with the line to write by hand as hint, when the file can't be read or written or is written in
    a way that can't be changed without touching more.
    """
    hint = f"Write it by hand: {key} = {_quoted(value)} in the section [{section}]."
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        before = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HybridError(f"{path} can't be changed, since it can't be read ({error}).", hint=hint) from error
    standing = before.get(section, {})
    if isinstance(standing, dict) and standing.get(key) == value:
        return False
    after = _changed(text, section, key, value)
    if not _only(before, after, section, key, value):
        raise HybridError(f"{path} can't be changed without touching other lines of it.", hint=hint)
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        atomic.write_bytes(path, after.encode(), mode=mode)
    except OSError as error:
        raise HybridError(f"{path} can't be written: {error.strerror}.", hint=hint) from error
    return True


def _changed(text: str, section: str, key: str, value: str) -> str:
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{key} = {_quoted(value)}"
    lines = text.splitlines(keepends=True)
    headers = [n for n, header in enumerate(lines) if (m := _SECTION.match(header)) and m[1].strip() == section]
    if not headers:
        gap = "" if not text else end if text.endswith(("\n", "\r")) else end * 2
        return f"{text}{gap}[{section}]{end}{line}{end}"
    start = headers[0]
    own = re.compile(rf"^(\s*){re.escape(key)}\s*=\s*(?:\"[^\"\\]*\"|'[^']*')(\s*#.*)?\s*$")
    for n in range(start + 1, len(lines)):
        if lines[n].lstrip().startswith("["):
            break
        if match := own.match(lines[n]):
            ending = lines[n][len(lines[n].rstrip("\r\n")) :]
            lines[n] = f"{match[1]}{line}{match[2] or ''}".rstrip() + ending
            return "".join(lines)
    if not lines[start].endswith("\n"):
        lines[start] += end
    lines.insert(start + 1, line + end)
    return "".join(lines)


def _only(before: dict[str, Any], text: str, section: str, key: str, value: str) -> bool:
    """Whether ``text`` says what ``before`` said and the one new value."""
    try:
        after = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    wanted = {**before, section: {**before.get(section, {}), key: value}}
    return after == wanted


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
