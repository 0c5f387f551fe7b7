"""Walking a tree: one level of a folder, the largest files and folders below it, what kinds of files fill it.

Sizes of subfolders come from the kept index when it has them, so that a level is there at once; its own files are
looked at each time, as is which subfolders there are. None of these actions writes, but for the index itself.
"""

from __future__ import annotations

import asyncio
import functools
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from services.context import Context, Progress
from services.storage import paths, scanning
from services.storage.reader import KEPT_LARGE, MAX_UNREADABLE
from services.storage.scanner import Scanner
from services.storage.scanning import Scanned
from services.storage.tree import UNREADABLE, Tree, join
from services.storage.types import Explored, FileType, FileTypes, Folder, Largest, Row, Scan

T = TypeVar("T")
Sort = Literal["size", "count", "age", "name"]
_Path = Annotated[str, Meta(description="The folder; the workspace when left out.")]
_Refresh = Annotated[bool, Meta(description="Look first at what changed since the last scan.")]
_Full = Annotated[bool, Meta(description="Read everything again, also what looks unchanged.")]


class ExploreParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.explore``."""

    path: _Path = ""
    sort: Annotated[
        Sort, Meta(description="size and count: most first; age: unused for longest first; name: A to Z.")
    ] = "size"
    hidden: Annotated[bool, Meta(description="Give names that begin with a dot a row of their own.")] = True
    filter: Annotated[str, Meta(description="Only names that contain this text get a row.")] = ""
    limit: Annotated[int, Meta(ge=0, le=100_000, description="How many get a row of their own.")] = 1000
    refresh: _Refresh = False
    full: _Full = False


class LargestParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.largest``."""

    path: _Path = ""
    kind: Annotated[Literal["files", "folders"], Meta(description="What to list.")] = "files"
    limit: Annotated[int, Meta(ge=1, le=KEPT_LARGE, description="How many.")] = 50
    refresh: _Refresh = False
    full: _Full = False


class TypesParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.types``."""

    path: _Path = ""
    top: Annotated[int, Meta(ge=1, le=1000, description="How many endings get a row of their own.")] = 30


async def explore(ctx: Context, params: ExploreParams) -> Explored:
    """One level of a folder: from the index at once if it is there, else, or with ``refresh``, from a scan.

    Levels so far are reported as ``Progress.partial``: the last scan's rows of this very folder, while the index of all
    below it is loaded, and those of a scan that goes on. Raises BadInput when the path is no
    readable folder.
    """
    path = scanning.folder(ctx, params.path)

    def report(so_far: Scan) -> None:
        note = f"{so_far.files:,} files"
        ctx.report(Progress("scan", so_far.total_bytes, None, "bytes", note, _level_so_far(so_far, params)))

    found = await _known(ctx, path, params.refresh, params.full, params.limit, report)
    if found.tree is None:
        return _level_so_far(found.scan, params)
    return await _thread(functools.partial(_level, found, path, params))


async def largest(ctx: Context, params: LargestParams) -> Largest:
    """The largest files or folders at any depth. Raises BadInput when the path is no readable folder."""
    path = scanning.folder(ctx, params.path)

    def report(so_far: Scan) -> None:
        ctx.report(Progress("scan", so_far.total_bytes, None, "bytes", f"{so_far.files:,} files"))

    found = await _known(ctx, path, params.refresh, params.full, 0, report)
    if params.kind == "files" and found.tree is not None and _too_few(found, params.limit):
        found = await scanning.scan(ctx, path, top=0, full=True, report=report)  # of this folder alone
    if found.tree is None:
        return Largest(found.scan.path, params.kind, (), found.scan.total_bytes, False)
    return await _thread(functools.partial(_largest, found, path, params))


async def types(ctx: Context, params: TypesParams) -> FileTypes:
    """Bytes and counts by the ending of file names; reads all names. Raises BadInput when the path is no folder.

    Results so far are reported as ``Progress.partial``.
    """
    path = scanning.folder(ctx, params.path)
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def report(so_far: FileTypes) -> None:
        ctx.report(Progress("types", so_far.total_bytes, None, "bytes", f"{so_far.files:,} files", so_far))

    def work() -> FileTypes:
        sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

        def note(name: str, blocks: int, apparent: int) -> None:
            sum_ = sums[ending(name)]
            sum_[0] += blocks
            sum_[1] += apparent
            sum_[2] += 1

        def post(scan: Scan) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(report, _types(scan, sums, params.top))

        scan = Scanner(path, top=0, on_file=note, on_partial=post, cancelled=stop).run()
        return _types(scan, sums, params.top)

    return await scanning.in_thread(work, stop)


async def _known(
    ctx: Context, path: str, refresh: bool, full: bool, top: int, report: Callable[[Scan], None]
) -> Scanned:
    """What the index has of ``path``, or a scan."""
    if not refresh and not full:
        index = scanning.index(ctx)
        last = await _thread(functools.partial(index.load, path, head_only=True))
        if last is not None:
            report(msgspec.structs.replace(last.scan, complete=False))
        found = await _thread(functools.partial(index.covering, path))
        if found is not None:
            kept, row = found
            scan = msgspec.structs.replace(kept.scan, problems=tuple(dict.fromkeys(index.warnings)))
            return Scanned(scan, kept.tree, row, kept.age)
    return await scanning.scan(ctx, path, top=top, full=full, report=report)


async def _thread(work: Callable[[], T]) -> T:
    return await scanning.in_thread(work, threading.Event())


# One level


def _level(found: Scanned, path: str, params: ExploreParams) -> Explored:
    tree, row, scan = found.tree, found.row, found.scan
    assert tree is not None
    known = {tree.names[child]: child for child in tree.children(row)}
    charged = tree.charged_in(row)
    linked = set(tree.link_inode[tree.links(row)])
    rows, own_blocks = [], tree.own[row]
    fd = paths.open_folder(path)
    try:
        own_blocks = os.fstat(fd).st_blocks
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # deleted since it was listed, or not for us to see
                where = paths.shown(join(path, entry.name))
                if stat.S_ISDIR(info.st_mode):
                    if info.st_dev == tree.device:
                        rows.append(_folder_row(tree, known.get(entry.name), where, entry.name, info))
                    continue
                elsewhere = info.st_nlink > 1 and info.st_ino in linked and info.st_ino not in charged
                rows.append(_file_row(where, entry.name, info, elsewhere))
                if info.st_nlink > 1:  # a further name in this same folder
                    linked.add(info.st_ino)
                    charged.discard(info.st_ino)
    finally:
        os.close(fd)
    unreadable = tree.flagged(row, UNREADABLE)
    text = paths.shown(path)
    return _explored(
        rows,
        params,
        Explored(
            text,
            (),
            own_blocks * 512 + sum(r.bytes for r in rows),
            sum(r.apparent_bytes for r in rows),
            sum(r.files for r in rows),
            tree.end[row] - row,
            scan.complete and all(r.finished for r in rows),
            found.age,
            scan.read_directories,
            scan.reused_directories,
            len(unreadable),
            tuple(paths.shown(tree.path_of(child)) for child in unreadable[:MAX_UNREADABLE]),
            tuple(mount for mount in scan.other_mounts if mount.startswith(text.rstrip("/") + "/")),
            max((r.last_used for r in rows if r.last_used), default=None),
            scan.problems,
        ),
    )


def _folder_row(tree: Tree, row: int | None, path: str, name: str, info: os.stat_result) -> Row:
    shown = paths.shown(name)
    if row is None:  # made since
        return Row(path, shown, "folder", info.st_blocks * 512, 0, 0, None, 0.0, finished=False)
    return Row(
        path, shown, "folder", tree.all_blocks[row] * 512, tree.all_apparent[row], tree.all_files[row],
        tree.all_used[row] or None, 0.0,
    )  # fmt: skip


def _file_row(path: str, name: str, info: os.stat_result, elsewhere: bool = False) -> Row:
    regular = stat.S_ISREG(info.st_mode)
    apparent = info.st_size if regular or stat.S_ISLNK(info.st_mode) else 0
    used = max(info.st_atime, info.st_mtime) if regular else None
    if elsewhere:
        return Row(path, paths.shown(name), "file", 0, 0, 1, used, 0.0, counted_elsewhere=True)
    return Row(path, paths.shown(name), "file", info.st_blocks * 512, apparent, 1, used, 0.0)


def _level_so_far(scan: Scan, params: ExploreParams) -> Explored:
    rows = [_row(folder) for folder in scan.folders if folder.kind != "rest"]
    return _explored(
        rows,
        params,
        Explored(
            scan.path, (), scan.total_bytes, scan.apparent_bytes, scan.files, scan.directories, False, scan.age,
            scan.read_directories, scan.reused_directories, scan.unreadable_count, scan.unreadable, scan.other_mounts,
            scan.last_used, scan.problems,
        ),
    )  # fmt: skip


def _row(f: Folder) -> Row:
    name = f.path.rpartition("/")[2]
    return Row(
        f.path, name, f.kind, f.bytes, f.apparent_bytes, f.files, f.last_used, 0.0, f.finished, f.last_bytes
    )  # fmt: skip


def _explored(rows: list[Row], params: ExploreParams, level: Explored) -> Explored:
    """``level`` with the rows that are asked for, and a last one for all the others."""
    wanted = [row for row in rows if params.hidden or not row.name.startswith(".")]
    if params.filter:
        text = params.filter.casefold()
        wanted = [row for row in wanted if text in row.name.casefold()]
    wanted.sort(key=_key(params.sort))
    wanted = wanted[: params.limit]
    total = level.total_bytes
    rest = Row(
        level.path,
        "(the rest)",
        "rest",
        total - sum(row.bytes for row in wanted),
        level.apparent_bytes - sum(row.apparent_bytes for row in wanted),
        level.files - sum(row.files for row in wanted),
        None,
        0.0,
        level.complete,
    )
    shares = (msgspec.structs.replace(row, share=row.bytes / total if total else 0.0) for row in (*wanted, rest))
    return msgspec.structs.replace(level, rows=tuple(shares))


def _key(sort: Sort) -> Callable[[Row], tuple[Any, ...]]:
    keys: dict[Sort, Callable[[Row], tuple[Any, ...]]] = {
        "size": lambda row: (-max(row.bytes, row.last_bytes or 0), row.name),
        "count": lambda row: (-row.files, row.name),
        "age": lambda row: (row.last_used is None, row.last_used or 0.0, row.name),
        "name": lambda row: (row.name.casefold(), row.name),
    }
    return keys[sort]


# Any depth


def _too_few(found: Scanned, limit: int) -> bool:
    """Whether this folder may hold more large files than the tree of a folder above it remembers."""
    tree, row = found.tree, found.row
    assert tree is not None
    here = sum(row <= file.row < tree.end[row] for file in tree.large)
    return here < limit and tree.large_blocks > 0 and len(tree.large) > here


def _largest(found: Scanned, path: str, params: LargestParams) -> Largest:
    tree, root = found.tree, found.row
    assert tree is not None
    total = tree.all_blocks[root] * 512
    if params.kind == "folders":
        rows = [
            _folder_row(tree, row, paths.shown(tree.path_of(row)), tree.below(row, root), os.stat_result([0] * 10))
            for row in tree.largest_folders(root, params.limit)
        ]
        down_to = 0
    else:
        rows = list(_large_files(tree, root, path))
        rows.sort(key=_key("size"))
        rows = rows[: params.limit]
        down_to = tree.large_blocks * 512
    shares = (msgspec.structs.replace(row, share=row.bytes / total if total else 0.0) for row in rows)
    return Largest(paths.shown(path), params.kind, tuple(shares), total, found.scan.complete, found.age, down_to)


def _large_files(tree: Tree, root: int, path: str) -> Iterable[Row]:
    """The remembered files below ``root`` that are still there, as large as they are now."""
    for file in tree.large:
        if not root <= file.row < tree.end[root]:
            continue
        name = join(tree.below(file.row, root), file.name) if file.row != root else file.name
        where = join(path, name)
        try:
            info = os.lstat(where)
        except OSError:
            continue
        if not stat.S_ISDIR(info.st_mode):
            yield _file_row(paths.shown(where), name, info)


def ending(name: str) -> str:
    """The type of a file by its name: ".safetensors"; ".so" also for libc.so.6; "none" when it has no ending."""
    stem, _, last = name.rpartition(".")
    while last.isdigit() and ".so" in stem:
        stem, _, last = stem.rpartition(".")
    if not stem.strip(".") or not last.isalnum() or len(last) > 12:
        return "none"
    return "." + last.lower()


def _types(scan: Scan, sums: dict[str, list[int]], top: int) -> FileTypes:
    total = sum(sum_[0] for sum_ in sums.values()) * 512
    ranked = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))

    def row(name: str, blocks: int, apparent: int, files: int) -> FileType:
        return FileType(paths.shown(name), blocks * 512, apparent, files, blocks * 512 / total if total else 0.0)

    rows = [row(name, *sum_) for name, sum_ in ranked[:top]]
    if ranked[top:]:
        blocks, apparent, files = (sum(sum_[i] for _, sum_ in ranked[top:]) for i in range(3))
        rows.append(row("other", blocks, apparent, files))
    return FileTypes(scan.path, tuple(rows), total, scan.total_bytes - total, sum(r.files for r in rows), scan.complete)
