"""Files in git that do not belong there, found without loading any: the streams that git writes of what it holds.

Contents come with their size (``git cat-file --batch-all-objects --batch-check``) and with every name that history
gives them (``git rev-list --objects --all``). Kept in memory are the object names of the findings, and of the largest
``KEEP`` the rest as well.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from services.storage.upkeep import git

KEEP = 1000
SHOWN = 50
MODEL_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".h5", ".hdf5", ".keras", ".npz",
     ".npy", ".pkl", ".pickle", ".joblib", ".msgpack", ".tflite", ".pb", ".mlmodel", ".engine")
)  # fmt: skip
_POINTER_START = b"version https://git-lfs.github.com/spec/"  # git-lfs docs/spec.md: the first line, under 1024 bytes
_POINTER_MAX = 1024

Said = Callable[[str, int], None]
"""Called now and then with what is being read and how many objects were."""


@dataclass
class Blob:
    """One content that does not belong here, under the first name it was met with."""

    path: bytes
    size: int | None
    in_index: bool = False
    in_history: bool = False
    commit: str = ""
    committed_at: float | None = None


@dataclass
class Search:
    """What one check is after and what it has found."""

    folder: str
    stop: threading.Event
    limit: int
    allow: tuple[str, ...]
    said: Said
    large: dict[bytes, int] = field(default_factory=dict)
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    settled: set[bytes] = field(default_factory=set)  # judged and not held any more: pointers, folders, dropped ones
    pointers: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def read_sizes(search: Search) -> None:
    """Every content of this repository over the limit, reached or not."""
    words = ["cat-file", "--batch-all-objects", "--unordered", "--buffer"]
    words.append("--batch-check=%(objecttype) %(objectsize) %(objectname)")
    for count, line in enumerate(git.records(search.folder, words, search.stop)):
        if count % 10_000 == 0:
            search.said("sizes", count)
        kind, _, rest = line.partition(b" ")
        size, _, oid = rest.partition(b" ")
        if kind == b"blob" and int(size) > search.limit:
            search.large[oid] = int(size)


def read_index(search: Search) -> None:
    for entry in git.records(search.folder, ["ls-files", "--stage", "-z"], search.stop, end=b"\0"):
        about, _, path = entry.partition(b"\t")
        mode, oid, _stage = about.split(b" ")
        if mode != b"160000":  # a submodule: a commit of another repository
            _consider(search, oid, path, in_index=True)


def read_names(search: Search) -> None:
    """Names in the history of every branch, tag and stash; a content is told once, by the newest name it has."""
    words = ["rev-list", "--objects", "--all", "--missing=allow-promisor"]  # a partial clone lacks some, and may
    for count, line in enumerate(git.records(search.folder, words, search.stop)):
        if count % 10_000 == 0:
            search.said("history", count)
        oid, _, path = line.partition(b" ")
        if path:
            _consider(search, oid, path, in_history=True)


def _consider(search: Search, oid: bytes, path: bytes, *, in_index: bool = False, in_history: bool = False) -> None:
    if oid in search.settled:
        return
    blob = search.blobs.get(oid)
    if blob is None:
        name = path.rpartition(b"/")[2]
        suffix = name[name.rfind(b".") :].decode("ascii", "replace").lower() if b"." in name else ""
        if oid not in search.large and suffix not in MODEL_SUFFIXES:
            return
        if search.allow and _allowed(search.allow, os.fsdecode(path)):
            search.large.pop(oid, None)
            return
        if len(search.blobs) >= 2 * KEEP:
            _drop_smallest(search)
        blob = search.blobs[oid] = Blob(path, search.large.get(oid))
    blob.in_index |= in_index
    blob.in_history |= in_history


def _allowed(patterns: tuple[str, ...], path: str) -> bool:
    return any(fnmatchcase(path, pattern) or PurePosixPath(path).match(pattern) for pattern in patterns)


def _drop_smallest(search: Search) -> None:
    """Keep the largest ``KEEP``; the others are still counted."""
    look_up(search)
    ranked = sorted(search.blobs, key=lambda oid: search.blobs[oid].size or 0, reverse=True)
    for oid in ranked[KEEP:]:
        search.settled.add(oid)
        search.dropped += 1
        search.dropped_bytes += search.blobs.pop(oid).size or 0


def look_up(search: Search) -> None:
    """Sizes of what was found by its name, and which of it are git-lfs pointers, which belong in git."""
    unknown = [oid for oid, blob in search.blobs.items() if blob.size is None]
    if not unknown:
        return
    small: list[bytes] = []
    words = ["cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype) %(objectsize)"]
    for line in git.records(search.folder, words, search.stop, given=_lines(unknown)):
        oid, kind, *size = line.split(b" ")
        if kind in (b"tree", b"commit", b"tag"):  # a folder called "weights.bin"
            del search.blobs[oid]
            search.settled.add(oid)
        elif kind == b"blob":
            search.blobs[oid].size = int(size[0])
            if int(size[0]) < _POINTER_MAX:
                small.append(oid)
    for oid, content in _contents(search, small):
        if content.startswith(_POINTER_START):
            del search.blobs[oid]
            search.settled.add(oid)
            search.pointers += 1


def _contents(search: Search, oids: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The contents of small blobs: "<name> blob <size>", the content and a line feed for each, says git-cat-file(1)."""
    if not oids:
        return
    said = b"\n".join(git.records(search.folder, ["cat-file", "--buffer", "--batch"], search.stop, given=_lines(oids)))
    at = 0
    while (end := said.find(b"\n", at)) >= 0:
        oid, _kind, size = said[at:end].split(b" ")
        at = end + 1 + int(size)
        yield oid, said[end + 1 : at]
        at += 1


def _lines(oids: list[bytes]) -> bytes:
    return b"".join(oid + b"\n" for oid in oids)


def read_commits(search: Search) -> None:
    """The oldest commit that brought each content, in one walk over the commits that touch one of the names."""
    wanted = {oid: blob for oid, blob in search.blobs.items() if blob.in_history}
    largest = sorted(wanted.items(), key=lambda pair: pair[1].size or 0, reverse=True)[:SHOWN]
    if not largest:
        return
    search.said("commits", 0)
    words = ["log", "--all", "--full-history", "--date-order", "--no-renames", "--raw", "--no-abbrev", "-m"]
    words += ["--format=%H %ct", "--", *(os.fsdecode(b":(top,literal)" + blob.path) for _, blob in largest)]
    commit, at = "", 0.0
    for line in git.records(search.folder, words, search.stop):
        if line.startswith(b":"):
            oid = line.split(b" ")[3]
            if oid in wanted:  # walked newest first: what comes later is older
                wanted[oid].commit, wanted[oid].committed_at = commit, at
        elif line:
            name, _, when = line.partition(b" ")
            commit, at = name.decode(), float(when)
