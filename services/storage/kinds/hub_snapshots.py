"""The snapshots of a repository of a Hugging Face hub cache: which blobs their links lead to.

A cache has many more links than anything else, and asking one where it leads is the one call that each costs.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable

from services.storage.kinds.hub_layout import FLAGS, FOLDER, IGNORED, Repo, Revision, count_folder, entries_of, length
from services.storage.kinds.measure import Tally


def read_snapshots(repo: Repo, tick: Callable[[], None]) -> None:
    """Read ``snapshots/`` of ``repo``, whose blobs are read already; ``tick`` is called after each."""
    folder = f"{repo.path}/snapshots"
    leads = _Leads(repo)
    count_folder(folder, repo.tally)
    for entry in entries_of(folder, repo.tally):
        if not entry.is_dir(follow_symlinks=False):
            repo.tally.add(entry.stat(follow_symlinks=False))
            continue
        revision = Revision(entry.name, entry.path, repo.sizes)
        _read_revision(repo, revision, leads)
        repo.revisions[entry.name] = revision
        repo.tally.merge(revision.tally)
        repo.used |= revision.blobs
        tick()


class _Leads(dict[int, dict[str, str]]):
    """Depth of a folder in a snapshot → what a link there says, if it leads to a blob in the usual way → that blob.

    The paths are those of the repository, not new ones for each link: equal strings that are one are compared and
    hashed at once.
    """

    def __init__(self, repo: Repo) -> None:
        super().__init__()
        self._repo = repo

    def __missing__(self, depth: int) -> dict[str, str]:
        sizes, start = self._repo.sizes, len(self._repo.path) + 1
        up = "../" * (depth + 2)
        found = self[depth] = {up + path[start:]: path for path in self._repo.blobs if path in sizes}
        return found


def _read_revision(repo: Repo, revision: Revision, leads: _Leads) -> None:
    todo = [(revision.path, 0)]
    while todo:
        here, depth = todo.pop()
        try:
            fd = os.open(here, FLAGS)
        except OSError:
            count_folder(here, revision.tally)
            revision.tally.unreadable += 1
            continue
        try:
            revision.tally.single += os.fstat(fd).st_blocks
            todo += [(f"{here}/{name}", depth + 1) for name in _read_folder(repo, revision, here, fd, leads[depth])]
        except OSError:
            revision.tally.unreadable += 1
        finally:
            os.close(fd)


def _read_folder(repo: Repo, revision: Revision, here: str, fd: int, leads: dict[str, str]) -> list[str]:
    """Read one folder of a snapshot; the names of its subfolders are returned."""
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
    try:
        revision.blobs.update(map(leads.__getitem__, targets))
    except KeyError:
        for link, target in zip(links, targets, strict=True):
            path = leads.get(target) or os.path.normpath(os.path.join(here, target))  # noqa: PTH118  (not every name)
            _follow(repo, revision, f"{here}/{link}", path)
    return [name for name in others if _is_folder_else_own(revision, fd, name)]


def _follow(repo: Repo, revision: Revision, link: str, path: str) -> None:
    """Note that ``link`` leads to ``path``, which may be anything."""
    if path not in repo.sizes:
        found = length(path)
        if found < 0:
            revision.broken.append(link)
        if found < 0 or found == FOLDER:
            return
        repo.sizes[path] = found
    revision.blobs.add(path)
    if not path.startswith(repo.path + "/"):
        repo.foreign.add(path)


def _count_links(tally: Tally, fd: int, links: list[str], targets: list[str]) -> None:
    """Count a folder's symbolic links. How many blocks one takes is asked once a length, since it follows from that,
    unless the links are hard links of each other."""
    for same in _by_length(links, targets):
        try:
            status = os.stat(same[0], dir_fd=fd, follow_symlinks=False)
        except OSError:
            continue
        if status.st_nlink == 1:
            tally.single += status.st_blocks * len(same)
            tally.files += len(same)
            continue
        for link in same:
            tally.add(os.stat(link, dir_fd=fd, follow_symlinks=False))


def _by_length(links: list[str], targets: list[str]) -> Iterable[list[str]]:
    """``links`` in groups whose targets are of one length; mostly that is one group."""
    if len(set(map(len, targets))) == 1:
        return (links,)
    groups = defaultdict(list)
    for link, target in zip(links, targets, strict=True):
        groups[len(target)].append(link)
    return groups.values()


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
        revision.own_size += status.st_size
    return False
