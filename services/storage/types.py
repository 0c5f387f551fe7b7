"""What the storage services return. Sizes are bytes on disk (allocated blocks), unless said otherwise."""

from __future__ import annotations

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
    """A folder's whole content: ``bytes`` allocated (a hard link counts once in a scan), ``apparent_bytes`` as read."""

    path: str
    bytes: int
    apparent_bytes: int
    files: int
    last_used: float | None = None


class Scan(msgspec.Struct, frozen=True):
    """A scan so far (``complete`` false) or whole. ``folders`` are the children of ``path``, largest first."""

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


class Cache(msgspec.Struct, frozen=True):
    """One known cache: ``kind`` "pip", "uv", "huggingface", "torch", "npm"; ``bytes`` None while it is being measured."""

    kind: str
    title: str
    path: str
    exists: bool
    bytes: int | None
    files: int | None
    last_used: float | None
    restore: str


class Caches(msgspec.Struct, frozen=True):
    """All known caches and their sum against the budget."""

    caches: tuple[Cache, ...]
    total_bytes: int
    budget_bytes: int
    complete: bool
