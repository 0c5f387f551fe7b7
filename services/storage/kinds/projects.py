"""What tools leave in projects: compiled Python, the caches of checkers, notebooks' checkpoints, old logs.

One walk finds them all: the workspace to its depths, and the home folder ``HOME_DEPTH`` deep without hidden folders.
Virtual environments, conda environments, site-packages and node_modules are not entered: what lies compiled in them
belongs to what is installed there, and would only be compiled again. Neither are places of other kinds and mounts.

Sources: PEP 3147 (``__pycache__``), pytest's "How to re-run failed tests and maintain state", mypy's "Additional
command line options" (--cache-dir), Ruff's "Settings" (cache-dir), Jupyter Server's "File save hooks" (checkpoints).
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.storage.kinds.rule import Box, Kind, Look, names

HOME_DEPTH = 6
MAX_FOLDERS = 200_000
LOG_DAYS = 14
LOG_BYTES = 1_000_000

_MARKS = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"})
_CLOSED = frozenset({"node_modules", "site-packages", "dist-packages"})
_LOG = re.compile(r".+\.log(\.\d+)?")


@dataclass
class Found:
    """Folder name → where it was found; ``logs`` are old and large; ``cut`` when there were too many folders."""

    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    logs: list[str] = field(default_factory=list)
    seen: int = 0
    cut: bool = False


def _roots(box: Box) -> list[Path]:
    """The workspace and the home folder; a home folder that is "/" is none to search."""
    return [box.workspace.root, *([box.home] if box.home != Path("/") else [])]


def find(look: Look) -> Found:
    """The one walk, done for the first kind that asks."""
    box = look.box
    known = box.memo.get("projects")
    if isinstance(known, Found):
        return known
    found = Found()
    workspace, home = os.path.realpath(box.workspace.root), os.path.realpath(box.home)
    if workspace != home and workspace != "/":
        _search(look, found, workspace, 100, frozenset())
    if home != "/":
        _search(look, found, home, HOME_DEPTH, frozenset({workspace}))
    box.memo["projects"] = found
    return found


def _search(look: Look, found: Found, root: str, depth: int, closed: frozenset[str]) -> None:
    try:
        device = os.stat(root).st_dev  # noqa: PTH116
    except OSError:
        return
    closed |= look.fences
    todo = [(root, depth)]
    while todo and not look.box.stop.is_set():
        here, left = todo.pop()
        found.seen += 1
        if found.seen > MAX_FOLDERS:
            found.cut = True
            return
        try:
            with os.scandir(here) as entries:
                below = _read_folder(look.box, found, list(entries), device)
        except OSError:
            continue
        if left:
            todo += [(path, left - 1) for path in below if path not in closed]
        look.tick()


def _read_folder(box: Box, found: Found, entries: list[os.DirEntry[str]], device: int) -> list[str]:
    """Note what one folder holds; the subfolders to go on with are returned."""
    if any(entry.name in ("pyvenv.cfg", "conda-meta") for entry in entries):
        return []
    below = []
    for entry in entries:
        name = entry.name
        if entry.is_dir(follow_symlinks=False):
            if name in _MARKS:
                found.folders[name].append(entry.path)
            elif name[0] != "." and name not in _CLOSED and entry.stat(follow_symlinks=False).st_dev == device:
                below.append(entry.path)
        elif ".log" in name and _LOG.fullmatch(name) and entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if status.st_size > LOG_BYTES and box.now - status.st_mtime > LOG_DAYS * 86400:
                found.logs.append(entry.path)
    return below


def _project(box: Box, path: str) -> str:
    """The project that ``path`` lies in, for a person: "workspace", or the folder of the home folder."""
    workspace, home = os.path.realpath(box.workspace.root), os.path.realpath(box.home)
    if workspace != home and path.startswith(workspace + "/"):
        return "workspace"
    inside = path.removeprefix(home + "/").split("/")
    return f"~/{inside[0]}" if len(inside) > 1 else "~"


def _each_project(name: str, is_ours: Callable[[str], bool] = lambda _: True) -> Callable[[Look], None]:
    """A rule: all folders called ``name`` of one project are one item."""

    def list_projects(look: Look) -> None:
        found = find(look)
        projects: dict[str, list[str]] = defaultdict(list)
        for path in sorted(found.folders[name]):
            if is_ours(path):
                projects[_project(look.box, path)].append(path)
        for project, paths in projects.items():
            count = len(paths)
            look.add(project, *paths, note=f"{count} folders." if count > 1 else "")
        _note_cut(look, found)

    return list_projects


def _note_cut(look: Look, found: Found) -> None:
    if found.cut:
        look.problem = f"Only the first {MAX_FOLDERS:,} folders were searched."


def _only_compiled(folder: str) -> bool:
    """Whether a ``__pycache__`` holds nothing but what Python wrote."""
    return all(name.rsplit(".", 1)[-1].startswith(("pyc", "pyo", "nbi", "nbc")) for name in names(folder))


def _list_checkpoints(look: Look) -> None:
    """One item a folder. Safe if each checkpoint is the same as its notebook; else it is an earlier state of it."""
    found = find(look)
    for path in sorted(found.folders[".ipynb_checkpoints"]):
        same = all(_same_as_notebook(path, name) for name in names(path))
        where = _project(look.box, path)
        folder = Path(path).parent.name
        look.add(
            f"{where} {folder}" if where.rsplit("/", 1)[-1] != folder else where, path,
            risk="none" if same else "high",
            note="The same as the notebooks beside it." if same else "It holds earlier states of notebooks.",
            restore="Jupyter makes one at the next save." if same else "",
        )  # fmt: skip
    _note_cut(look, found)


def _same_as_notebook(folder: str, name: str) -> bool:
    stem, dash, ending = name.rpartition("-checkpoint")
    try:
        return bool(dash) and filecmp.cmp(f"{folder}/{name}", f"{Path(folder).parent}/{stem}{ending}", shallow=False)
    except OSError:
        return False


def _list_logs(look: Look) -> None:
    found = find(look)
    workspace, home = os.path.realpath(look.box.workspace.root), os.path.realpath(look.box.home)
    for path in sorted(found.logs):
        inside = path.startswith(workspace + "/")
        look.add(path.removeprefix(workspace + "/") if inside else "~" + path.removeprefix(home), path)
    _note_cut(look, found)


def _kind(name: str, title: str, folder: str, restore: str) -> Kind:
    rule = _each_project(folder, _only_compiled) if name == "pycache" else _each_project(folder)
    return Kind(name, title, _roots, rule, restore, risk="none", budgeted=False, whole=False)


KINDS: tuple[Kind, ...] = (
    _kind("pycache", "Python: compiled modules of projects", "__pycache__", "Python compiles them at the next import."),
    _kind("pytest", "pytest: results of the last run", ".pytest_cache", "The next run makes it."),
    _kind("mypy", "mypy: what it knows of the code", ".mypy_cache", "The next run makes it, and takes longer."),
    _kind("ruff", "Ruff: what it has checked", ".ruff_cache", "The next run makes it."),
    Kind(
        "notebook-checkpoints", "Jupyter: checkpoints of notebooks", _roots, _list_checkpoints,
        "An earlier state of a notebook can't be brought back.", risk="high", budgeted=False, whole=False,
    ),
    Kind(
        "logs", f"Logs older than {LOG_DAYS} days and larger than {LOG_BYTES // 1_000_000} MB", _roots, _list_logs,
        "A log can't be brought back.", risk="high", budgeted=False, whole=False,
    ),
)  # fmt: skip
