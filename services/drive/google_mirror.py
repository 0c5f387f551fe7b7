"""What this box remembers of the store on Drive: an SQLite file that may be deleted at any time.

Records of logs never change, and small files are kept under their checksum, so processes may share those rows. Where
files lie is one snapshot with the token of Drive's changes feed that it belongs to: half of one and half of another
would be wrong for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.drive.api.types import DriveFile

_FORMAT = 1
_TABLES = """
create table if not exists snapshot (one integer primary key check (one = 1), data blob not null);
create table if not exists slots (id text primary key, data blob not null, sha256 text not null);
create table if not exists contents (id text primary key, sha256 text not null, data blob not null);
create table if not exists pending (parent text, name text, id text not null, primary key (parent, name));
create table if not exists fetched (local text primary key, size integer, mtime_ns integer, sha256 text);
"""
SNAPSHOT_SECONDS = 86_400.0  # an older snapshot is not worth replaying a day's changes on it
MOST_FILES = 50_000


class Snapshot(msgspec.Struct, frozen=True):
    """Files by id as they were when the changes feed stood at ``token``; ``root`` is the id of the root folder."""

    token: str
    root: str
    files: tuple[DriveFile, ...]
    taken: float


class Mirror:
    """The file at ``path``. Nothing here raises: where it can't be read or written, it just remembers nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened = False
        self._slots: dict[str, bytes] | None = None

    # where files lie

    def load(self) -> Snapshot | None:
        """The last snapshot, None when there is none of use."""
        for (data,) in self._rows("select data from snapshot"):
            with contextlib.suppress(msgspec.DecodeError):
                found = msgspec.msgpack.decode(data, type=Snapshot)
                if 0 <= time.time() - found.taken < SNAPSHOT_SECONDS:
                    return found
        return None

    def save(self, token: str, root: str, files: Iterable[DriveFile]) -> None:
        """Replace the snapshot."""
        kept = tuple(files)
        if len(kept) <= MOST_FILES:
            data = msgspec.msgpack.encode(Snapshot(token, root, kept, time.time()))
            self._write("insert or replace into snapshot values (1, ?)", [(data,)])

    # records and small files

    def slots(self) -> dict[str, bytes]:
        """Every remembered record by id, those that are damaged here left out. Read from the file once."""
        if self._slots is None:
            rows = self._rows("select id, data, sha256 from slots")
            self._slots = {id: data for id, data, sha256 in rows if hashlib.sha256(data).hexdigest() == sha256}
        return self._slots

    def keep_slots(self, slots: Mapping[str, bytes]) -> None:
        """Remember records as they stand on Drive."""
        self.slots().update(slots)
        rows = [(id, data, hashlib.sha256(data).hexdigest()) for id, data in slots.items()]
        self._write("insert or replace into slots values (?, ?, ?)", rows)

    def noticed(self, changed: Mapping[str, str]) -> None:
        """Files have changed; by id their checksum now, "" for those that are gone: forget records that differ."""
        held = self._slots or {}
        for id, sha256 in changed.items():
            if id in held and hashlib.sha256(held[id]).hexdigest() != sha256:
                del held[id]
        self._write("delete from slots where id = ? and sha256 <> ?", list(changed.items()))

    def content(self, id: str, sha256: str) -> bytes | None:
        """A small file's bytes if they are remembered and have this checksum."""
        for (data,) in self._rows("select data from contents where id = ? and sha256 = ?", (id, sha256)):
            if hashlib.sha256(data).hexdigest() == sha256:
                return bytes(data)
        return None

    def keep_content(self, id: str, data: bytes) -> None:
        """Remember a small file's bytes."""
        row = (id, hashlib.sha256(data).hexdigest(), data)
        self._write("insert or replace into contents values (?, ?, ?)", [row])

    # ids that were taken for something about to be made

    def pending(self, parent: str, name: str) -> str:
        """The id under which an earlier attempt meant to make ``name`` in ``parent``, "" when there was none."""
        rows = self._rows("select id from pending where parent = ? and name = ?", (parent, name))
        return next((str(id) for (id,) in rows), "")

    def reserve(self, parent: str, name: str, id: str) -> None:
        """Remember the id before the request goes out, so that a retry after a crash makes no twin."""
        self._write("insert or replace into pending values (?, ?, ?)", [(parent, name, id)])

    def made(self, parent: str, name: str) -> None:
        """It exists now."""
        self._write("delete from pending where parent = ? and name = ?", [(parent, name)])

    # local copies

    def fetched(self, local: Path) -> tuple[int, int, str] | None:
        """Size, time of change and checksum of a local copy when it was verified."""
        rows = self._rows("select size, mtime_ns, sha256 from fetched where local = ?", (str(local),))
        return next(((int(size), int(mtime), str(sha256)) for size, mtime, sha256 in rows), None)

    def keep_fetched(self, local: Path, status: os.stat_result, sha256: str) -> None:
        """A local copy was verified."""
        row = (str(local), status.st_size, status.st_mtime_ns, sha256)
        self._write("insert or replace into fetched values (?, ?, ?, ?)", [row])

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db, self._opened = None, False

    def _rows(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._ready() as db:
            if db is not None:
                return db.execute(sql, values).fetchall()
        return []

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._ready() as db:
            if db is not None:
                with db:
                    db.executemany(sql, rows)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[sqlite3.Connection | None]:
        with self._lock:
            if not self._opened:
                self._opened = True
                self._db = _opened(self.path)
            with contextlib.suppress(sqlite3.Error):
                yield self._db


def _opened(path: Path) -> sqlite3.Connection | None:
    """The database, made anew when it is damaged or of another format; None where there can't be one."""
    for _ in range(2):
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = sqlite3.connect(path, timeout=0.5, check_same_thread=False)
            try:
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = off")  # a torn file is found out and made anew
                (version,) = db.execute("pragma user_version").fetchone()
                if version in (0, _FORMAT):
                    db.executescript(_TABLES)
                    db.execute(f"pragma user_version = {_FORMAT}")
                    return db
            except sqlite3.OperationalError:  # busy, read-only, full: not damaged
                db.close()
                return None
            except sqlite3.Error:
                pass
            db.close()
        with contextlib.suppress(OSError):
            for leftover in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                leftover.unlink(missing_ok=True)
    return None
