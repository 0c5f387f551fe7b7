"""Python environments of this box, found by the folders they leave: nothing of theirs is run or imported.

A virtual environment is a folder with pyvenv.cfg (PEP 405), a conda environment one with conda-meta/, any other
interpreter a prefix with lib/pythonX.Y/site-packages (or Debian's dist-packages).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.errors import BadInput
from services.storage import paths
from services.storage.packages.types import EnvironmentKind

MAX_DEPTH = 4
"""How deep below home, the workspace and the like a pyvenv.cfg is looked for."""

MAX_FOLDERS = 20_000
"""Folders looked into at most, so that a home of millions of files does not hold the answer up."""

_SKIPPED = {"node_modules", "site-packages", "dist-packages", "__pycache__", ".git", ".cache", ".hybrid", "proc", "sys"}
_CONDA_ROOTS = (
    "~/miniconda3", "~/anaconda3", "~/miniforge3", "~/mambaforge", "~/micromamba", "~/.conda", "/opt/conda",
    "/opt/miniconda3", "/opt/anaconda3", "/opt/miniforge3",
)  # fmt: skip
_COMMON = ("/workspaces", "/workspace", "/work", "/srv", "/opt", "/content")
_PYTHON = re.compile(r"(?:python|pypy)(\d+\.\d+)t?$")


@dataclass(frozen=True)
class Place:
    """One environment: its prefix, its package folders (absolute, symbolic links resolved), its Python's version."""

    path: str
    kind: EnvironmentKind
    python: str
    folders: tuple[str, ...]

    @property
    def interpreter(self) -> str:
        """Its own Python, "" when it has none (``pip install --user`` shares another's)."""
        names = ("python", "python3", f"python{'.'.join(self.python.split('.')[:2])}")
        found = (os.path.join(self.path, "bin", name) for name in names)  # noqa: PTH118  (Path can't hold every name)
        return next((path for path in found if os.access(path, os.X_OK)), "")

    @property
    def managed(self) -> bool:
        """Whether the operating system's own tools look after it (PEP 668, or Debian's folder names)."""
        markers = Path(self.path).glob("lib*/python3*/EXTERNALLY-MANAGED")
        return any(folder.endswith("dist-packages") for folder in self.folders) or any(True for _ in markers)


def find(workspace: Path, environ: Mapping[str, str], stop: threading.Event | None = None) -> list[Place]:
    """Every environment found, this one first. A folder that can't be read is passed over."""
    found: dict[str, Place] = {}
    for prefix in _prefixes(workspace, environ, stop or threading.Event()):
        real = os.path.realpath(prefix)
        if real not in found and (place := at(real, environ)):
            found[real] = place
    return list(found.values())


def chosen(env: str, workspace: Path, environ: Mapping[str, str]) -> Place:
    """The environment that ``env`` names: its folder, its python, or a package folder of it; "" is this one.

    Raises BadInput when that is no Python environment.
    """
    if not env:
        place = at(os.path.realpath(sys.prefix), environ)
        if place is None:
            raise BadInput(f"No package folder was found in {sys.prefix}.", hint="Name another: env=PATH")
        return place
    start = Path(os.path.expanduser(env))  # noqa: PTH111  (kept as text for the message)
    start = start if start.is_absolute() else Path.cwd() / start
    if not start.exists() and not env.startswith(("/", "~", ".")) and (workspace / env).exists():
        start = workspace / env
    candidates = [start, *([start.parent.parent] if start.parent.name == "bin" else []), *list(start.parents)[:3]]
    inside = start.name in ("site-packages", "dist-packages")
    for candidate in candidates if inside or start.is_file() or start.is_symlink() else candidates[:1]:
        if place := at(os.path.realpath(candidate), environ):
            return place
    if not start.exists():
        raise BadInput(f"There is no folder {paths.shown(str(start))}.", hint="packages.environments lists them.")
    raise BadInput(
        f"{paths.shown(str(start))} is no Python environment: it has no lib/python…/site-packages.",
        hint="Name the folder that holds pyvenv.cfg; packages.environments lists those found.",
    )


def at(prefix: str, environ: Mapping[str, str]) -> Place | None:
    """The environment whose prefix is ``prefix``, None when there is none."""
    folders, version = _folders(prefix)
    if not folders:
        return None
    settings = read_cfg(os.path.join(prefix, "pyvenv.cfg"))  # noqa: PTH118
    version = settings.get("version_info") or settings.get("version") or version
    return Place(prefix, _kind(prefix, settings, environ), ".".join(version.split(".")[:3]), tuple(folders))


def read_cfg(path: str) -> dict[str, str]:
    """The keys of a pyvenv.cfg, empty when there is none that can be read."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _folders(prefix: str) -> tuple[list[str], str]:
    """The package folders of ``prefix`` and the newest Python version their names tell."""
    folders: list[str] = []
    version = ""
    for lib in ("lib", "lib64"):
        try:
            names = sorted(os.listdir(os.path.join(prefix, lib)))  # noqa: PTH118, PTH208
        except OSError:
            continue
        for name in names:
            match = _PYTHON.match(name)
            if not match and name != "python3":
                continue
            for kind in ("site-packages", "dist-packages"):
                folder = os.path.realpath(os.path.join(prefix, lib, name, kind))  # noqa: PTH118
                if os.path.isdir(folder) and folder not in folders:  # noqa: PTH112
                    folders.append(folder)
                    version = match[1] if match else version
    return folders, version


def _kind(prefix: str, settings: dict[str, str], environ: Mapping[str, str]) -> EnvironmentKind:
    inside = prefix + "/"
    kinds: list[tuple[EnvironmentKind, bool]] = [
        ("this", prefix == os.path.realpath(sys.prefix)),
        ("pipx", any(inside.startswith(os.path.realpath(p) + "/") for p in _pipx(environ))),
        ("uv-tool", inside.startswith(os.path.realpath(_uv_tools(environ)) + "/")),
        ("conda", os.path.isdir(os.path.join(prefix, "conda-meta"))),  # noqa: PTH112, PTH118
        ("uv", "uv" in settings),
        ("venv", bool(settings)),
        ("user", prefix == os.path.realpath(_user_base(environ))),
    ]
    return next((kind for kind, is_it in kinds if is_it), "python")


def _prefixes(workspace: Path, environ: Mapping[str, str], stop: threading.Event) -> Iterator[str]:
    home = _home(environ)
    yield sys.prefix
    if environ.get("VIRTUAL_ENV"):
        yield environ["VIRTUAL_ENV"]
    yield from _conda(environ)
    data = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    cache = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    several = [
        *_pipx(environ),
        _uv_tools(environ),
        environ.get("WORKON_HOME") or f"{home}/.virtualenvs",
        f"{data}/virtualenvs",  # pipenv
        environ.get("POETRY_VIRTUALENVS_PATH") or f"{cache}/pypoetry/virtualenvs",
    ]
    for folder in several:
        yield from _children(folder)
    budget = [MAX_FOLDERS]
    for root in dict.fromkeys([str(workspace), home, f"{data}/hatch/env", *_COMMON]):
        for venv in _venvs(root, MAX_DEPTH, budget, stop):
            yield venv
            base = read_cfg(f"{venv}/pyvenv.cfg").get("home", "")
            if base.endswith("/bin"):
                yield base.removesuffix("/bin")
    yield from (sys.base_prefix, "/usr", "/usr/local", _user_base(environ))
    for name in ("python3", "python"):
        if on_path := shutil.which(name, path=environ.get("PATH", os.defpath)):
            yield os.path.dirname(os.path.dirname(os.path.realpath(on_path)))  # noqa: PTH120
    yield from _children("/usr/local/python")  # where dev containers keep theirs
    yield from _children(f"{environ.get('PYENV_ROOT') or f'{home}/.pyenv'}/versions")
    yield from _children(environ.get("UV_PYTHON_INSTALL_DIR") or f"{data}/uv/python")


def _venvs(root: str, depth: int, budget: list[int], stop: threading.Event) -> Iterator[str]:
    """Folders with a pyvenv.cfg below ``root``, not looking into one that was found."""
    level = [root]
    for _ in range(depth + 1):
        below: list[str] = []
        for folder in level:
            budget[0] -= 1
            if stop.is_set() or budget[0] < 0:
                return
            try:
                with os.scandir(folder) as entries:
                    names = [e.name for e in entries if e.name == "pyvenv.cfg" or e.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            if "pyvenv.cfg" in names:
                yield folder
            else:
                below += [f"{folder}/{name}" for name in names if name not in _SKIPPED]
        level = below


def _conda(environ: Mapping[str, str]) -> Iterator[str]:
    """conda keeps a list of all environments it made; those below its usual roots are found without it too."""
    listed = Path(_home(environ)) / ".conda" / "environments.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        yield from (line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
    roots = [environ.get("CONDA_PREFIX", ""), environ.get("MAMBA_ROOT_PREFIX", "")]
    roots += [os.path.dirname(os.path.dirname(environ.get("CONDA_EXE", "")))]  # noqa: PTH120
    roots += [root.replace("~", _home(environ), 1) for root in _CONDA_ROOTS]
    for root in filter(None, roots):
        for prefix in (root, *_children(f"{root}/envs")):
            if os.path.isdir(f"{prefix}/conda-meta"):  # noqa: PTH112
                yield prefix


def _children(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or str(Path.home())


def _user_base(environ: Mapping[str, str]) -> str:
    return environ.get("PYTHONUSERBASE") or f"{_home(environ)}/.local"


def _uv_tools(environ: Mapping[str, str]) -> str:
    """https://docs.astral.sh/uv/reference/storage/"""
    data = environ.get("XDG_DATA_HOME") or f"{_home(environ)}/.local/share"
    return environ.get("UV_TOOL_DIR") or f"{data}/uv/tools"


def _pipx(environ: Mapping[str, str]) -> list[str]:
    """https://pipx.pypa.io/latest/how-to/configure-paths/; the older place is used where it exists."""
    home = _home(environ)
    data = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    own = [environ["PIPX_HOME"]] if environ.get("PIPX_HOME") else [f"{home}/.local/pipx", f"{data}/pipx"]
    return [f"{folder}/venvs" for folder in (*own, environ.get("PIPX_GLOBAL_HOME") or "/opt/pipx")]
