"""What a push or a pull would do: the two sides compared file by file, before a byte travels.

Two files are the same when their sizes agree and so do their sha256, or md5 where the store knows only that. Where it
knows neither (a plain folder), an equal size and a receiving file that is not older will do; in doubt a folder's bytes
are read, and another store's file counts as changed.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path, PurePosixPath

import msgspec

from services import formats
from services.drive.store import Store, Stored
from services.errors import Refused
from services.settings import Disk
from services.storage import disk
from services.transfers.local import PART, LocalFile, checksum, listed
from services.transfers.manifest import stored_manifest
from services.transfers.types import By, Direction, FileState, Planned, TransferPlan

_SAME_TIME = 1e-6  # seconds; a time read as a number of seconds is not exact

Told = Callable[[int], None]


class Pair(msgspec.Struct, frozen=True):
    """One path on both sides; ``here`` is local. A side that has no such file is None."""

    plan: Planned
    here: LocalFile | None
    there: Stored | None
    sha256: str = ""  # what its bytes should be, when known beforehand


class Comparison(msgspec.Struct, frozen=True):
    """Both sides, compared."""

    direction: Direction
    local: str
    store: str
    pairs: tuple[Pair, ...]

    def of(self, *states: FileState) -> tuple[Pair, ...]:
        """The pairs in one of ``states``."""
        return tuple(p for p in self.pairs if p.plan.state in states)

    @property
    def send_bytes(self) -> int:
        """Bytes that travel."""
        return sum(p.plan.bytes for p in self.of("new", "changed"))


async def compare(
    store: Store, direction: Direction, local: Path, folder: str, only: str = "", told: Told = lambda _: None
) -> Comparison:
    """Compare the local folder with the store's. ``told`` hears of bytes read for checksums, on the loop's thread.

    Raises BadInput (a side can't be used), StoreUnreachable, HybridError.
    """
    here = await asyncio.to_thread(listed, local, only)
    stored = await store.files(folder)
    there, blocked = _there(stored, only)
    expected = await stored_manifest(store, folder, there) if direction == "pull" else {}
    if direction == "pull":  # what an unfinished download left is no file of its own
        here = {path: file for path, file in here.items() if path.removesuffix(PART) not in there or path in there}
    pairs: list[Pair] = []
    for path in sorted({*here, *there, *blocked}):
        why = blocked.get(path, "")
        mine, theirs = here.get(path), there.get(path)
        sha256 = (theirs.sha256 or expected.get(path, "")) if theirs and direction == "pull" else ""
        state, by, reason = _quick(direction, mine, theirs, why)
        if state == "same" and mine and theirs:
            same, by = await _equal(store, folder, direction, mine, theirs, sha256, told)
            state = "same" if same else "changed"
        size = (mine if direction == "push" else theirs) or theirs or mine
        pairs.append(Pair(Planned(path, size.size if size else 0, state, by, reason), mine, theirs, sha256))
    return Comparison(direction, str(local), folder, tuple(pairs))


def _there(stored: Iterable[Stored], only: str) -> tuple[dict[str, Stored], dict[str, str]]:
    """The store's files by path, and what of them can't be fetched and why."""
    there: dict[str, Stored] = {}
    blocked: dict[str, str] = {}
    for file in stored:
        if only and file.path != only:
            continue
        if file.skipped:
            blocked[file.path] = file.skipped.rstrip(".")
        elif file.path in there:
            blocked[file.path] = "two files have this name"
        else:
            there[file.path] = file
    folders = {parent.as_posix() for path in there for parent in PurePosixPath(path).parents}
    for path in there.keys() & (folders | blocked.keys()):
        blocked.setdefault(path, "a folder has the same name")
        del there[path]
    return there, blocked


def _quick(direction: Direction, mine: LocalFile | None, theirs: Stored | None, why: str) -> tuple[FileState, By, str]:
    """What can be said without checksums; "same" is still to be looked at closer."""
    if why and (mine is None or direction == "pull"):
        return "skipped", "", why
    if why:
        return "skipped", "", f"in the store {why}"
    source, target = (mine, theirs) if direction == "push" else (theirs, mine)
    if source is None:
        unreadable = mine is not None and mine.skipped
        return ("skipped", "", mine.skipped) if unreadable and mine else ("extra", "", "")
    if mine is not None and mine.skipped:
        return "skipped", "", mine.skipped if direction == "push" else f"here {mine.skipped}"
    if target is None:
        return "new", "", ""
    return ("same", "", "") if source.size == target.size else ("changed", "size", "")


async def _equal(
    store: Store,
    folder: str,
    direction: Direction,
    mine: LocalFile | None,
    theirs: Stored | None,
    sha256: str,
    told: Told,
) -> tuple[bool, By]:
    """Whether two files of the same size are the same, and by what that is known."""
    assert mine is not None and theirs is not None
    if wanted := theirs.sha256 or sha256:
        return await summed(mine.local, "sha256", told) == wanted, "sha256"
    if theirs.md5:
        return await summed(mine.local, "md5", told) == theirs.md5, "md5"
    source, target = (mine, theirs) if direction == "push" else (theirs, mine)
    if source.modified <= target.modified + _SAME_TIME:
        return True, "size"
    if store.kind != "folder":
        return False, "size"
    place = store.local("/".join(p for p in (folder, theirs.path) if p))
    return await summed(mine.local, "sha256", told) == await summed(place, "sha256", told), "sha256"


async def summed(file: str, kind: str, told: Told) -> str:
    """The checksum of a local file, read in a thread that stops when this is cancelled. Raises HybridError."""
    stop, loop = threading.Event(), asyncio.get_running_loop()

    def read(n: int) -> None:
        loop.call_soon_threadsafe(told, n)

    return await stoppable(asyncio.to_thread(checksum, file, kind, stop, read), stop)


async def stoppable(work: Coroutine[None, None, str], stop: threading.Event) -> str:
    """Await a thread's ``work``; when cancelled, set ``stop`` and wait until the thread has seen it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise


def public(found: Comparison, where: str, budget: str = "", delete: bool = False) -> TransferPlan:
    """The comparison as actions return it; ``where`` is how a person finds the store's folder."""
    counts = {state: len(found.of(state)) for state in ("new", "changed", "same", "extra", "skipped")}
    return TransferPlan(
        direction=found.direction,
        local=found.local,
        store=where,
        **counts,
        send_bytes=found.send_bytes,
        total_bytes=sum(p.plan.bytes for p in found.of("new", "changed", "same")),
        files=tuple(p.plan for p in found.pairs if p.plan.state != "same"),
        problems=problems(found, delete),
        budget=budget,
    )


def problems(found: Comparison, delete: bool = False) -> tuple[str, ...]:
    """In sentences: what stays behind and why, what is only at the other side, what no checksum vouches for."""
    lines: list[str] = []
    skipped = found.of("skipped")
    for pair in skipped[:5]:
        lines.append(f"{pair.plan.path!r} is left out: {pair.plan.why}.")
    if len(skipped) > 5:
        lines.append(f"{len(skipped) - 5} more are left out.")
    extra = len(found.of("extra"))
    if extra and not delete:
        side = "in the store" if found.direction == "push" else "here"
        lines.append(f"{files(extra)} {'is' if extra == 1 else 'are'} only {side} and stay{'s' * (extra == 1)}.")
    if unsure := sum(p.plan.by == "size" for p in found.of("same")):
        lines.append(f"{files(unsure)} compared by size and time only: this store knows no checksums.")
    return tuple(lines)


def files(n: int) -> str:
    """ "1 file", "2 files"."""
    return f"{formats.count(n)} file{'s' * (n != 1)}"


def check_space(found: Comparison, budget: Disk) -> str:
    """Before a pull: the sentence about the disk budget it would break, or "". Raises Refused when it can't fit."""
    place = Path(found.local)
    need = sum(p.plan.bytes - _fetched(place / p.plan.path, p.plan.bytes) for p in found.of("new", "changed"))
    there = next(p for p in (place, *place.parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if need > free:
        raise Refused(
            f"{found.local} needs {formats.size(need)} and its disk has {formats.size(free)} free.",
            hint="storage.plan shows what can be cleaned.",
        )
    now = disk.usage(str(there), budget)
    after = msgspec.structs.replace(now, used_bytes=now.used_bytes + need, free_bytes=now.free_bytes - need)
    broken = disk.against(after).problems
    return f"Then {broken[0][0].lower()}{broken[0][1:]}" if need and broken else ""


def _fetched(local: Path, size: int) -> int:
    """Bytes of a file that an earlier attempt left beside it: they take no new room."""
    try:
        return min(local.with_name(local.name + PART).stat().st_blocks * 512, size)
    except OSError:
        return 0
