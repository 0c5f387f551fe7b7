"""Names from Drive as parts of local paths: any text may stand there, ``..``, slashes and line breaks included.

What can't be kept is written as ％XX (the fullwidth percent sign and the hex of each UTF-8 byte), so that a person sees
what is there and ``drive_name`` finds the way back. A name longer than a file system takes is cut and carries a digest;
its way back is the folder's listing. Names that only differ in case or in composition (é, e + ´) are kept apart.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable

from services.errors import BadInput

MARK = "％"
LONGEST = 240  # bytes; file systems take 255, and a download's ".part" or journal stands behind the name
_EMPTY = f"{MARK}~empty"
_CUT = re.compile(f"{MARK}~[0-9a-f]{{24}}")
_ESCAPES = re.compile(f"(?:{MARK}[0-9A-F]{{2}})+")
_ORDINARY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,200}[A-Za-z0-9_-]")
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,16}$")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})  # control, format (bidi marks), odd spaces …
_WINDOWS = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{device}{n}" for device in ("com", "lpt") for n in "123456789¹²³"
}


def local_name(name: str) -> str:
    """The part of a local path for one name: never empty, "." or "..", no slash, at most ``LONGEST`` bytes."""
    if _ORDINARY.fullmatch(name) and name.partition(".")[0].rstrip(" ").lower() not in _WINDOWS:
        return name  # as nearly all are: large folders are listed often
    return _cut(name, _escaped(name, _bad))


def local_names(names: Iterable[str]) -> dict[str, str]:
    """Name → local part for all names of one folder: no two alike, also where case and composition don't count.

    The same name given twice is one entry: telling twins apart is the caller's business.
    """
    found = {name: local_name(name) for name in names}
    alike: dict[str, list[str]] = {}
    for name, local in found.items():
        alike.setdefault(_folded(local), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            found.update((name, _distinct_name(name)) for name in group)
    return found


def drive_name(part: str) -> str:
    """The name on Drive that ``part`` stands for; a part that needed no change stands for itself.

    Raises BadInput for the short form of an overlong name: what was cut off only the folder's listing knows.
    """
    if part == _EMPTY:
        return ""
    if _CUT.search(part):
        raise BadInput(f"{part!r} is the short form of a longer name on Drive.", hint="Only a listing knows that name.")
    name = _ESCAPES.sub(_unescaped, part)
    return name if part in (_escaped(name, _bad), _escaped(name, _movable)) else part


def stands_for(part: str, name: str) -> bool:
    """Whether ``part``, as a listing or a person gave it, means the file called ``name``."""
    return part in (name, local_name(name), _distinct_name(name))


def _distinct_name(name: str) -> str:
    return _cut(name, _escaped(name, _movable))


def _escaped(name: str, bad: Callable[[str], bool]) -> str:
    if not name:
        return _EMPTY
    if not name.strip("."):
        return "".join(map(_hex, name))
    pieces = [_hex(c) if bad(c) else c for c in name]
    for end, unwanted in ((-1, ". "), (0, " ")):  # Windows drops them, and people don't see them
        if name[end] in unwanted:
            pieces[end] = _hex(name[end])
    if name.split(".")[0].rstrip(" ").lower() in _WINDOWS:
        pieces[0] = _hex(name[0])
    return "".join(pieces)


def _bad(c: str) -> bool:
    return c in f"/\\{MARK}" or (c != " " and unicodedata.category(c) in _UNSEEN)


def _movable(c: str) -> bool:
    """What is bad, and what another system may hold for the same as something else."""
    return not c.isascii() or c.isupper() or _bad(c)


def _cut(name: str, text: str) -> str:
    """``text`` if it is short enough, else its beginning, a digest of the whole name, and a plain ending."""
    if len(text.encode()) <= LONGEST:
        return text
    mark = f"{MARK}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"
    ending = match[0] if (match := _ENDING.search(text)) else ""
    room = LONGEST - len((mark + ending).encode())
    start = text.encode()[:room].decode("utf-8", "ignore")
    return re.sub(f"{MARK}[0-9A-F]?$", "", start) + mark + ending


def _hex(c: str) -> str:
    return "".join(f"{MARK}{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))


def _unescaped(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match[0].replace(MARK, "")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return match[0]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
