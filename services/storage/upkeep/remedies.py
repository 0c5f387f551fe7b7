"""The commands that take files out of git, with what they mean for the others. They are shown, never run.

Sources: git-rm(1), gitignore(5), git-gc(1), git-filter-repo(1).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from services.storage.upkeep.types import ModelFile, Remedy

NAMED = 8  # files named in one command; beyond that a pattern or a size stands for them


def remedies(
    files: Sequence[ModelFile], count: int, limit_bytes: int, *, exact: bool, over: bool, unreachable: int
) -> tuple[Remedy, ...]:
    """What to type, in order; () when there is nothing to do. ``count`` is of all findings, ``files`` the largest.

    ``exact``: other files of such names are to stay (Git LFS pointers, allowed ones), so that no pattern may stand for
    the names.
    """
    found: list[Remedy] = []
    indexed = [file for file in files if file.in_index]
    past = [file for file in files if file.in_history]
    if indexed:
        found += _from_index(indexed)
    if past:
        found += _from_history(past, count, limit_bytes, exact)
    if unreachable or (over and not past):
        found.append(Remedy("git gc --prune=now", "Drops what nothing reaches; what the reflog names stays 90 days."))
    return tuple(found)


def _from_index(files: Sequence[ModelFile]) -> list[Remedy]:
    named = files[:NAMED]
    more = f" And so on: {len(files) - NAMED} more are listed." if len(files) > NAMED else ""
    models = sorted({_suffix(file.path) for file in files if file.why == "model"})
    ignored = [f"*{suffix}" for suffix in models] + [f"/{file.path}" for file in named if file.why == "large"]
    return [
        Remedy(
            f"git rm --cached -- {_quoted(file.path for file in named)}",
            f"Out of the next commit; the files stay in the folder.{more}",
        ),
        Remedy(f"printf '%s\\n' {_quoted(ignored)} >> .gitignore", "git ignores them from now on."),
        Remedy("git add .gitignore && git commit -m 'Keep model files out of git'", "History still has them."),
    ]


def _from_history(files: Sequence[ModelFile], count: int, limit_bytes: int, exact: bool) -> list[Remedy]:
    found = [
        Remedy(
            "pip install git-filter-repo", "The tool that rewrites history. Let all push, then work in a fresh clone."
        )
    ]
    what = "Out of every commit; each one from the first touched on gets a new id."
    if count <= NAMED or exact:
        names = " ".join(f"--path {shlex.quote(file.path)}" for file in files)
        more = " Then check again: these are the largest of them." if count > len(files) else ""
        found.append(Remedy(f"git filter-repo --invert-paths {names}", what + more))
    else:
        if any((file.bytes or 0) > limit_bytes for file in files):
            size = max(1, limit_bytes // 1024)
            found.append(Remedy(f"git filter-repo --strip-blobs-bigger-than {size}K", what))
        models = sorted({_suffix(file.path) for file in files if file.why == "model"})
        if models:
            globs = " ".join(f"--path-glob {shlex.quote('*' + suffix)}" for suffix in models)
            found.append(Remedy(f"git filter-repo --invert-paths {globs}", what))
    found.append(
        Remedy(
            "git remote add origin URL && git push --force --all && git push --force --tags",
            "filter-repo forgets the remote. All others clone again: a push from an old clone brings the files back; "
            "forks and open pull requests keep the old commits.",
        )
    )
    return found


def _quoted(words: Iterable[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :] if "." in name else ""
