"""The workspace's git repository: how large it is, and which model files lie in it, in the index or in history.

Contents are found by two streams that git writes without loading a file: every object with its size
(``git cat-file --batch-all-objects --batch-check``) and every name that the history gives it (``git rev-list
--objects --all``). Kept in memory are the object names of the findings, and of the largest ``KEEP`` the rest as well.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from services import formats
from services.errors import HybridError
from services.settings import Disk
from services.storage import paths
from services.storage.scanner import Scanner
from services.storage.upkeep import git, remedies
from services.storage.upkeep.git import GitError
from services.storage.upkeep.types import ModelFile, RepoCheck

MB = 1_000_000
KEEP = 1000
SHOWN = 50
SMALL_OBJECTS = 20_000
MODEL_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".h5", ".hdf5", ".keras", ".npz",
     ".npy", ".pkl", ".pickle", ".joblib", ".msgpack", ".tflite", ".pb", ".mlmodel", ".engine")
)  # fmt: skip
_POINTER_START = b"version https://git-lfs.github.com/spec/"  # git-lfs docs/spec.md: the first line, under 1024 bytes
_POINTER_MAX = 1024

History = Literal["whole", "shallow", "skipped", "broken"]
Said = Callable[[str, int], None]
"""Called now and then with what is being read and how many objects were."""


@dataclass
class _Blob:
    """One content that does not belong here, under the first name it was met with."""

    path: bytes
    size: int | None
    in_index: bool = False
    in_history: bool = False
    commit: str = ""
    committed_at: float | None = None


@dataclass
class _Search:
    """What one check is after and what it has found."""

    folder: str
    stop: threading.Event
    limit: int
    allow: tuple[str, ...]
    said: Said
    large: dict[bytes, int] = field(default_factory=dict)
    blobs: dict[bytes, _Blob] = field(default_factory=dict)
    settled: set[bytes] = field(default_factory=set)  # judged and not held any more: pointers, folders, dropped ones
    pointers: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def check(
    root: str, budget: Disk, stop: threading.Event, said: Said = lambda _what, _count: None, *, history: bool = True
) -> RepoCheck:
    """Check the repository that ``root`` lies in. What can't be checked is said in the result, not raised."""
    start, now = time.perf_counter(), time.time()
    limit = round(budget.repo_mb * MB)
    try:
        git_dir, folder, shallow = _where(root)
    except GitError as error:
        hint = (error.hint,) if error.hint else ()
        return RepoCheck("unknown", str(error), budget_bytes=limit, problems=hint, checked_at=now)
    search = _Search(folder, stop, round(budget.repo_file_mb * MB), tuple(budget.repo_allow.split()), said)
    size = _size(git_dir, search)
    state: History = "skipped" if not history else "shallow" if shallow or _is_partial(folder) else "whole"
    for step in (_read_sizes, _read_index, *((_read_names,) if history else ()), _look_up, _read_commits):
        try:
            step(search)
        except GitError as error:
            search.problems.append(str(error))
            state = "broken"
    found = _result(search, size, limit, state)
    return msgspec.structs.replace(
        found, git_dir=paths.shown(git_dir), checked_at=now, seconds=time.perf_counter() - start
    )


def is_small(root: str) -> bool:
    """Whether a whole check takes a fraction of a second: few objects, or no repository at all."""
    try:
        lines = git.ask(root, "count-objects", "-v").splitlines()
    except GitError:
        return True
    figures = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(figures.get("count", 0)) + int(figures.get("in-pack", 0)) <= SMALL_OBJECTS


def _where(root: str) -> tuple[str, str, bool]:
    """The shared git folder, the folder to ask in (a bare repository has no other), and whether history is cut off."""
    words = ("--git-common-dir", "--is-bare-repository", "--is-shallow-repository", "--is-inside-git-dir")
    common, bare, shallow, inside = git.ask(root, "rev-parse", *words).rsplit("\n", 3)
    git_dir = os.path.realpath(os.path.join(root, common))  # noqa: PTH118  (may hold bytes that are no UTF-8)
    if bare == "true" or inside == "true":
        return git_dir, git_dir, shallow == "true"
    return git_dir, git.ask(root, "rev-parse", "--show-toplevel"), shallow == "true"


def _is_partial(folder: str) -> bool:
    try:
        return bool(git.ask(folder, "config", "--get-regexp", r"^remote\..*\.promisor$"))
    except GitError:  # there is no such setting
        return False


def _size(git_dir: str, search: _Search) -> int | None:
    """What the git folder takes on the disk, as du counts it: packs, loose objects, git-lfs's own store, logs."""
    try:
        scan = Scanner(git_dir, top=0, cancelled=search.stop).run()
    except HybridError as error:
        search.problems.append(str(error))
        return None
    if scan.unreadable_count:
        search.problems.append(f"{scan.unreadable_count} folders of {paths.shown(git_dir)} may not be read.")
    return scan.total_bytes


def _read_sizes(search: _Search) -> None:
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


def _read_index(search: _Search) -> None:
    for entry in git.records(search.folder, ["ls-files", "--stage", "-z"], search.stop, end=b"\0"):
        about, _, path = entry.partition(b"\t")
        mode, oid, _stage = about.split(b" ")
        if mode != b"160000":  # a submodule: a commit of another repository
            _consider(search, oid, path, in_index=True)


def _read_names(search: _Search) -> None:
    """Names in the history of every branch, tag and stash; a content is told once, by the newest name it has."""
    words = ["rev-list", "--objects", "--all", "--missing=allow-promisor"]  # a partial clone lacks some, and may
    for count, line in enumerate(git.records(search.folder, words, search.stop)):
        if count % 10_000 == 0:
            search.said("history", count)
        oid, _, path = line.partition(b" ")
        if path:
            _consider(search, oid, path, in_history=True)


def _consider(search: _Search, oid: bytes, path: bytes, *, in_index: bool = False, in_history: bool = False) -> None:
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
        blob = search.blobs[oid] = _Blob(path, search.large.get(oid))
    blob.in_index |= in_index
    blob.in_history |= in_history


def _allowed(patterns: tuple[str, ...], path: str) -> bool:
    return any(fnmatchcase(path, pattern) or PurePosixPath(path).match(pattern) for pattern in patterns)


def _drop_smallest(search: _Search) -> None:
    """Keep the largest ``KEEP``; the others are still counted."""
    _look_up(search)
    ranked = sorted(search.blobs, key=lambda oid: search.blobs[oid].size or 0, reverse=True)
    for oid in ranked[KEEP:]:
        search.settled.add(oid)
        search.dropped += 1
        search.dropped_bytes += search.blobs.pop(oid).size or 0


def _look_up(search: _Search) -> None:
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


def _contents(search: _Search, oids: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
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


def _read_commits(search: _Search) -> None:
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


def _result(search: _Search, size: int | None, budget: int, state: History) -> RepoCheck:
    found = sorted(search.blobs.values(), key=lambda blob: blob.size or 0, reverse=True)
    files = tuple(map(_file, found[:SHOWN]))
    total = sum(blob.size or 0 for blob in found) + search.dropped_bytes
    count = len(found) + search.dropped
    reached = state in ("whole", "shallow") and not search.dropped
    unreachable = sum(size for oid, size in search.large.items() if oid not in search.blobs) if reached else 0
    over = size is not None and size > budget
    return RepoCheck(
        level="broken" if over or count else "unknown" if size is None or state == "broken" else "ok",
        sentence=_sentence(size, budget, files, count, total, state),
        path=paths.shown(search.folder),
        git_bytes=size,
        budget_bytes=budget,
        files=files,
        count=count,
        bytes=total,
        lfs_pointers=search.pointers,
        unreachable_bytes=unreachable,
        history=state,
        remedies=remedies.remedies(files, count, search.limit, over=over, unreachable=unreachable),
        problems=tuple(dict.fromkeys(search.problems)),
    )


def _file(blob: _Blob) -> ModelFile:
    path = os.fsdecode(blob.path)
    return ModelFile(
        path=paths.shown(path),
        bytes=blob.size,
        why="model" if PurePosixPath(path).suffix.lower() in MODEL_SUFFIXES else "large",
        in_index=blob.in_index,
        in_history=blob.in_history,
        commit=blob.commit,
        committed_at=blob.committed_at,
    )


def _sentence(
    size: int | None, budget: int, files: tuple[ModelFile, ...], count: int, total: int, state: History
) -> str:
    parts = []
    if size is not None and size > budget:
        more = formats.size(size - budget)
        parts.append(
            f"The git repository takes {formats.size(size)}, {more} more than its budget of {formats.size(budget)}."
        )
    if count:
        now = sum(file.in_index for file in files)
        words = [f"{now} in the index"] if now else []
        words += [f"{len(files) - now} only in history"] if len(files) > now else []
        of = f" (of the largest {len(files)}: " if count > len(files) else " ("
        parts.append(
            f"{count} model or large file{'s' * (count != 1)} of {formats.size(total)} "
            f"{'are' if count > 1 else 'is'} in git{of}{' and '.join(words)})."
        )
    if not parts:
        size_words = f" in {formats.size(size)} of git" if size is not None else ""
        parts.append(f"No model files{size_words}, within the budget of {formats.size(budget)}.")
    ends = {
        "shallow": " Only what this shallow or partial clone has could be looked at.",
        "broken": " git could not read all of it.",
        "skipped": " History was not looked at.",
    }
    return " ".join(parts) + ends.get(state, "")
