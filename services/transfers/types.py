"""What a transfer is: its plan, its frozen spec, how it stands. Sizes are bytes, times Unix seconds.

A transfer's directory has the layout of a run's::

    .hybrid/transfers/<id>/   spec.json  events-NNNNNN.jsonl  control/{pause,cancel,again,priority}
    .hybrid/transfers/        worker.lock  worker.log

One that runs in the foreground, in the command that asked for it, has a ``worker.lock`` of its own.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Direction = Literal["push", "pull"]
FileState = Literal["new", "changed", "same", "extra", "skipped"]
By = Literal["", "sha256", "md5", "size"]
State = Literal["queued", "running", "retrying", "paused", "done", "failed", "cancelled", "interrupted"]
FINISHED: frozenset[str] = frozenset({"done", "failed", "cancelled"})


class Planned(msgspec.Struct, frozen=True):
    """One file of a plan. ``state``: new and changed ones travel, same ones don't, an extra one is only at the
    receiving side, a skipped one can't travel (``why`` says so). ``by`` is how two were found to be the same or not;
    "size" means that nobody knows a checksum."""

    path: str
    bytes: int
    state: FileState
    by: By = ""
    why: str = ""


class TransferPlan(msgspec.Struct, frozen=True):
    """What a push or pull would do, by what lies on both sides now. ``send_bytes`` travel; ``same`` files don't.

    ``files`` are all but those that are the same. ``problems`` are sentences about what stands in the way or can't be
    known; ``budget`` says which disk budget a pull would break, "" when none.
    """

    direction: Direction
    local: str
    store: str
    new: int
    changed: int
    same: int
    extra: int
    skipped: int
    send_bytes: int
    total_bytes: int
    files: tuple[Planned, ...]
    problems: tuple[str, ...] = ()
    budget: str = ""


class Spec(msgspec.Struct, frozen=True):
    """``spec.json``, frozen when a transfer is queued. It names no secret: the worker opens the store by the settings.

    ``local`` is an absolute path; ``store`` a folder's path in the store; ``only`` the one file of it that travels, ""
    for all. ``agreed``: the plan was shown and got a yes, so files may be overwritten. ``place`` is which store was
    meant; a worker that finds another in the settings refuses. ``label`` is what the person asked for. ``foreground``:
    the command that asked for it moves it itself; the worker takes it only when somebody resumes it later.
    """

    v: int
    id: str
    direction: Direction
    local: str
    store: str
    only: str
    delete: bool
    agreed: bool
    place: str
    label: str
    created_at: float
    foreground: bool = False


class FileProgress(msgspec.Struct, frozen=True):
    """One file on its way: ``done`` of ``size`` bytes."""

    path: str
    done: int
    size: int


class TransferView(msgspec.Struct, frozen=True):
    """A transfer as it stands: a fold of its events plus whether its worker lives.

    ``done_bytes`` and ``total_bytes`` count what was found to be missing when it first began; ``moved_bytes`` is what
    really went over the line in all attempts, so more than that was sent twice. ``rate`` is bytes a second, smoothed;
    ``eta_s`` None while unknown. ``retries`` and ``trouble`` are the store's: how often it tried again, and why last.
    ``foreground``: the command that asked for it moves it, not the queue's worker: it can be cancelled, not paused.
    """

    id: str
    state: State
    direction: Direction
    label: str
    local: str
    store: str
    priority: int
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    done_files: int = 0
    total_files: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    moved_bytes: int = 0
    rate: float | None = None
    eta_s: float | None = None
    attempt: int = 0
    retries: int = 0
    trouble: str = ""
    note: str = ""
    reason: str = ""
    hint: str = ""
    files: tuple[FileProgress, ...] = ()
    problems: tuple[str, ...] = ()
    foreground: bool = False


class Transfers(msgspec.Struct, frozen=True):
    """The queue: what runs, what waits in the order it will run, then what is over, newest first.

    ``worker``: a background process works on it now.
    """

    transfers: tuple[TransferView, ...]
    worker: bool


class TransferLine(msgspec.Struct, frozen=True):
    """A transfer on one line. ``share`` is what is done of it, 0 to 1; ``speed`` in words, "" while nothing moves."""

    id: str
    state: State
    what: str
    share: float | None
    total_bytes: int
    speed: str
    left_s: float | None
    retries: int
    reason: str


class TransferLines(msgspec.Struct, frozen=True):
    """``Transfers``, one line each; ``whole=true`` gives all that is known."""

    transfers: tuple[TransferLine, ...]
    worker: bool


class Moved(msgspec.Struct, frozen=True):
    """What a push or pull in the foreground did. ``trashed`` extras lie in the store's trash; ``unsettled`` files are
    written to a mount that has not yet confirmed that they reached Drive."""

    direction: Direction
    local: str
    store: str
    files: int
    bytes: int
    same: int
    verified: int
    trashed: int = 0
    unsettled: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()


class Verified(msgspec.Struct, frozen=True):
    """A local folder against one of the store. ``ok``: nothing is missing here or different; ``extra`` files are only
    here. ``by_sha256`` … count how the files were compared; ``by_size`` ones were compared by size alone."""

    local: str
    store: str
    ok: bool
    files: int
    bytes: int
    by_sha256: int
    by_md5: int
    by_size: int
    manifest: str
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class LevelEntry(msgspec.Struct, frozen=True):
    """A file or folder of the store. ``size_bytes`` is None for a folder; ``skipped`` says why it can't be fetched."""

    name: str
    kind: Literal["folder", "file"]
    size_bytes: int | None
    modified_at: float | None = None
    skipped: str = ""


class Level(msgspec.Struct, frozen=True):
    """One level of the store: folders first, then files, by name. ``path`` "" is the root, which lies at ``place``."""

    path: str
    place: str
    store: str
    google_drive: bool
    entries: tuple[LevelEntry, ...]


class Trashed(msgspec.Struct, frozen=True):
    """What was moved to the store's trash."""

    path: str
    files: int
    freed_bytes: int


class Cleared(msgspec.Struct, frozen=True):
    """Finished transfers whose entries were removed from the queue; what they moved stays."""

    cleared: tuple[str, ...]
