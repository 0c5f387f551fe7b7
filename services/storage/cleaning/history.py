"""What was cleaned, as lines that are only ever appended."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from services import atomic
from services.storage.reclaim import CleanHistory, Event


def append(path: Path, event: Event) -> None:
    """Add a line, on the disk when this returns. After a torn last line a new one is begun. Raises OSError."""
    new = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, b"\n" * torn + msgspec.json.encode(event) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    if new:
        atomic.sync_directory(path.parent)


def read(path: Path) -> CleanHistory:
    """All events, newest first. Lines that can't be read are named by number and left as they are."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return CleanHistory((), 0)
    events: list[Event] = []
    bad: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            events.append(msgspec.json.decode(line, type=Event))
        except (msgspec.DecodeError, UnicodeDecodeError):
            last = number == len(lines)
            bad.append(f"{path.name}: line {number} {'was cut off' if last else 'is damaged'} and is passed over.")
    total = sum(event.disk_freed_bytes for event in events if event.what in ("freed", "purged", "recovered"))
    return CleanHistory(tuple(reversed(events)), total, tuple(bad))


def has(path: Path, event: Event) -> bool:
    """Whether this event was written already: a clean-up killed after it did that."""
    return any(e.batch == event.batch and e.what == event.what and e.at == event.at for e in read(path).events)
