"""How tools find their folders: environment variables, then configuration files, then the XDG base directories."""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds.rule import Box, Environment


def home(environ: Environment) -> Path:
    """The home folder that ``environ`` names, or the account's own."""
    return Path(environ.get("HOME") or Path.home())


def caches(box: Box) -> Path:
    """``XDG_CACHE_HOME``; a relative one is to be ignored, says the XDG base directory specification."""
    return _xdg(box, "XDG_CACHE_HOME", ".cache")


def config(box: Box) -> Path:
    """``XDG_CONFIG_HOME``, likewise."""
    return _xdg(box, "XDG_CONFIG_HOME", ".config")


def data(box: Box) -> Path:
    """``XDG_DATA_HOME``, likewise."""
    return _xdg(box, "XDG_DATA_HOME", ".local/share")


def _xdg(box: Box, variable: str, default: str) -> Path:
    folder = box.environ.get(variable, "")
    return Path(folder) if folder.startswith("/") else box.home / default


def path(value: str, box: Box) -> Path:
    """A configured path with "~" as the home folder; a relative one is taken from here, as the tools do."""
    if value == "~" or value.startswith("~/"):
        return box.home / value[2:]
    return Path(value).absolute()


def variable(box: Box, *names: str) -> Path | None:
    """The path in the first of these environment variables that is set."""
    return next((path(box.environ[name], box) for name in names if box.environ.get(name)), None)


def ini(file: Path, key: str, *, sections: tuple[str, ...] = ("",)) -> str:
    """The value of ``key`` in the first of ``sections`` that has it; section "" is the part before any header."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found: dict[str, str] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            if name.strip() == key and section in sections:
                found[section] = value.strip().strip("\"'")
    return next((found[s] for s in sections if found.get(s)), "")


def toml(file: Path, *keys: str) -> str:
    """The text at ``keys`` in a TOML file, "" when it is not there or the file is one its tool would reject."""
    import tomllib

    try:
        value: object = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
