"""What lies in a Hugging Face hub cache, read once and lean: each entry is looked at one time.

The layout is that of huggingface_hub's "Understand caching" page: ``<type>s--<org>--<name>/`` with ``refs/`` (a name →
a commit), ``snapshots/<commit>/`` (symbolic links) and ``blobs/`` (the content, ``.incomplete`` while it is being
downloaded); ``.locks/`` beside them. Since huggingface_hub 2, ``blobs/`` of the cache itself may hold payloads that
several repositories share: their own blob is then a symbolic link to it, and ``<payload>.refs`` lists those links.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.storage.kinds.measure import Tally

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPE = 0o170000
PAYLOAD = re.compile(r"[0-9a-f]{64}")

Blob = tuple[int, int, tuple[int, int] | None, float, float, float]
"""Blocks, names it has, its device and inode if it has several, last access and change of content (both 0 for a link),
change of status. A plain tuple, since a big cache has many."""


@dataclass(slots=True)
class Revision:
    """One snapshot. ``blobs`` are the paths its links lead to, ``own`` the files that lie in it without a link.

    ``tally`` is the snapshot's folder alone: folders, links and own files. ``size`` is the sum of the files' lengths,
    as huggingface_hub counts it.
    """

    commit: str
    path: str
    blobs: set[str] = field(default_factory=set)
    own: int = 0
    broken: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    size: int = 0


@dataclass(slots=True)
class Repo:
    """One repository. ``blobs``: path → what it takes itself (a symbolic link where the payload is shared).

    ``shared``: blob → payload. ``foreign``: blobs of others that its snapshots lead to. ``incomplete`` are unfinished
    downloads, ``lost_refs`` names of commits that are not here. ``size`` is as for a Revision.
    """

    name: str
    path: str
    revisions: dict[str, Revision] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, Blob] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    has_snapshots: bool = False
    tally: Tally = field(default_factory=Tally)
    size: int = 0

    @property
    def lost_refs(self) -> list[str]:
        """Paths of refs that name a commit without a snapshot."""
        return [f"{self.path}/refs/{ref}" for ref, commit in self.refs.items() if commit not in self.revisions]


def repo_name(folder: str) -> str:
    """ "models--org--name" as "model/org/name", the way ``hf cache ls`` writes it; "" if it is no repository."""
    kind, dashes, name = folder.partition("--")
    return f"{TYPES[kind]}/{name.replace('--', '/')}" if dashes and kind in TYPES else ""


def scan_repo(path: str, name: str, tick: Callable[[], None] = lambda: None) -> Repo:
    """Read one repository. What can't be read is counted in its tally; nothing is raised for it."""
    repo = Repo(name, path)
    count_folder(path, repo.tally)
    others = []
    sizes: dict[str, int] = {}
    for entry in entries_of(path, repo.tally):
        if not entry.is_dir(follow_symlinks=False):
            repo.tally.add(entry.stat(follow_symlinks=False))
        elif entry.name == "blobs":
            _read_blobs(repo, entry.path, sizes)
        elif entry.name == "snapshots":
            repo.has_snapshots = True
        else:
            others.append(entry.name)
    tick()
    if repo.has_snapshots:
        _read_snapshots(repo, f"{path}/snapshots", sizes, tick)
    for other in others:
        _read_other(repo, f"{path}/{other}", refs=other == "refs")
    return repo


def _read_blobs(repo: Repo, folder: str, sizes: dict[str, int]) -> None:
    """Read the blobs; ``sizes`` gets the lengths of what they are or lead to."""
    blobs = repo.blobs
    try:
        fd = os.open(folder, _FLAGS)
    except OSError:
        count_folder(folder, repo.tally)
        repo.tally.unreadable += 1
        return
    prefix = folder + "/"
    try:
        repo.tally.single += os.fstat(fd).st_blocks
        with os.scandir(fd) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = prefix + entry.name
                inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
                if status.st_mode & _TYPE == stat.S_IFREG:
                    sizes[path] = status.st_size
                    times = status.st_atime, status.st_mtime, status.st_ctime
                else:
                    _read_shared(repo, path, sizes)
                    times = 0.0, 0.0, status.st_ctime
                blobs[path] = (status.st_blocks, status.st_nlink, inode, *times)
    except OSError:
        repo.tally.unreadable += 1
    finally:
        os.close(fd)
    add_blobs(repo.tally, blobs.values())
    for path in [path for path in blobs if path.endswith(".incomplete")]:
        repo.incomplete[path] = blobs.pop(path)
        sizes.pop(path, None)


def _read_shared(repo: Repo, path: str, sizes: dict[str, int]) -> None:
    """A blob that is a link to where several repositories share it."""
    if (length := _length(path)) >= 0:
        sizes[path] = length
    if os.path.islink(path) and (payload := _payload_of(repo, path)):  # noqa: PTH114
        repo.shared[path] = payload


def add_blobs(tally: Tally, blobs: Iterable[Blob]) -> None:
    """Count ``blobs`` into ``tally``."""
    single = files = 0
    newest = tally.newest
    for blocks, names, inode, accessed, modified, _ in blobs:
        files += 1
        if inode is None:
            single += blocks
        else:
            _, _, seen = tally.links.get(inode, (0, 0, 0))
            tally.links[inode] = (blocks, names, seen + 1)
        if accessed > newest:  # max() takes three times as long
            newest = accessed
        if modified > newest:
            newest = modified
    tally.single += single
    tally.files += files
    tally.newest = newest


def _payload_of(repo: Repo, blob: str) -> str:
    """The shared payload that the link ``blob`` leads to, "" if it leads elsewhere."""
    target = os.path.normpath(os.path.join(os.path.dirname(blob), os.readlink(blob)))  # noqa: PTH115, PTH118, PTH120
    store = os.path.dirname(repo.path) + "/blobs/"  # noqa: PTH120  (Path can't hold every name)
    name = target.rsplit("/", 1)[-1]
    return target if target == f"{store}{name[:2]}/{name}" and PAYLOAD.fullmatch(name) else ""


def _read_snapshots(repo: Repo, folder: str, sizes: dict[str, int], tick: Callable[[], None]) -> None:
    count_folder(folder, repo.tally)
    for entry in entries_of(folder, repo.tally):
        if not entry.is_dir(follow_symlinks=False):
            repo.tally.add(entry.stat(follow_symlinks=False))
            continue
        revision = Revision(entry.name, entry.path)
        _read_revision(repo, revision, sizes)
        repo.revisions[entry.name] = revision
        repo.tally.merge(revision.tally)
        repo.size += revision.size  # its own files; what is linked counts once for all revisions, below
        revision.size += sum(map(sizes.__getitem__, revision.blobs))
        tick()
    used = set().union(*(revision.blobs for revision in repo.revisions.values()))
    repo.size += sum(map(sizes.__getitem__, used))
    repo.foreign = {blob for blob in used if not blob.startswith(repo.path + "/")}


def _read_revision(repo: Repo, revision: Revision, sizes: dict[str, int]) -> None:
    todo = [(revision.path, "../../blobs/")]
    while todo:
        here, usual = todo.pop()
        try:
            fd = os.open(here, _FLAGS)
        except OSError:
            count_folder(here, revision.tally)
            revision.tally.unreadable += 1
            continue
        try:
            revision.tally.single += os.fstat(fd).st_blocks
            below = _read_folder(repo, revision, here, fd, usual, sizes)
            todo += [(f"{here}/{name}", f"../{usual}") for name in below]
        except OSError:
            revision.tally.unreadable += 1
        finally:
            os.close(fd)


def _read_folder(repo: Repo, revision: Revision, here: str, fd: int, usual: str, sizes: dict[str, int]) -> list[str]:
    """Read one folder of a snapshot; the names of its subfolders are returned. Asking where it leads is the one call
    that each link costs; ``usual`` is how the links of this depth lead to the repository's blobs."""
    targets, links, others = [], [], []
    readlink = os.readlink
    for name in os.listdir(fd):
        try:
            targets.append(readlink(name, dir_fd=fd))
        except OSError:  # a folder, a file, or gone
            others.append(name)
        else:
            links.append(name)
    _count_links(revision.tally, fd, links, targets)
    blobs, start = f"{repo.path}/blobs/", len(usual)
    paths = [
        blobs + target[start:] if target.startswith(usual) else os.path.normpath(os.path.join(here, target))  # noqa: PTH118  (Path can't hold every name)
        for target in targets
    ]
    revision.blobs.update(paths)
    unknown = {path for path in revision.blobs.difference(sizes) if not _measure_foreign(path, sizes)}
    if unknown:
        revision.blobs -= unknown
        broken = {path for path in unknown if _length(path) < 0}
        revision.broken += [f"{here}/{name}" for name, path in zip(links, paths, strict=True) if path in broken]
    return [name for name in others if _is_folder_else_own(revision, fd, name)]


def _count_links(tally: Tally, fd: int, links: list[str], targets: list[str]) -> None:
    """Count a folder's symbolic links. How many blocks one takes is asked once a length, since it follows from that,
    unless the links are hard links of each other."""
    lengths = Counter(map(len, targets))
    example = dict(zip(map(len, targets), links, strict=True))
    for length, count in lengths.items():
        try:
            status = os.stat(example[length], dir_fd=fd, follow_symlinks=False)
        except OSError:
            continue
        if status.st_nlink == 1:
            tally.single += status.st_blocks * count
            tally.files += count
            continue
        for link, target in zip(links, targets, strict=True):
            if len(target) == length:
                tally.add(os.stat(link, dir_fd=fd, follow_symlinks=False))


def _is_folder_else_own(revision: Revision, fd: int, name: str) -> bool:
    """Whether ``name`` is a folder. A file lies there without a link, as on file systems that have none: counted."""
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    if stat.S_ISDIR(status.st_mode):
        return True
    revision.tally.add(status)
    if name not in IGNORED:
        revision.own += 1
        revision.size += status.st_size
    return False


def _measure_foreign(blob: str, sizes: dict[str, int]) -> bool:
    """Add the length of a file that is no blob of the repository; false when there is no such file."""
    length = _length(blob)
    if length < 0 or length == _FOLDER:
        return False
    sizes[blob] = length
    return True


_FOLDER = 1 << 80


def _length(path: str) -> int:
    """The length of the file that ``path`` leads to; -1 if there is none, ``_FOLDER`` if it is a folder."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1
    return _FOLDER if stat.S_ISDIR(status.st_mode) else status.st_size


def _read_other(repo: Repo, folder: str, *, refs: bool) -> None:
    todo = [folder]
    while todo:
        here = todo.pop()
        count_folder(here, repo.tally)
        for entry in entries_of(here, repo.tally):
            try:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                repo.tally.add(entry.stat(follow_symlinks=False))
                if refs and entry.name not in IGNORED:
                    with open(entry.path, encoding="utf-8") as file:  # noqa: PTH123
                        repo.refs[entry.path[len(folder) + 1 :]] = file.read(200).strip()
            except (OSError, UnicodeDecodeError):
                continue


def count_folder(folder: str, tally: Tally) -> None:
    """Count a folder's own blocks."""
    try:
        tally.single += os.lstat(folder).st_blocks
    except OSError:
        tally.unreadable += 1


def entries_of(folder: str, tally: Tally) -> list[os.DirEntry[str]]:
    """What lies in ``folder``; nothing, and a note in ``tally``, when it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        tally.unreadable += 1
        return []
