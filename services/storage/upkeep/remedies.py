"""The commands that take files out of git, with what they mean for the others. They are shown, never run.

Sources: git-rm(1), gitignore(5), git-gc(1), git-filter-repo(1).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from services.storage.upkeep.types import ModelFile

NAMED = 8  # files named in one command; beyond that a pattern or a size stands for them


def remedies(
    files: Sequence[ModelFile], count: int, limit_bytes: int, *, over: bool, unreachable: int
) -> tuple[str, ...]:
    """What to type, in order; lines starting with "#" say what it means. () when there is nothing to do."""
    lines: list[str] = []
    indexed = [file for file in files if file.in_index]
    past = [file for file in files if file.in_history]
    if indexed:
        lines += _from_index(indexed, count)
    if past:
        lines += _from_history(past, count, limit_bytes)
    if unreachable or (over and not past):
        lines.append("# Unpacked and unreached objects go; what the reflog still names stays for its time (90 days).")
        lines.append("git gc --prune=now")
    return tuple(lines)


def _from_index(files: Sequence[ModelFile], count: int) -> list[str]:
    lines = ["# Out of the next commit; the files stay in the folder and git ignores them from now on."]
    lines += [f"git rm --cached -- {shlex.quote(file.path)}" for file in files[:NAMED]]
    if len(files) > NAMED or count > len(files):
        lines.append(f"# … and so on for each of the {len(files)} named here.")
    suffixes = sorted({_suffix(file.path) for file in files if file.why == "model" and _suffix(file.path)})
    ignored = [f"*{suffix}" for suffix in suffixes] + [f"/{file.path}" for file in files[:NAMED] if file.why == "large"]
    lines.append(f"printf '%s\\n' {' '.join(map(shlex.quote, ignored))} >> .gitignore")
    lines.append("git add .gitignore && git commit -m 'Keep model files out of git'")
    return lines


def _from_history(files: Sequence[ModelFile], count: int, limit_bytes: int) -> list[str]:
    lines = [
        "# Out of history (pip install git-filter-repo), in a fresh clone, when all have pushed. Every commit from",
        "# the first touched one gets a new id: push with --force, and all others clone again; who pushes an old clone",
        "# brings the files back. Open pull requests and forks keep the old commits.",
    ]
    if count <= NAMED and len(files) <= NAMED:
        names = " ".join(f"--path {shlex.quote(file.path)}" for file in files)
        lines.append(f"git filter-repo --invert-paths {names}")
    else:
        if any(file.why == "large" or (file.bytes or 0) > limit_bytes for file in files):
            lines.append(f"git filter-repo --strip-blobs-bigger-than {max(1, math.floor(limit_bytes / 1024))}K")
        suffixes = sorted({_suffix(file.path) for file in files if file.why == "model"})
        if suffixes:
            globs = " ".join(f"--path-glob {shlex.quote('*' + suffix)}" for suffix in suffixes)
            lines.append(f"git filter-repo --invert-paths {globs}")
    lines.append("git push --force --all && git push --force --tags")
    return lines


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :] if "." in name else ""
