"""The line for a shell's prompt: "82.0 GB free", with what is over its budget.

Run as a script (``python -I -S …/prompt.py``) it needs no import beyond what the interpreter has loaded anyway, so
that it costs no more than the interpreter's own start. It measures nothing but the disk's free space (one system
call); figures of the caches are the last recorded ones, with their age when they are old. Outside a workspace, and on
any error, it prints nothing: a prompt is no place to complain.
"""

import os
import sys
import time

GB = 1_000_000_000
OLD = 2 * 86400


def line(root: str, environ: "os._Environ[str] | dict[str, str]", now: float) -> str:
    """The line for the workspace ``root``. Raises OSError when its disk can't be asked."""
    latest = _latest(root)
    budgets = _budgets(root, environ, latest)
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    low = "▲" if free < budgets["min_free_bytes"] else ""
    parts = [f"{low}{_gb(free)} GB free"]
    if used > budgets["budget_bytes"]:
        parts.append(f"▲used {_gb(used)}/{_gb(budgets['budget_bytes'])}")
    caches = latest.get("caches_bytes", 0)
    if caches > budgets["caches_budget_bytes"]:
        age = now - latest.get("caches_at", 0)
        old = f" ({age / 86400:.0f} d ago)" if age > OLD else ""
        parts.append(f"▲caches {_gb(caches)}/{_gb(budgets['caches_budget_bytes'])}{old}")
    return " ".join(parts)


def find(start: str, environ: "os._Environ[str] | dict[str, str]") -> str:
    """The workspace of the folder ``start``, "" when there is none: as services.workspace.find, without its imports."""
    if named := environ.get("HYBRID_WORKSPACE"):
        return os.path.expanduser(named)  # noqa: PTH111
    folder = start
    while not os.path.isfile(folder + "/hybrid.toml"):  # noqa: PTH113
        above = os.path.dirname(folder)  # noqa: PTH120
        if above == folder:
            return ""
        folder = above
    return folder


def _latest(root: str) -> dict[str, int]:
    """What services.storage.upkeep.samples keeps in ``latest``."""
    try:
        with open(root + "/.hybrid/storage/latest", encoding="utf-8") as file:  # noqa: PTH123
            words = file.read(4096).split()
    except (OSError, ValueError):
        return {}
    return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}


def _budgets(root: str, environ: "os._Environ[str] | dict[str, str]", latest: dict[str, int]) -> dict[str, float]:
    """The budgets in bytes: environment, else as recorded, unless hybrid.toml was changed since; then from there."""
    names = {"budget_bytes": ("budget_gb", 15.0), "min_free_bytes": ("min_free_gb", 5.0),
             "caches_budget_bytes": ("caches_gb", 3.0)}  # fmt: skip
    try:
        changed = os.stat(root + "/hybrid.toml").st_mtime_ns  # noqa: PTH116
    except OSError:
        changed = 0
    fresh = latest.get("settings_ns") == changed and names.keys() <= latest.keys()
    table = {} if fresh or not changed else _disk_section(root)
    budgets: dict[str, float] = {}
    for key, (setting, default) in names.items():
        value = environ.get(f"HYBRID_DISK_{setting.upper()}")
        try:
            budgets[key] = (
                float(value) * GB if value else latest[key] if fresh else float(table.get(setting, default)) * GB
            )
        except (TypeError, ValueError):
            budgets[key] = default * GB
    return budgets


def _disk_section(root: str) -> dict[str, float]:
    import tomllib  # costs more than all the rest here

    try:
        with open(root + "/hybrid.toml", "rb") as file:  # noqa: PTH123
            section = tomllib.load(file).get("disk", {})
    except (OSError, ValueError):
        return {}
    return section if isinstance(section, dict) else {}


def _gb(size: float) -> str:
    return f"{size / GB:.1f}" if size < 100 * GB else f"{size / GB:.0f}"


if __name__ == "__main__":
    try:
        where = find(os.getcwd(), os.environ)  # noqa: PTH109
        if where:
            sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
            print(line(where, os.environ, time.time()))
    except OSError:
        pass
