"""What an installed distribution says of itself, read from its dist-info folder without importing anything.

https://packaging.python.org/en/latest/specifications/recording-installed-packages/ (dist-info: METADATA, RECORD,
INSTALLER, REQUESTED, direct_url.json), and the older egg-info of setuptools and of Linux distributions.
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

NO_RECORD = "It has no RECORD: its files are told by its top-level names."


@dataclass(frozen=True)
class Record:
    """One distribution in one package folder.

    ``files`` are relative to that folder, "/"-separated, normalised; those of its scripts begin with "../".
    ``requested``: it was asked for by name (REQUESTED, PEP 376; uv writes that for all it installs, so from uv it tells
    nothing). ``tops`` are names in the folder that are its own as a whole, where there is no RECORD.
    """

    name: str
    version: str
    folder: str
    info: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    installer: str = ""
    requested: bool = False
    editable: str = ""
    files: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    problem: str = ""
    key: str = field(default="")

    @property
    def pinned(self) -> str:
        """ "name==version"."""
        return f"{self.name}=={self.version}"


def normal(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_all(folder: str) -> list[Record]:
    """All distributions of the package folder ``folder``, by name. One that can't be read has its problem said."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []
    records: list[Record] = []
    for name in names:
        if name.endswith(".dist-info"):
            records.append(_dist_info(folder, name))
        elif name.endswith(".egg-info"):
            records.append(_egg_info(folder, name))
    return sorted((r for r in records if r.name), key=lambda r: (r.key, r.info))


def _dist_info(folder: str, info: str) -> Record:
    base = Path(folder, info)
    stem, _, version = info.removesuffix(".dist-info").rpartition("-")
    head = _head(_text(base / "METADATA"))
    files, problem = _record(base / "RECORD")
    if not head:
        problem = "Its METADATA can't be read."
    name = _first(head, "name") or stem
    tops: tuple[str, ...] = ()
    if not files:
        tops, problem = (*_top_level(base, name, folder), info), problem or NO_RECORD
    installer = _text(base / "INSTALLER").strip()[:40]
    return Record(
        name, _first(head, "version") or version, folder, info,
        requires=tuple(head.get("requires-dist", ())), extras=tuple(head.get("provides-extra", ())),
        installer=installer, requested=installer != "uv" and (base / "REQUESTED").exists(),
        editable=_editable(base), files=files, tops=tops, problem=problem, key=normal(name),
    )  # fmt: skip


def _egg_info(folder: str, info: str) -> Record:
    """setuptools' older form, a folder or (distutils) a single file; Linux distributions still ship it."""
    base = Path(folder, info)
    head = _head(_text(base / "PKG-INFO" if base.is_dir() else base))
    stem, _, version = info.removesuffix(".egg-info").partition("-")
    name = _first(head, "name") or stem
    lines = _text(base / "installed-files.txt").splitlines() if base.is_dir() else []
    files = tuple(posixpath.normpath(f"{info}/{line}") for line in lines if line.strip())
    return Record(
        name, _first(head, "version") or version.partition("-py")[0], folder, info,
        requires=tuple(_egg_requires(_text(base / "requires.txt")) if base.is_dir() else ()),
        files=files, tops=() if files else (*_top_level(base, name, folder), info),
        problem="" if files else NO_RECORD, key=normal(name),
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):
        return ""


def _head(text: str) -> dict[str, list[str]]:
    """The header fields of a METADATA file, names in lower case; its body (the description) is not looked at."""
    fields: dict[str, list[str]] = {}
    last: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            break
        if line[0] in " \t" and last:
            last[-1] += " " + line.strip()
            continue
        key, _, value = line.partition(":")
        last = fields.setdefault(key.strip().lower(), [])
        last.append(value.strip())
    return fields


def _first(head: dict[str, list[str]], key: str) -> str:
    return next(iter(head.get(key, ())), "")


def _record(path: Path) -> tuple[tuple[str, ...], str]:
    """The paths of a RECORD, normalised, and what is wrong with it ("" if nothing)."""
    text = _text(path)
    if not text:
        return (), ""
    try:
        rows = [row[0] for row in csv.reader(text.splitlines()) if row and row[0]]
    except csv.Error as error:
        return (), f"Its RECORD can't be read ({error}): its files are told by its top-level names."
    return tuple(dict.fromkeys(posixpath.normpath(row.replace("\\", "/")) for row in rows)), ""


def _top_level(base: Path, name: str, folder: str) -> Iterator[str]:
    """Names in ``folder`` that a distribution without RECORD owns: by top_level.txt, or by its own name."""
    listed = _text(base / "top_level.txt").split() if base.is_dir() else []
    for top in listed or [normal(name).replace("-", "_")]:
        for candidate in (top, f"{top}.py"):
            if top.isprintable() and "/" not in top and top not in ("", ".", "..") and Path(folder, candidate).exists():
                yield candidate


def _editable(base: Path) -> str:
    """The source folder of an editable install (PEP 610), "" for any other."""
    text = _text(base / "direct_url.json")
    if not text:
        return ""
    try:
        document = msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=_DirectUrl)
    except msgspec.MsgspecError:
        return ""
    if not document.dir_info.get("editable"):
        return ""
    return urllib.parse.unquote(urllib.parse.urlsplit(document.url).path) or document.url


class _DirectUrl(msgspec.Struct):
    url: str = ""
    dir_info: dict[str, bool] = {}


def _egg_requires(text: str) -> Iterator[str]:
    """Requirements of an egg-info's requires.txt, its "[extra:marker]" sections written as markers."""
    marker = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            extra, _, condition = line[1:-1].partition(":")
            parts = [f"({condition})"] if condition else []
            parts += [f'extra == "{extra}"'] if extra else []
            marker = " and ".join(parts)
        elif line:
            yield f"{line}; {marker}" if marker else line
