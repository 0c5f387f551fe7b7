"""The known caches: one table, each place found as the owning tool finds it (environment, then its config file).

Sources: pip's "Caching" and "Configuration" pages, uv's "Settings" reference, huggingface_hub's "Environment
variables" page, torch.hub's "Where are my downloaded models saved?", npm's "config" page.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """A family of reclaimable files. ``place`` gives its folder from the environment and the home folder."""

    name: str
    title: str
    place: Callable[[Environment, Path], Path]
    restore: str


def home(environ: Environment) -> Path:
    """The home folder that ``environ`` names, or the account's own."""
    return Path(environ.get("HOME") or Path.home())


def _caches(environ: Environment, home: Path) -> Path:
    """``XDG_CACHE_HOME``; a relative one is to be ignored, says the XDG base directory specification."""
    folder = environ.get("XDG_CACHE_HOME", "")
    return Path(folder) if folder.startswith("/") else home / ".cache"


def _config(environ: Environment, home: Path) -> Path:
    folder = environ.get("XDG_CONFIG_HOME", "")
    return Path(folder) if folder.startswith("/") else home / ".config"


def _path(value: str, home: Path) -> Path:
    """A configured path with "~" as ``home``; a relative one is taken from the current folder, as the tools do."""
    if value == "~" or value.startswith("~/"):
        return home / value[2:]
    return Path(value).absolute()


def _pip(environ: Environment, home: Path) -> Path:
    if value := environ.get("PIP_CACHE_DIR"):
        return _path(value, home)
    file = environ.get("PIP_CONFIG_FILE")
    # The first that sets it wins. A file that the variable names takes the place of the user's own.
    user = [_config(environ, home) / "pip" / "pip.conf", home / ".pip" / "pip.conf"]
    files = [*([Path(file)] if file and Path(file).exists() else user), Path("/etc/pip.conf")]
    for candidate in files if file != os.devnull else []:
        if value := _ini(candidate, "cache-dir", sections=("install", "global")):
            return _path(value, home)
    return _caches(environ, home) / "pip"


def _uv(environ: Environment, home: Path) -> Path:
    if value := environ.get("UV_CACHE_DIR"):
        return _path(value, home)
    file = Path(environ.get("UV_CONFIG_FILE") or _config(environ, home) / "uv" / "uv.toml")
    try:
        value = tomllib.loads(file.read_text(encoding="utf-8")).get("cache-dir", "")
    except (OSError, ValueError):  # absent, or a file that uv itself would reject
        value = ""
    return _path(value, home) if isinstance(value, str) and value else _caches(environ, home) / "uv"


def _huggingface(environ: Environment, home: Path) -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):  # the second is the old name, still read
        if value := environ.get(variable):
            return _path(value, home)
    return _huggingface_home(environ, home) / "hub"


def _huggingface_xet(environ: Environment, home: Path) -> Path:
    value = environ.get("HF_XET_CACHE")
    return _path(value, home) if value else _huggingface_home(environ, home) / "xet"


def _huggingface_home(environ: Environment, home: Path) -> Path:
    value = environ.get("HF_HOME")
    return _path(value, home) if value else _caches(environ, home) / "huggingface"


def _torch(environ: Environment, home: Path) -> Path:
    value = environ.get("TORCH_HOME")
    return (_path(value, home) if value else _caches(environ, home) / "torch") / "hub"


def _npm(environ: Environment, home: Path) -> Path:
    for variable, value in environ.items():
        if variable.lower() == "npm_config_cache" and value:
            return _path(value, home)
    file = next((v for k, v in environ.items() if k.lower() == "npm_config_userconfig" and v), "")
    value = _ini(_path(file, home) if file else home / ".npmrc", "cache", sections=("",))
    if value:
        return _path(value.replace("${HOME}", str(home)), home)
    return home / ".npm"


def _ini(file: Path, key: str, *, sections: tuple[str, ...]) -> str:
    """The value of ``key`` in the first of ``sections`` that has it; section "" is the part before any header."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            if name.strip() == key and section in sections:
                found[section] = value.strip().strip("\"'")
    return next((found[s] for s in sections if found.get(s)), "")


KINDS: tuple[Kind, ...] = (
    Kind("pip", "pip: downloaded and built wheels", _pip, "pip downloads or builds them again at the next install."),
    Kind("uv", "uv: wheels, sources and Python builds", _uv, "uv downloads them again at the next sync or install."),
    Kind(
        "huggingface",
        "Hugging Face hub: models and datasets",
        _huggingface,
        "from_pretrained or `hf download` fetches them again; private ones need a sign-in.",
    ),
    Kind(
        "huggingface-xet",
        "Hugging Face hub: chunks of transfers",
        _huggingface_xet,
        "It only speeds up downloads; the hub fills it again.",
    ),
    Kind("torch", "torch hub: models and checkpoints", _torch, "torch.hub.load downloads them again at the next use."),
    Kind("npm", "npm: packages, npx tools and logs", _npm, "npm downloads them again at the next install."),
)
"""Every known cache kind, in the order they are shown while nothing is measured."""
