"""What the storage services return. Sizes are bytes on disk (allocated blocks), unless said otherwise.

Paths are text that any output can carry; ``services.storage.paths`` says how a name that is not UTF-8 is written.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class DiskUsage(msgspec.Struct, frozen=True):
    """The file system that holds ``path``, against the budgets; ``problems`` says in words which are broken."""

    path: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    budget_bytes: int
    min_free_bytes: int
    caches_budget_bytes: int
    problems: tuple[str, ...] = ()


class Folder(msgspec.Struct, frozen=True):
    """A folder's whole content: ``bytes`` allocated (a hard link counts once in a scan), ``apparent_bytes`` as read.

    ``files`` counts names that are not folders. ``last_used`` is the newest access or change of a regular file, in
    Unix seconds; scanning itself touches folders, so they don't count. ``kind`` "file" is one file lying directly in
    the scanned folder; "rest" is all that has no row of its own, the scanned folder's own blocks included.
    """

    path: str
    bytes: int
    apparent_bytes: int
    files: int
    last_used: float | None = None
    kind: Literal["folder", "file", "rest"] = "folder"


class Scan(msgspec.Struct, frozen=True):
    """A scan so far (``complete`` false) or whole.

    ``folders`` are the largest children of ``path``, largest first, then the "rest": their ``bytes`` add up to
    ``total_bytes``. ``largest`` are the largest folders at any depth below; one that has more than half of its bytes
    in a single subfolder is represented by that. ``unreadable`` names the first of ``unreadable_count`` folders whose
    content could not be read and is not in the sums; ``other_mounts`` the folders left out because another file system
    is mounted there. ``last_used`` is as for a Folder.
    """

    path: str
    total_bytes: int
    apparent_bytes: int
    files: int
    directories: int
    seconds: float
    complete: bool
    folders: tuple[Folder, ...]
    largest: tuple[Folder, ...] = ()
    unreadable: tuple[str, ...] = ()
    unreadable_count: int = 0
    other_mounts: tuple[str, ...] = ()
    last_used: float | None = None


class Cache(msgspec.Struct, frozen=True):
    """One known cache: ``kind`` as in ``services.storage.kinds``; ``bytes`` None until it is looked at.

    ``restore`` says how its content comes back once deleted; ``problem`` why it could not be measured, or was only
    in part ("" if it was).
    """

    kind: str
    title: str
    path: str
    exists: bool
    bytes: int | None
    files: int | None
    last_used: float | None
    restore: str
    problem: str = ""


class Caches(msgspec.Struct, frozen=True):
    """All known caches and their sum against the budget; a cache lying inside another one counts once."""

    caches: tuple[Cache, ...]
    total_bytes: int
    budget_bytes: int
    complete: bool
    problems: tuple[str, ...] = ()
