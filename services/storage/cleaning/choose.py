"""Which of the things that can go are meant: a pure function from items and filters."""

from __future__ import annotations

import fnmatch
import time

import msgspec

from services import formats
from services.errors import BadInput, nearest
from services.storage.reclaim import Held, Item, KindItems, Risk

GB = 1_000_000_000
RISKS: tuple[Risk, ...] = ("none", "low", "high")


class Wanted(msgspec.Struct, frozen=True):
    """What a person asked for. ``keep`` are ids of items (with * for any text); see ``PlanParams`` for the rest."""

    items: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    older_than_days: float | None = None
    under_gb: float | None = None
    risk: Risk = "low"

    @property
    def everything(self) -> bool:
        """Nothing was named: all that is safe is meant."""
        return not (self.items or self.kinds or self.paths)

    def kind_names(self) -> tuple[str, ...]:
        """The kinds that must be looked at; () for all."""
        return tuple(dict.fromkeys([*self.kinds, *(name.partition(":")[0] for name in self.items)]))


class Choice(msgspec.Struct, frozen=True):
    """The items that are to go, those of them that stay and why, and the choice in words."""

    items: tuple[Item, ...]
    held: tuple[Held, ...]
    scope: str


def choose(kinds: tuple[KindItems, ...], wanted: Wanted, now: float | None = None) -> Choice:
    """The items of ``kinds`` that ``wanted`` means. ``now`` in Unix seconds.

    Raises BadInput for an item or kind that is not there.
    """
    now = time.time() if now is None else now
    pool = _pool(kinds, wanted)
    held: list[Held] = []
    free: list[Item] = []
    for item in pool:
        if reason := _held(item, wanted):
            if not wanted.everything or item.used_by:
                held.append(Held(_place(item), reason))
        elif _old_enough(item, wanted, now):
            free.append(item)
    if wanted.under_gb is not None:
        free = _until_under(pool, free, round(wanted.under_gb * GB))
    return Choice(tuple(free), tuple(held), _scope(free, wanted, kinds))


def _pool(kinds: tuple[KindItems, ...], wanted: Wanted) -> list[Item]:
    """All items that were named, before any filter."""
    by_kind = {kind.kind: kind for kind in kinds}
    for name in wanted.kinds:
        if name not in by_kind:
            raise BadInput(f"There is no cache kind '{name}'{nearest(name, list(by_kind)) or '.'}")
    if wanted.everything:
        return [item for kind in kinds for item in kind.items if item.suggested or item.used_by]
    by_id = {item.id: item for kind in kinds for item in kind.items}
    for name in wanted.items:
        if name not in by_id:
            raise BadInput(
                f"There is no item '{name}'{nearest(name, list(by_id)) or '.'}",
                hint="storage.caches lists them; what was deleted meanwhile is no longer there.",
            )
    named = [item for name in wanted.kinds for item in by_kind[name].items]
    return list({item.id: item for item in [*(by_id[name] for name in wanted.items), *named]}.values())


def _held(item: Item, wanted: Wanted) -> str:
    """Why ``item`` stays though it was chosen, or ""."""
    if pattern := next((p for p in wanted.keep if fnmatch.fnmatchcase(item.id, p)), ""):
        return f"It is on the list of what is kept ('{pattern}')."
    if item.used_by:
        return f"It is in use by {', '.join(item.used_by)}."
    if RISKS.index(item.risk) > RISKS.index(wanted.risk):
        return f"Its risk is {item.risk}, and only up to {wanted.risk} was asked for; risk={item.risk} takes it too."
    return ""


def _old_enough(item: Item, wanted: Wanted, now: float) -> bool:
    """What was never used as far as anyone can tell is old enough."""
    if wanted.older_than_days is None or item.last_used is None:
        return True
    return now - item.last_used > wanted.older_than_days * 86400


def _until_under(pool: list[Item], free: list[Item], limit: int) -> list[Item]:
    """The least recently used of ``free`` that bring the ``pool`` to ``limit`` bytes or below, no more than needed."""
    remaining = sum(item.bytes for item in pool)
    chosen = []
    for item in sorted(free, key=lambda item: (item.last_used or 0.0, item.id)):
        if remaining <= limit:
            break
        chosen.append(item)
        remaining -= item.freed_bytes
    return chosen


def _place(item: Item) -> str:
    return item.paths[0] if item.paths else item.id


def _scope(free: list[Item], wanted: Wanted, kinds: tuple[KindItems, ...]) -> str:
    """The choice in words: "3 items of pip and uv, not used for 30 days"."""
    words = []
    if not wanted.paths or wanted.items or wanted.kinds:
        names = [kind.kind for kind in kinds if any(item.kind == kind.kind for item in free)]
        count = f"{len(free):,} item{'s' * (len(free) != 1)}"
        words.append(f"{'all that is safe: ' * wanted.everything}{count}{f' of {_list(names)}' if names else ''}")
    if wanted.paths:
        words.append(f"{len(wanted.paths):,} marked path{'s' * (len(wanted.paths) != 1)}")
    scope = " and ".join(words)
    if wanted.older_than_days is not None:
        scope += f", not used for {wanted.older_than_days:g} days"
    if wanted.under_gb is not None:
        scope += f", least recently used first until {formats.size(round(wanted.under_gb * GB))} or less remain"
    return scope


def _list(words: list[str]) -> str:
    if len(words) > 4:
        return f"{', '.join(words[:3])} and {len(words) - 3} more kinds"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
