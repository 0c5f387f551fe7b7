"""All cache kinds of this box with what can go of each, while they are still being measured."""

from __future__ import annotations

import os
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
        found: dict[str, list[str]] = {}
        shown: dict[str, tuple[str, ...]] = {}
        claimed: set[str] = set()
        # Also those not asked for: what is theirs must not count here
        for kind in dict.fromkeys((*kinds.KINDS, *chosen)):
            if kind in chosen or kind.whole:
                written = [str(place) for place in kind.places(box)]
                shown[kind.name] = tuple(paths.shown(place) for place in written)
                real = [os.path.realpath(place) for place in written if os.path.isdir(place)]  # noqa: PTH112
                # (Path.is_dir raises when a folder above may not be entered)
                found[kind.name] = [place for place in dict.fromkeys(real) if not kind.whole or place not in claimed]
                claimed.update(found[kind.name] if kind.whole else ())
        self._looks = [
            Look(
                kind, box, shown[kind.name], tuple(found[kind.name]),
                fences=frozenset(p for p in claimed if p not in found[kind.name] and _is_below(p, found[kind.name])),
                tick=self._tick,
            )
            for kind in chosen
        ]  # fmt: skip

        for look in self._looks:
            look.exists = bool(look.kind.exists(box) if look.kind.exists else look.places)

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


def _is_below(place: str, others: list[str]) -> bool:
    return any(place.startswith(other.rstrip("/") + "/") for other in others)
