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
    ``finished``: nothing of it is still to be counted. ``last_bytes`` is what it held when it was last read, where
    that is known and the scan is still under way: an estimate.
    """

    path: str
    bytes: int
    apparent_bytes: int
    files: int
    last_used: float | None = None
    kind: Literal["folder", "file", "rest"] = "folder"
    finished: bool = True
    last_bytes: int | None = None


class Scan(msgspec.Struct, frozen=True):
    """A scan so far (``complete`` false) or whole.

    ``folders`` are the largest children of ``path``, largest first, then the "rest": their ``bytes`` add up to
    ``total_bytes``. ``largest`` are the largest folders at any depth below; one that has more than half of its bytes
    in a single subfolder is represented by that. ``unreadable`` names the first of ``unreadable_count`` folders whose
    content could not be read and is not in the sums; ``other_mounts`` the folders left out because another file system
    is mounted there. ``last_used`` is as for a Folder.

    ``read_directories`` were read now; ``reused_directories`` taken over from the kept index, since nothing in them was
    added, removed or renamed. ``age`` is the seconds since this was read: 0 for a scan that was just made.
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
    read_directories: int = 0
    reused_directories: int = 0
    age: float = 0.0


class Row(msgspec.Struct, frozen=True):
    """One line of an explored folder: a folder's whole content, one file, or the "rest" that has no row of its own.

    ``name`` is the last part of ``path``, or the path below the explored folder where files of any depth are listed.
    Sizes, ``files``, ``last_used``, ``finished`` and ``last_bytes`` are as for a Folder; ``share`` is of the explored
    folder's bytes, 0 to 1.
    """

    path: str
    name: str
    kind: Literal["folder", "file", "rest"]
    bytes: int
    apparent_bytes: int
    files: int
    last_used: float | None
    share: float
    finished: bool = True
    last_bytes: int | None = None


class Explored(msgspec.Struct, frozen=True):
    """One level of a folder: its subfolders and files, sorted as asked, then the "rest"; their bytes add up.

    ``age`` is the seconds since the sizes of its subfolders were read: 0 when just now. The other fields are as for a
    Scan; ``complete`` is false while the scan goes on, or when it was stopped.
    """

    path: str
    rows: tuple[Row, ...]
    total_bytes: int
    apparent_bytes: int
    files: int
    directories: int
    complete: bool
    age: float = 0.0
    read_directories: int = 0
    reused_directories: int = 0
    unreadable_count: int = 0
    unreadable: tuple[str, ...] = ()
    other_mounts: tuple[str, ...] = ()
    last_used: float | None = None


class Largest(msgspec.Struct, frozen=True):
    """The largest files, or folders, at any depth below ``path``, largest first.

    Every file of more than ``down_to_bytes`` has a row, as far as ``limit`` allows. A folder that has more than half
    of its bytes in a single subfolder is represented by that one. ``age`` is as for Explored.
    """

    path: str
    kind: Literal["files", "folders"]
    rows: tuple[Row, ...]
    total_bytes: int
    complete: bool
    age: float = 0.0
    down_to_bytes: int = 0


class FileType(msgspec.Struct, frozen=True):
    """All files of one ending (".safetensors", lower case), "none" without one, "other" beyond the largest ones."""

    type: str
    bytes: int
    apparent_bytes: int
    files: int
    share: float


class FileTypes(msgspec.Struct, frozen=True):
    """What kinds of files fill a folder at any depth, largest first, "other" last.

    The bytes are those of files: folders' own blocks, which a Scan counts too, are in ``folder_bytes``.
    """

    path: str
    rows: tuple[FileType, ...]
    total_bytes: int
    folder_bytes: int
    files: int
    complete: bool
    age: float = 0.0


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
