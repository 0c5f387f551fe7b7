"""Reading a repository of a Hugging Face hub cache: once and lean, each entry is looked at one time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from services.storage.kinds.hub_layout import FLAGS, IGNORED, PAYLOAD, Repo, add_blobs, count_folder, entries_of, length
from services.storage.kinds.hub_snapshots import read_snapshots

_TYPE = 0o170000


def scan_repo(path: str, name: str, tick: Callable[[], None] = lambda: None) -> Repo:
    """Read one repository. What can't be read is counted in its tally; nothing is raised for it."""
    repo = Repo(name, path)
    count_folder(path, repo.tally)
    others = []
    for entry in entries_of(path, repo.tally):
        if not entry.is_dir(follow_symlinks=False):
            repo.tally.add(entry.stat(follow_symlinks=False))
        elif entry.name == "blobs":
            _read_blobs(repo, entry.path)
        elif entry.name == "snapshots":
            repo.has_snapshots = True
        else:
            others.append(entry.name)
    tick()
    if repo.has_snapshots:
        read_snapshots(repo, tick)
    for other in others:
        _read_other(repo, f"{path}/{other}", refs=other == "refs")
    return repo


def _read_blobs(repo: Repo, folder: str) -> None:
    blobs, sizes = repo.blobs, repo.sizes
    try:
        fd = os.open(folder, FLAGS)
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
                names = status.st_nlink
                inode = None if names == 1 else (status.st_dev, status.st_ino)
                if status.st_mode & _TYPE == stat.S_IFREG:
                    sizes[path] = status.st_size
                    accessed, modified = status.st_atime, status.st_mtime
                else:
                    _read_shared(repo, path)
                    accessed = modified = 0.0
                blobs[path] = (status.st_blocks, names, inode, accessed, modified, status.st_ctime)
    except OSError:
        repo.tally.unreadable += 1
    finally:
        os.close(fd)
    add_blobs(repo.tally, blobs.values())
    for path in [path for path in blobs if path.endswith(".incomplete")]:
        repo.incomplete[path] = blobs.pop(path)
        sizes.pop(path, None)


def _read_shared(repo: Repo, path: str) -> None:
    """A blob that is a link to where several repositories share it."""
    if (found := length(path)) >= 0:
        repo.sizes[path] = found
    if os.path.islink(path) and (payload := _payload_of(repo, path)):  # noqa: PTH114
        repo.shared[path] = payload


def _payload_of(repo: Repo, blob: str) -> str:
    """The shared payload that the link ``blob`` leads to, "" if it leads elsewhere."""
    target = os.path.normpath(os.path.join(os.path.dirname(blob), os.readlink(blob)))  # noqa: PTH115, PTH118, PTH120
    store = os.path.dirname(repo.path) + "/blobs/"  # noqa: PTH120  (Path can't hold every name)
    name = target.rsplit("/", 1)[-1]
    return target if target == f"{store}{name[:2]}/{name}" and PAYLOAD.fullmatch(name) else ""


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
                    with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123
                        repo.refs[entry.path[len(folder) + 1 :]] = file.read(200).decode().strip()
            except (OSError, UnicodeDecodeError):
                continue
