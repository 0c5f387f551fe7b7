"""From what was chosen to paths that may be opened: below a place that is allowed, through no symbolic link."""

from __future__ import annotations

import os

from services.storage import paths
from services.storage.cleaning import system


def written(text: str) -> str:
    """The absolute path that a person or a scan wrote as ``text``; its last name is not followed if it is a link."""
    path = os.path.expanduser(text)
    if not os.path.lexists(path) and "\\x" in path:
        unescaped = os.fsdecode(paths._ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), os.fsencode(path)))
        path = unescaped if os.path.lexists(unescaped) else path
    if ".." in path.split("/"):  # the system goes through links before it goes up
        above, name = os.path.split(path.rstrip("/"))
        path = os.path.realpath(path) if name in ("..", ".") else os.path.join(os.path.realpath(above), name)
    return os.path.abspath(path)


def located(path: str, roots: tuple[str, ...], *, itself: bool) -> tuple[str, str]:
    """``path`` with the root it lies below resolved, and "": or "" and the reason it may not go.

    A root may be reached through links (a ``~/.cache`` moved to another disk); below it no component may be one.
    ``itself``: a root itself may go.
    """
    for root in sorted(roots, key=len, reverse=True):
        real = os.path.realpath(root)
        for form in (root.rstrip("/") or "/", real):
            if not system.below(path, form):
                continue
            if path == form:
                if itself:
                    return real, ""
                continue
            inside = path[len(form) :].strip("/")
            if link := _link_in(real, inside.split("/")[:-1]):
                return "", f"{paths.shown(link)} is a symbolic link; name the place it leads to."
            return f"{real.rstrip('/')}/{inside}", ""
    if path in {form for root in roots for form in (root.rstrip("/"), os.path.realpath(root))}:
        return "", "It is a whole place, not something in it; choose what lies in it."
    return "", "It lies outside the places that may be cleaned: the workspace, the home folder, the caches' folders."


def _link_in(root: str, names: list[str]) -> str:
    here = root.rstrip("/")
    for name in names:
        here = f"{here}/{name}"
        if os.path.islink(here):
            return here
    return ""
