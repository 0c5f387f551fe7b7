"""The workspace's git repository against its budgets: how large it is, and which files do not belong in it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from services import formats
from services.errors import HybridError
from services.settings import Disk
from services.storage import paths
from services.storage.scanner import Scanner
from services.storage.upkeep import git, objects, remedies
from services.storage.upkeep.git import GitError
from services.storage.upkeep.objects import Blob, Said, Search
from services.storage.upkeep.types import ModelFile, RepoCheck

MB = 1_000_000
SMALL_OBJECTS = 20_000
History = Literal["whole", "shallow", "skipped", "broken"]


def check(
    root: str,
    budget: Disk,
    stop: threading.Event,
    said: Said = lambda _what, _count: None,
    *,
    history: bool = True,
    commits: bool = True,
) -> RepoCheck:
    """Check the repository that ``root`` lies in. What can't be checked is said in the result, not raised.

    ``commits``: look for those that brought the findings, which takes the longest where history is long.
    """
    start, now = time.perf_counter(), time.time()
    limit = round(budget.repo_mb * MB)
    try:
        git_dir, folder, shallow = _where(root)
    except GitError as error:
        hint = (error.hint,) if error.hint else ()
        return RepoCheck("unknown", str(error), budget_bytes=limit, problems=hint, checked_at=now)
    search = Search(folder, stop, round(budget.repo_file_mb * MB), tuple(budget.repo_allow.split()), said)
    size = _size(git_dir, search)
    state: History = "skipped" if not history else "shallow" if shallow or _is_partial(folder) else "whole"
    steps = [objects.read_sizes, objects.read_index, *([objects.read_names] if history else []), objects.look_up]
    for step in (*steps, *([objects.read_commits] if commits else [])):
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


def _size(git_dir: str, search: Search) -> int | None:
    """What the git folder takes on the disk, as du counts it: packs, loose objects, git-lfs's own store, logs."""
    try:
        scan = Scanner(git_dir, top=0, cancelled=search.stop).run()
    except HybridError as error:
        search.problems.append(str(error))
        return None
    if scan.unreadable_count:
        search.problems.append(f"{scan.unreadable_count} folders of {paths.shown(git_dir)} may not be read.")
    return scan.total_bytes


def _result(search: Search, size: int | None, budget: int, state: History) -> RepoCheck:
    found = sorted(search.blobs.values(), key=lambda blob: blob.size or 0, reverse=True)
    files = tuple(map(_file, found[: objects.SHOWN]))
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
        remedies=remedies.remedies(
            files,
            count,
            search.limit,
            exact=bool(search.pointers or search.allow),
            over=over,
            unreachable=unreachable,
        ),
        problems=tuple(dict.fromkeys(search.problems)),
    )


def _file(blob: Blob) -> ModelFile:
    path = os.fsdecode(blob.path)
    return ModelFile(
        path=paths.shown(path),
        bytes=blob.size,
        why="model" if PurePosixPath(path).suffix.lower() in objects.MODEL_SUFFIXES else "large",
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
