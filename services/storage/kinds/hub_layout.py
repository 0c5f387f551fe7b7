"""What a Hugging Face hub cache consists of: repositories with their blobs and revisions.

The layout is that of huggingface_hub's "Understand caching" page: ``<type>s--<org>--<name>/`` with ``refs/`` (a name →
a commit), ``snapshots/<commit>/`` (symbolic links) and ``blobs/`` (the content, ``.incomplete`` while it is being
downloaded); ``.locks/`` beside them. Since huggingface_hub 2, ``blobs/`` of the cache itself may hold payloads that
several repositories share: their own blob is then a symbolic link to it, and ``<payload>.refs`` lists those links.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.storage.kinds.measure import Tally

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
PAYLOAD = re.compile(r"[0-9a-f]{64}")
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened to read it."""

FOLDER = 1 << 80
"""What ``length`` says of a folder."""

Blob = tuple[int, int, tuple[int, int] | None, float, float, float]
"""Blocks, names it has, its device and inode if it has several, last access and change of content (both 0 for a link),
change of status. A plain tuple, since a big cache has many."""


@dataclass(slots=True)
class Revision:
    """One snapshot. ``blobs`` are the paths its links lead to, ``own`` the files that lie in it without a link.

    ``tally`` is the snapshot's folder alone: folders, links and own files. ``sizes`` is the repository's, ``own_size``
    the length of the own files.
    """

    commit: str
    path: str
    sizes: dict[str, int]
    blobs: set[str] = field(default_factory=set)
    own: int = 0
    own_size: int = 0
    broken: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def size(self) -> int:
        """The sum of the files' lengths, as huggingface_hub counts it."""
        return self.own_size + sum(map(self.sizes.__getitem__, self.blobs))


@dataclass(slots=True)
class Repo:
    """One repository. ``blobs``: path → what it takes itself (a symbolic link where the payload is shared).

    ``sizes``: blob, own or not → length of its content. ``shared``: blob → payload. ``used``: what snapshots lead to,
    ``foreign``: those of it that lie outside. ``incomplete`` are unfinished downloads.
    """

    name: str
    path: str
    revisions: dict[str, Revision] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, Blob] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    has_snapshots: bool = False
    tally: Tally = field(default_factory=Tally)

    @property
    def size(self) -> int:
        """As for a Revision; what several revisions lead to counts once."""
        own = sum(revision.own_size for revision in self.revisions.values())
        return own + sum(map(self.sizes.__getitem__, self.used))

    @property
    def lost_refs(self) -> list[str]:
        """Paths of refs that name a commit without a snapshot."""
        return [f"{self.path}/refs/{ref}" for ref, commit in self.refs.items() if commit not in self.revisions]


def repo_name(folder: str) -> str:
    """ "models--org--name" as "model/org/name", the way ``hf cache ls`` writes it; "" if it is no repository."""
    kind, dashes, name = folder.partition("--")
    return f"{TYPES[kind]}/{name.replace('--', '/')}" if dashes and kind in TYPES else ""


def add_blobs(tally: Tally, blobs: Iterable[Blob]) -> None:
    """Count ``blobs`` into ``tally``."""
    single = files = 0
    newest = tally.newest
    for blocks, names, inode, accessed, modified, _ in blobs:
        files += 1
        if inode is None:
            single += blocks
        else:
            _, _, seen = tally.links.get(inode, (0, 0, 0))
            tally.links[inode] = (blocks, names, seen + 1)
        if accessed > newest:  # max() takes three times as long
            newest = accessed
        if modified > newest:
            newest = modified
    tally.single += single
    tally.files += files
    tally.newest = newest


def count_folder(folder: str, tally: Tally) -> None:
    """Count a folder's own blocks."""
    try:
        tally.single += os.lstat(folder).st_blocks
    except OSError:
        tally.unreadable += 1


def entries_of(folder: str, tally: Tally) -> list[os.DirEntry[str]]:
    """What lies in ``folder``; nothing, and a note in ``tally``, when it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        tally.unreadable += 1
        return []


def length(path: str) -> int:
    """The length of the file that ``path`` leads to; -1 if there is none, ``FOLDER`` if it is a folder."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1
    return FOLDER if stat.S_ISDIR(status.st_mode) else status.st_size
