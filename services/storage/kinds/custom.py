"""A project's own kinds: sections ``[kinds.NAME]`` of hybrid.toml.

Their paths lie in the workspace or in the home folder. One that is, or contains, either of them or ``/``, that leads
elsewhere, or that touches ``.git`` or this tool's own files, is refused with a sentence, also when a symbolic link
makes it so.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

from services.settings import OwnKind
from services.storage.kinds.rule import Box, Kind, Look, names
from services.workspace import Workspace


def own_kinds(workspace: Workspace) -> tuple[Kind, ...]:
    """The kinds that the workspace's settings describe."""
    return tuple(_kind(name, own) for name, own in workspace.settings.kinds.items())


def _kind(name: str, own: OwnKind) -> Kind:
    return Kind(
        name,
        own.title or name,
        lambda box: [_written(box, path) for path in own.paths if not refusal(box, path)],
        lambda look: _list(look, own.pattern),
        own.restore or "hybrid.toml does not say how it comes back.",
        risk=own.risk,
        budgeted=own.budgeted,
        whole=False,
        problem=lambda box: " ".join(filter(None, (refusal(box, path) for path in own.paths))),
    )


def _list(look: Look, pattern: str) -> None:
    """Whatever lies directly in a place and matches; never a symbolic link, which may lead out of it."""
    for place in look.places:
        for name in names(place):
            path = f"{place}/{name}"
            if fnmatch.fnmatchcase(name, pattern) and not os.path.islink(path):  # noqa: PTH114
                if os.path.lexists(f"{path}/.git"):
                    continue  # a project of its own
                look.add(name if len(look.places) == 1 else f"{Path(place).name}/{name}", path)


def _written(box: Box, path: str) -> str:
    expanded = str(box.home) + path[1:] if path == "~" or path.startswith("~/") else path
    return os.path.join(box.workspace.root, expanded)  # noqa: PTH118  (an absolute one stays)


def refusal(box: Box, path: str) -> str:
    """Why ``path`` can't be a kind's place, in a sentence; "" if it can."""
    workspace, home = os.path.realpath(box.workspace.root), os.path.realpath(box.home)
    real = os.path.realpath(_written(box, path))
    where = f"{path} in hybrid.toml" + (f" ({real})" if real != path else "")
    if any((root + "/").startswith(real.rstrip("/") + "/") for root in (workspace, home)):
        return f"{where} is or contains the workspace or the home folder; name a folder below."
    if not any(real.startswith(root + "/") for root in (workspace, home) if root != "/"):
        return f"{where} lies neither in the workspace nor in the home folder; it is not looked at."
    kept = (box.workspace.state, box.workspace.store_path)
    for own in map(os.path.realpath, kept):
        if _touches(real, own):
            return f"{where} touches {own}, which this tool keeps; it is not looked at."
    if ".git" in real.split("/"):
        return f"{where} lies in a git repository's own files; it is not looked at."
    return ""


def _touches(one: str, other: str) -> bool:
    return (one + "/").startswith(other + "/") or (other + "/").startswith(one + "/")
