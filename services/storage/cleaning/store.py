"""The clean-up's own files, below ``.hybrid/``:

cleaning/lock             held by the one clean-up at work
cleaning/plans/ID         plans not executed yet
cleaning/batches/ID.plan  what a batch consists of
cleaning/batches/ID.log   its journal: one line for each phase, on the disk before the phase begins
cleaning/history.jsonl    what was done
trash/ID/N                what was moved, one entry for each path of the plan
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from services import atomic
from services.errors import BadInput, HybridError, Refused
from services.storage.cleaning.records import FORMAT, StoredPlan
from services.workspace import Workspace

KEPT_PLANS = 20
RESERVE = 8_000_000
"""Bytes set aside for plans and journals on a full disk."""

PLAN_SECONDS = 24 * 3600
"""A plan older than this is not worth executing: look again."""

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")

Phase = Literal["move", "verify", "trashed", "purge", "undo", "done"]


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a batch's journal. What a later line leaves out holds as an earlier one said it.

    ``at`` is when the clean-up began, ``began`` when the last thing done with it did. ``places`` are the trash folders,
    ``where`` the one of each target; ``rebuilt`` the targets that were moved entry by entry; ``stamps`` each target's
    parent's time of change before and after the move; ``files`` and ``size`` (bytes) are what lies in the trash.
    """

    phase: Phase
    at: float | None = None
    began: float | None = None
    now: bool | None = None
    scope: str | None = None
    titles: tuple[str, ...] | None = None
    places: list[bytes] | None = None
    where: list[int] | None = None
    rebuilt: list[int] | None = None
    stamps: dict[int, tuple[int, int]] | None = None
    files: int | None = None
    size: int | None = None
    partly: bool | None = None


def fold(notes: list[Note]) -> Note:
    """What a journal says in all. ``phase`` is the last one."""
    merged: dict[str, Any] = {}
    for note in notes:
        merged |= {name: value for name in note.__struct_fields__ if (value := getattr(note, name)) is not None}
    return Note(**merged)


def new_id() -> str:
    """An id that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


class Journal:
    """The journal of one batch. A line is on the disk when ``write`` returns; a torn last line does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, note: Note) -> None:
        """Append and fsync. Raises OSError; a line that could not be written whole is taken back."""
        data = msgspec.json.encode(note) + b"\n"
        new = not self.path.exists()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            try:
                if os.write(fd, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
        if new:
            atomic.sync_directory(self.path.parent)

    def read(self) -> Note | None:
        """What it says; None when not even its first line is whole: nothing was done."""
        data = self.path.read_bytes()
        lines = data.split(b"\n")[:-1]
        if data and not data.endswith(b"\n"):  # torn by a crash: appending must not glue to it
            os.truncate(self.path, len(data) - len(data.rsplit(b"\n", 1)[-1]))
        try:
            return fold([msgspec.json.decode(line, type=Note) for line in lines]) if lines else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HybridError(
                f"The journal {self.path} is damaged ({error}).",
                hint="What it tells of lies in the trash folder of the same name and is left alone.",
            ) from error


class Store:
    """The files above, of one workspace. Nothing is created before it is needed."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.folder = workspace.state / "cleaning"
        self.plans = self.folder / "plans"
        self.batches = self.folder / "batches"
        self.trash = workspace.state / "trash"

    def prepare(self) -> None:
        """Make the folders. Raises BadInput when the workspace can't be written."""
        self.workspace.ensure_state()
        try:
            for folder in (self.plans, self.batches):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.trash.mkdir(exist_ok=True, mode=0o700)
            self._keep_reserve()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> BadInput:
        return BadInput(
            f"The clean-up's own folder {self.folder} can't be written: {error.strerror}.",
            hint="Without its journal nothing is cleaned.",
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while anything is moved or deleted.

        Raises Refused when another clean-up of this workspace is at it, BadInput when the workspace can't be written.
        """
        self.prepare()
        try:
            lock = (self.folder / "lock").open("ab")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused("Another clean-up of this workspace is at work.", hint="Wait until it ends.") from None
            yield

    def with_room(self, write: Callable[[], None]) -> None:
        """Call ``write``; when the disk is full, once more after giving up a reserve kept for that. Raises OSError."""
        reserve = self.folder / "reserve"
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not reserve.exists():
                raise
            reserve.unlink()
            write()

    def _keep_reserve(self) -> None:
        """So that a full disk can still be cleaned, set room aside for the journal. A full one has none to take."""
        reserve = self.folder / "reserve"
        if reserve.exists():
            return
        try:
            with reserve.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE)
        except (OSError, AttributeError):  # AttributeError: macOS has no posix_fallocate
            reserve.unlink(missing_ok=True)

    # Plans

    def keep_plan(self, stored: StoredPlan) -> None:
        """Write it, and remove plans that are old or many. Raises OSError."""
        self.prepare()
        for path in sorted(self.plans.iterdir(), reverse=True)[KEPT_PLANS - 1 :]:
            path.unlink(missing_ok=True)
        for path in self.plans.iterdir():
            if time.time() - path.stat().st_mtime > PLAN_SECONDS:
                path.unlink(missing_ok=True)
        data = encode(stored)
        self.with_room(lambda: atomic.write_bytes(self.plans / stored.plan.id, data, mode=0o600))

    def plan(self, plan_id: str) -> StoredPlan:
        """The plan kept as ``plan_id``. Raises BadInput when there is none, Refused when it is too old."""
        path = self.plans / plan_id
        if not _ID.fullmatch(plan_id) or not path.is_file():
            raise BadInput(
                f"There is no plan '{plan_id}': it was executed, it is too old, or it was never made.",
                hint="storage.plan makes one.",
            )
        stored = decode(path)
        if time.time() - stored.plan.created_at > PLAN_SECONDS:
            raise Refused(f"The plan {plan_id} is more than a day old.", hint="Make a new one with storage.plan.")
        return stored

    # Batches

    def journal(self, batch: str) -> Journal:
        return Journal(self.batches / f"{batch}.log")

    def begin(self, batch: str, plan_id: str) -> None:
        """Turn the plan into the batch's. Raises FileNotFoundError when another clean-up took it first."""
        (self.plans / plan_id).rename(self.batches / f"{batch}.plan")
        atomic.sync_directory(self.batches)

    def stored(self, batch: str) -> StoredPlan:
        return decode(self.batches / f"{batch}.plan")

    def ids(self) -> list[str]:
        """All batches, newest first, finished or not."""
        if not self.batches.is_dir():
            return []
        return sorted({p.stem for p in self.batches.iterdir() if _ID.fullmatch(p.stem)}, reverse=True)

    def forget(self, batch: str) -> None:
        """Remove a batch's own files, the journal last: until then it can be found."""
        (self.batches / f"{batch}.plan").unlink(missing_ok=True)
        (self.batches / f"{batch}.log").unlink(missing_ok=True)


def encode(stored: StoredPlan) -> bytes:
    """A plan as compact bytes."""
    return zlib.compress(msgspec.msgpack.encode(stored), 1)


def decode(path: Path) -> StoredPlan:
    """The plan in ``path``. Raises HybridError when it is damaged or of another version."""
    try:
        stored = msgspec.msgpack.decode(zlib.decompress(path.read_bytes()), type=StoredPlan)
    except (zlib.error, msgspec.DecodeError) as error:
        raise HybridError(f"The clean-up's file {path} is damaged ({error}).") from error
    if stored.format != FORMAT:
        raise HybridError(f"{path} was written by another version of this program (format {stored.format}).")
    return stored
