"""What a cache kind is: one rule that says where it lies, what can go of it, and how that comes back."""

from __future__ import annotations

import fnmatch
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from services.storage import paths
from services.storage.kinds import measure
from services.storage.kinds.measure import Tally
from services.storage.reclaim import Item, KindItems, Risk
from services.workspace import Workspace

Environment = Mapping[str, str]


@dataclass
class Box:
    """Where to look: the environment, the home folder it names, the workspace. ``memo`` keeps what kinds share."""

    environ: Environment
    home: Path
    workspace: Workspace
    stop: threading.Event
    now: float = field(default_factory=time.time)
    memo: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A family of reclaimable files.

    ``places`` gives its folders, existing or not; ``list`` puts what can go of them into the Look it is given.
    ``whole``: all that lies in its places counts as its size, also what is no item; else only its items do, since its
    places hold other things too. ``restore`` and ``risk`` hold for items that say nothing else. ``budgeted`` and
    ``command`` are as for KindItems. ``usual``: it is shown in the list of caches also where it does not exist.
    ``exists`` is for a kind that has no place of its own; ``problem`` says what is wrong with its description.
    """

    name: str
    title: str
    places: Callable[[Box], Iterable[Path | str]]
    list: Callable[[Look], None]
    restore: str
    risk: Risk = "low"
    budgeted: bool = True
    whole: bool = True
    command: str = ""
    usual: bool = False
    exists: Callable[[Box], bool] | None = None
    problem: Callable[[Box], str] | None = None


class Look:
    """One kind while it is measured: ``add`` makes an item of some paths, ``kind_items`` is the result so far.

    ``places`` are the existing ones, symbolic links resolved. ``fences`` are the places of other kinds that lie in
    them: nothing there is counted, and what contains one is no item.
    """

    def __init__(
        self,
        kind: Kind,
        box: Box,
        shown: tuple[str, ...],
        places: tuple[str, ...],
        fences: Set[str] = frozenset(),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self.box = box
        self.places = places
        self.exists = bool(places)
        self.problem = kind.problem(box) if kind.problem else ""
        self.tick = tick
        self.items: list[Item] = []
        self.removable = Tally()
        self.rest = Tally()
        self._shown = shown
        self.fences = fences
        self._done: set[str] = set()
        self._open: Tally | None = None  # being walked just now
        self._measured = False

    def run(self) -> KindItems:
        """List and measure everything."""
        self._measured = True
        if self.exists:
            self.kind.list(self)
            if self.kind.whole:
                for place in self.places:
                    measure.walk(place, self.rest, self.box.stop, self.tick, fences=self.fences, skip=self._done)
        return self.kind_items()

    def measure(self, *parts: str) -> Tally:
        """The size of ``parts`` together, without making an item or counting them."""
        tally = Tally()
        for path in parts:
            measure.walk(path, tally, self.box.stop, self.tick, fences=self.fences)
        return tally

    def take(self, path: str, tally: Tally) -> None:
        """Count ``path``, which was measured as ``tally``, as a part of the kind that is no item."""
        self.rest.merge(tally)
        self._done.add(path)

    def add(
        self,
        name: str,
        *parts: str,
        restore: str = "",
        risk: Risk | None = None,
        used_by: tuple[str, ...] = (),
        suggested: bool | None = None,
        note: str = "",
        counted: bool = True,
        tally: Tally | None = None,
    ) -> None:
        """Make an item of ``parts``, which go together.

        ``suggested`` unless said otherwise: risk none or low, nobody holds it, and ``[cleaning] keep`` does not name
        it. ``counted`` False: its bytes are those of other items too. ``tally`` when it is measured already.
        """
        if tally is None:
            tally = self._open = Tally()
            if not counted:
                self._open = None
            for path in parts:
                measure.walk(path, tally, self.box.stop, self.tick, fences=self.fences)
            self._open = None
        if counted:
            (self.rest if tally.fenced else self.removable).merge(tally)
            self._done.update(parts)
        if tally.fenced:  # another kind's, or another file system, lies in it
            return
        risk = risk or self.kind.risk
        id = f"{self.kind.name}:{paths.shown(name)}"
        keep = self.box.workspace.settings.cleaning.keep
        pattern = next((p for p in keep if fnmatch.fnmatchcase(id, p)), "")
        self.items.append(
            Item(
                id=id,
                kind=self.kind.name,
                name=paths.shown(name),
                paths=tuple(paths.shown(part) for part in parts),
                bytes=tally.bytes,
                freed_bytes=tally.freed_bytes,
                files=tally.files,
                last_used=tally.last_used,
                restore=restore or self.kind.restore,
                risk=risk,
                used_by=used_by,
                suggested=(risk != "high" if suggested is None else suggested) and not used_by and not pattern,
                note=f"{note} {f'Kept by the settings ({pattern!r}).' if pattern else ''}".strip(),
            )
        )
        self.tick()

    def kind_items(self) -> KindItems:
        """The kind as far as it is measured, its items largest first."""
        total = Tally()
        for part in (self.removable, self.rest, self._open):
            if part is not None:
                total.merge(part)
        count = total.unreadable
        unreadable = f"{count} folder{'s' * (count != 1)} in it may not be read." if count else ""
        return KindItems(
            kind=self.kind.name,
            title=self.kind.title,
            paths=self._shown,
            exists=self.exists,
            bytes=total.bytes if self._measured or not self.exists else None,
            freed_bytes=self.removable.freed_bytes if self._measured or not self.exists else None,
            files=total.files if self._measured or not self.exists else None,
            last_used=total.last_used,
            restore=self.kind.restore,
            risk=self.kind.risk,
            items=tuple(sorted(self.items, key=lambda item: (-item.freed_bytes, item.id))),
            budgeted=self.kind.budgeted,
            command=self.kind.command,
            problem=" ".join(filter(None, (self.problem, unreadable))),
        )


def each_entry(look: Look) -> None:
    """The simplest rule: whatever lies directly in a place is an item."""
    for place in look.places:
        for name in names(place):
            look.add(_within(look, place, name), f"{place}/{name}")


def known_entries(**notes: str) -> Callable[[Look], None]:
    """A rule for a place that may hold other things too: only the entries named here are items, "_" standing for "-".

    The text is the item's note.
    """

    def list_known(look: Look) -> None:
        for place in look.places:
            present = set(names(place))
            for name, note in notes.items():
                for written in {name, name.replace("_", "-")} & present:
                    look.add(_within(look, place, written), f"{place}/{written}", note=note)

    return list_known


def whole_place(look: Look) -> None:
    """Each place is one item."""
    for place in look.places:
        look.add("/".join(Path(place).parts[-2:]), place)


def _within(look: Look, place: str, name: str) -> str:
    """A name for ``name`` in ``place``, unique among the kind's places."""
    return name if len(look.places) == 1 else f"{'/'.join(Path(place).parts[-2:])}/{name}"


def names(folder: str) -> list[str]:
    """What lies directly in ``folder``, sorted; nothing when it may not be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  (Path can't hold every name)
    except OSError:
        return []
