"""What is never removed, whoever asks: the home folder, workspaces, tracked files, mounted file systems, our own trash.

A guard answers with the reason, a sentence, or with "".
"""

from __future__ import annotations

import bisect
import fnmatch
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from services.storage import paths
from services.storage.cleaning import system, tree
from services.storage.cleaning.records import Key, Target
from services.workspace import MARK, Workspace

TRASH_PREFIX = ".hybrid-trash-"

Lies = Callable[[int, str], bool]
"""Given a folder's place in a target's list (-1: the target itself) and a name in it ("": the folder): is it there?"""


def _always(_index: int, _name: str) -> bool:
    return True


def home() -> str:
    """The home folder, links resolved."""
    return os.path.realpath(os.environ.get("HOME") or Path.home())


class Guards:
    """One look at the box: its mounts, its processes, the git work trees met. Make a new one for a new look."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = os.path.realpath(workspace.root)
        self.home = home()
        self.mounts = system.mounts()
        self.in_use = system.in_use()
        self._tracked: dict[str, list[bytes] | str] = {}

    def path(self, path: str) -> str:
        """Whether ``path`` (absolute, no links above its last name) may go at all, judged by its place."""
        for folder, name in ((self.home, "your home folder"), (self.workspace, "the workspace")):
            if system.below(folder, path):
                return f"It {'is' if folder == path else 'holds'} {name}."
        parts = path.split("/")
        if ".git" in parts:
            return "It belongs to a git repository's own data."
        if any(part.startswith(TRASH_PREFIX) for part in parts):
            return "It belongs to the trash; storage.purge empties that."
        if ".hybrid" in parts:
            inside = parts[parts.index(".hybrid") + 1 :]
            if not inside:
                return "It is a workspace's state."
            if inside[0] in ("cleaning", "trash"):
                return "It belongs to the trash and its journal; storage.purge empties that."
        if mount := next((point for point in self.mounts if system.below(point, path)), ""):
            return f"Something is mounted {'there' if mount == path else f'in it, at {paths.shown(mount)}'}."
        return self.tracked(path)

    def tracked(self, path: str) -> str:
        """Whether git tracks ``path`` or anything in it, asked of the work tree around it."""
        top = os.path.dirname(path)
        while not os.path.lexists(os.path.join(top, ".git")):
            if top == "/":
                return ""
            top = os.path.dirname(top)
        files = self._files_of(top)
        if isinstance(files, str):
            return files
        relative = os.fsencode(os.path.relpath(path, top))
        at = bisect.bisect_left(files, relative)
        if at < len(files) and files[at] == relative:
            return "Git tracks it."
        inside = bisect.bisect_left(files, relative + b"/")
        if inside < len(files) and files[inside].startswith(relative + b"/"):
            return f"Git tracks files in it, such as {paths.shown(os.fsdecode(files[inside]))}."
        return ""

    def _files_of(self, top: str) -> list[bytes] | str:
        """The sorted tracked files of the work tree ``top``, or a sentence when git won't tell: then nothing goes."""
        if top not in self._tracked:
            # The two settings: ask also in another user's checkout, and start no program that its config names.
            options = ["-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
            environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
            try:
                run = subprocess.run(
                    ["git", *options, "-C", top, "ls-files", "-z", "--full-name", "."],
                    capture_output=True, timeout=60, env=environment, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                self._tracked[top] = f"It lies in a git work tree, and git can't be asked what it tracks ({error})."
            else:
                said = (run.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"])[0]
                refused = f"It lies in a git work tree, and git won't say what it tracks ({said})."
                self._tracked[top] = refused if run.returncode else sorted(run.stdout.split(b"\0"))
        return self._tracked[top]

    def user_of(self, target: Target, lies: Lies = _always) -> str:
        """Who holds something of ``target`` open, mapped, or stands in it: a sentence, or "".

        ``lies`` tells whether an entry of the target is still there: the inode of one that was deleted since may have
        become another's file.
        """
        for index, name, key in self._held(target):
            if lies(index, name):
                what = f": {_said(target, index, name)}" if target.row is None else ""
                return f"It is in use by {self.in_use.holders[key]}{what}."
        return ""

    def _held(self, target: Target) -> Iterator[tuple[int, str, Key]]:
        """Each entry of ``target`` whose inode a process holds: its folder's place (-1: the target), name, key."""
        holders, inodes = self.in_use.holders, self.in_use.inodes
        if target.row is not None:
            if (target.row[1], target.row[2]) in holders:
                yield -1, "", (target.row[1], target.row[2])
            return
        for index, folder in enumerate(target.dirs):
            if folder.ino in inodes and (folder.dev, folder.ino) in holders:
                yield index, "", (folder.dev, folder.ino)
            for place, row in enumerate(folder.rows):
                if row[2] in inodes and (row[1], row[2]) in holders:
                    yield index, folder.entries()[place], (row[1], row[2])

    def hidden(self) -> tuple[str, ...]:
        """A sentence when processes could not be looked into."""
        count = self.in_use.hidden
        who = "1 process of another user" if count == 1 else f"{count:,} processes of other users"
        return (f"Which files {who} hold open may not be seen.",) if count else ()


def _said(target: Target, index: int, name: str = "") -> str:
    inside = "/".join(target.where(index, name))
    return paths.shown(inside or target.text())


class Entries:
    """The guard inside a tree: repositories and workspaces in it, and what the excludes name. ``look`` raises Unfit."""

    def __init__(self, top: str, excludes: tuple[str, ...], *, repositories: bool) -> None:
        """``repositories`` may go, as those that a package manager has cloned into its cache."""
        self._top = top
        self._repositories = repositories
        expanded = [os.path.expanduser(p) for p in excludes]
        self._names = _matcher([p for p in expanded if "/" not in p])
        self._paths = _matcher([p for p in expanded if "/" in p])

    def top(self) -> None:
        """Check the top's own name and path."""
        where, _, name = self._top.rpartition("/")
        self._excluded(name, f"{where}/{name}", "")

    def look(self, where: str, name: str, folder: bool) -> None:
        inside = f"{where}/{name}" if where else name
        if name == MARK and not folder:
            raise tree.Unfit("It holds a workspace", where)
        if name == ".git" and not self._repositories:
            raise tree.Unfit("It holds a git repository", where)
        if self._names or self._paths:
            self._excluded(name, f"{self._top}/{inside}", inside)

    def _excluded(self, name: str, path: str, inside: str) -> None:
        if (self._names and self._names.match(name)) or (self._paths and self._paths.match(path)):
            raise tree.Unfit("It is excluded" if not inside else "It holds something excluded", inside)


def _matcher(patterns: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, patterns))) if patterns else None
