"""All cache kinds of this box with what can go of each, while they are still being measured."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from services.errors import BadInput, nearest
from services.storage import kinds, paths
from services.storage.kinds import places
from services.storage.kinds.custom import own_kinds
from services.storage.kinds.rule import Box, Kind, Look
from services.storage.reclaim import KindItems
from services.workspace import Workspace

USUAL = frozenset(kind.name for kind in kinds.KINDS if kind.usual)
"""Kinds that are worth a row where they do not exist, too."""

FIRST_PARTIAL = 0.05
PARTIAL_EVERY = 0.2
"""Seconds from the start to the first sizes, and between results so far after them."""


def list_kinds(
    workspace: Workspace,
    names: tuple[str, ...] = (),
    *,
    stop: threading.Event,
    on_partial: Callable[[tuple[KindItems, ...]], None] | None = None,
) -> tuple[KindItems, ...]:
    """Find and measure the kinds called ``names`` (all when left out), largest first; blocks, so call it in a thread.

    The places come from this process's environment. What lies in a kind's place and is the place of another kind
    counts with that one alone: no file counts twice. ``on_partial`` gets the results so far, at once all existing
    kinds unmeasured (``bytes`` None), then at most five times a second. Setting ``stop`` ends it soon, with what is
    measured by then. Raises BadInput for an unknown name.
    """
    box = Box(os.environ, places.home(os.environ), workspace, stop)
    return _Listing(box, choose(workspace, names), on_partial or (lambda _: None)).run()


def choose(workspace: Workspace, names: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds called ``names``, or all. Raises BadInput naming the nearest for one that does not exist."""
    table = {kind.name: kind for kind in (*own_kinds(workspace), *kinds.KINDS)}  # a built-in one keeps its name
    for name in names:
        if name not in table:
            raise BadInput(
                f"There is no cache kind '{name}'{nearest(name, list(table)) or '.'}",
                hint=f"Known: {', '.join(table)}.",
            )
    return tuple(kind for kind in table.values() if not names or kind.name in names)


def budgeted(workspace: Workspace) -> tuple[str, ...]:
    """The names of the kinds that count against the caches' budget."""
    return tuple(kind.name for kind in choose(workspace, ()) if kind.budgeted)


class _Listing:
    def __init__(self, box: Box, chosen: tuple[Kind, ...], on_partial: Callable[[tuple[KindItems, ...]], None]) -> None:
        self._box = box
        self._on_partial = on_partial
        self._next = time.monotonic() + FIRST_PARTIAL
        store = os.path.realpath(box.workspace.store_path)
        claimed = {os.path.realpath(box.workspace.root), store}  # where no other kind counts or removes anything
        found: list[tuple[Kind, list[str], list[str], list[str]]] = []
        # Also those not asked for: what is theirs must not count here
        for kind in dict.fromkeys((*kinds.KINDS, *chosen)):
            if kind in chosen or kind.whole:
                shown, real, refused = _places(kind, box)
                if kind.whole:
                    real = [place for place in real if place not in claimed]
                    claimed.update(real)
                found.append((kind, shown, real, refused))
        self._looks = []
        for kind, shown, real, refused in found:
            if kind in chosen:
                fences = frozenset(p for p in claimed if p not in real and _is_below(p, real))
                look = Look(kind, box, tuple(map(paths.shown, shown)), tuple(real), fences, self._tick)
                look.exists = bool(kind.exists(box) if kind.exists else real)
                look.problem = " ".join(filter(None, (look.problem, *refused)))
                self._looks.append(look)

    def run(self) -> tuple[KindItems, ...]:
        self._on_partial(self._so_far())
        for look in self._looks:
            if look.exists and not self._box.stop.is_set():
                look.run()
                self._tick()
        return self._so_far()

    def _tick(self) -> None:
        if time.monotonic() >= self._next:
            self._on_partial(self._so_far())
            self._next = time.monotonic() + PARTIAL_EVERY

    def _so_far(self) -> tuple[KindItems, ...]:
        """Largest first; those not measured yet before those that do not exist."""
        found = [look.kind_items() for look in self._looks]
        return tuple(sorted(found, key=lambda k: (-1 if k.bytes is None else k.bytes, k.exists), reverse=True))


def _places(kind: Kind, box: Box) -> tuple[list[str], list[str], list[str]]:
    """The kind's places as they are shown, those that exist with links resolved, and why others can't be used."""
    shown, real, refused = [], [], []
    for place in map(str, kind.places(box)):
        if not os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises when a folder above may not be entered)
            shown.append(place)
            continue
        resolved = os.path.realpath(place)
        shown.append(resolved)
        if kind.whole and _is_too_much(resolved, box):
            refused.append(f"{paths.shown(place)} holds more than this cache; give it a folder of its own.")
        elif resolved not in real:
            real.append(resolved)
    return shown, real, refused


def _is_too_much(place: str, box: Box) -> bool:
    """Whether a setting made ``place`` a folder that can't be a cache: /, the home folder, the workspace, /tmp, …"""
    temporary = box.environ.get("TMPDIR") or tempfile.gettempdir()
    kept = (box.home, box.workspace.root, box.workspace.state, temporary, "/tmp", "/var/tmp", "/usr", "/opt")
    return any((os.path.realpath(own) + "/").startswith(place.rstrip("/") + "/") for own in kept)


def _is_below(place: str, others: list[str]) -> bool:
    return any(place.startswith(other.rstrip("/") + "/") for other in others)
