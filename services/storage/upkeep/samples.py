"""The record of how full the disk was: ``.hybrid/storage/samples.jsonl``, one sample a line, oldest first.

At most one sample an hour is added, and beyond ``KEEP_HOURLY`` one a day is kept. Beside it lies ``latest``, the last
measured figures and the budgets then in force, as plain words that the shell prompt reads without a parser.
Recording never fails an action: a disk too full to take a sample is what the sample would have said.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services import atomic
from services.storage.types import Caches, DiskUsage
from services.storage.upkeep.types import Sample
from services.workspace import MARK, Workspace

HOUR = 3600.0
DAY = 86400.0
KEEP_HOURLY = 15 * DAY
KEEP = 3 * 365 * DAY
COMPACT_LINES = 1000
_TAIL = 4096

Latest = dict[str, int]
"""Whole numbers by name: caches_bytes, caches_at, budget_bytes, min_free_bytes, caches_budget_bytes, settings_ns."""


def folder(workspace: Workspace) -> Path:
    """Where the records of the storage services lie."""
    return workspace.state / "storage"


def record_usage(workspace: Workspace, usage: DiskUsage, *, now: float | None = None) -> bool:
    """Add a sample of the workspace's disk unless one was added within the hour; says whether it did.

    Only in a workspace that has its ``.hybrid`` folder: looking at a disk from just any folder leaves nothing there.
    """
    now = time.time() if now is None else now
    added = False
    with _lock(workspace) as place:
        if place is None:
            return False
        latest = read_latest(workspace)
        _write_latest(workspace, latest | _budgets(workspace, usage), latest)
        file = place / "samples.jsonl"
        last = _last(file)
        if last is not None and 0 <= now - last.at < HOUR and last.total_bytes == usage.total_bytes:
            return False
        caches = latest.get("caches_bytes")
        append(file, Sample(now, usage.total_bytes, usage.used_bytes, usage.free_bytes, caches))
        added = True
        _compact(file, now)
    return added


def record_caches(workspace: Workspace, caches: Caches, *, now: float | None = None) -> None:
    """Keep the sum of a complete measurement of the caches."""
    now = time.time() if now is None else now
    if caches.complete:
        with _lock(workspace) as place:
            if place is not None:
                latest = read_latest(workspace)
                figures = {"caches_bytes": caches.total_bytes, "caches_at": int(now),
                           "caches_budget_bytes": caches.budget_bytes}  # fmt: skip
                _write_latest(workspace, latest | figures, latest)


def read(workspace: Workspace, *, now: float | None = None) -> tuple[list[Sample], tuple[str, ...]]:
    """All usable samples, oldest first, and a sentence on what could not be used. Never raises for bad content."""
    now = time.time() if now is None else now
    file = folder(workspace) / "samples.jsonl"
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return [], ()
    except OSError as error:
        return [], (f"The record {file} can't be read: {error.strerror}.",)
    found: list[Sample] = []
    bad = ahead = 0
    for line in lines:
        sample = _parse(line)
        if sample is None:
            bad += bool(line.strip())
        elif sample.at > now + DAY:
            ahead += 1
        else:
            found.append(sample)
    found.sort(key=lambda sample: sample.at)
    problems = []
    if bad:
        problems.append(
            f"{bad} line{'s' * (bad != 1)} of {file} can't be read and {'are' if bad > 1 else 'is'} left out."
        )
    if ahead:
        problems.append(f"{ahead} sample{'s' * (ahead != 1)} of {file} carry a date in the future and are left out.")
    return found, tuple(problems)


def read_latest(workspace: Workspace) -> Latest:
    """The last measured figures; {} when there are none."""
    try:
        words = (folder(workspace) / "latest").read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return {}
    return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}


def append(file: Path, record: msgspec.Struct) -> None:
    """Add one line in one write, made durable. A torn last line is closed first, so that it can't swallow this one.

    Raises OSError.
    """
    line = msgspec.json.encode(record) + b"\n"
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def daily(samples: list[Sample]) -> list[Sample]:
    """The last sample of each day (UTC), oldest first."""
    return list({int(sample.at // DAY): sample for sample in samples}.values())


@contextlib.contextmanager
def _lock(workspace: Workspace) -> Iterator[Path | None]:
    """The record's folder, held against other writers; None where nothing may be kept. Swallows OSError."""
    place = folder(workspace)
    try:
        if not workspace.state.is_dir():
            yield None
            return
        place.mkdir(exist_ok=True)
        fd = os.open(place / "samples.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield place
    except OSError:  # what could not be kept now is kept the next time
        pass
    finally:
        os.close(fd)


def _parse(line: bytes) -> Sample | None:
    try:
        sample = msgspec.json.decode(line, type=Sample)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    sane = 0 < sample.at < 1e11 and 0 <= sample.used_bytes <= sample.total_bytes and sample.free_bytes >= 0
    return sample if sane else None


def _last(file: Path) -> Sample | None:
    """The newest sample, read from the file's end alone."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return None
    return next((sample for line in reversed(lines) if (sample := _parse(line))), None)


def _compact(file: Path, now: float) -> None:
    """Once the file is long, keep the hourly samples of late and one a day of the older; damaged lines go."""
    lines = file.read_bytes().splitlines()
    if len(lines) <= COMPACT_LINES:
        return
    found = sorted((s for line in lines if (s := _parse(line))), key=lambda sample: sample.at)
    old = [sample for sample in found if now - KEEP < sample.at < now - KEEP_HOURLY]
    kept = [*daily(old), *(sample for sample in found if sample.at >= now - KEEP_HOURLY)]
    if len(kept) < len(lines) * 0.9:  # else it would be rewritten at every sample
        atomic.write_bytes(file, b"".join(msgspec.json.encode(sample) + b"\n" for sample in kept))


def _budgets(workspace: Workspace, usage: DiskUsage) -> Latest:
    try:
        settings_ns = (workspace.root / MARK).stat().st_mtime_ns
    except OSError:
        settings_ns = 0
    return {
        "budget_bytes": usage.budget_bytes,
        "min_free_bytes": usage.min_free_bytes,
        "caches_budget_bytes": usage.caches_budget_bytes,
        "settings_ns": settings_ns,
    }


def _write_latest(workspace: Workspace, latest: Latest, before: Latest) -> None:
    if latest != before:
        text = "".join(f"{key} {value}\n" for key, value in latest.items())
        atomic.write_text(folder(workspace) / "latest", text)
