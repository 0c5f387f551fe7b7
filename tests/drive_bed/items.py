"""What a Drive holds: files, folders, shortcuts, shared drives, and the log of changes."""

from __future__ import annotations

import copy
import itertools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.drive_bed.blobs import Blob, Blobs

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
_GOOGLE = "application/vnd.google-apps."
_PAST = 8  # earlier states kept per item, for listings that lag behind


def new_id() -> str:
    """An id as Drive's are: 33 characters, a letter or digit first."""
    return "1" + secrets.token_urlsafe(24)


def new_root_id() -> str:
    """The id of a My Drive or of a shared drive: 19 characters from "0A" to "PVA"."""
    return "0A" + secrets.token_urlsafe(12)[:14] + "PVA"


@dataclass(slots=True)
class Item:
    """A file, folder, shortcut or Google Doc. Times are Unix seconds; ``app`` is the OAuth client that made it."""

    id: str
    name: str
    mime: str
    parents: list[str]
    owner: str = ""
    drive: str = ""
    app: str = ""
    opened_by: set[str] = field(default_factory=set)
    blob: Blob | None = None
    created: float = 0.0
    modified: float = 0.0
    trashed: bool = False
    trashed_at: float = 0.0
    properties: dict[str, str] = field(default_factory=dict)
    app_properties: dict[str, dict[str, str]] = field(default_factory=dict)
    description: str = ""
    starred: bool = False
    original_name: str = ""
    target: str = ""
    abusive: bool = False
    read_only: bool = False
    version: int = 1
    revision: str = ""
    root: bool = False
    changed: float = 0.0
    past: list[Item] = field(default_factory=list)

    @property
    def folder(self) -> bool:
        return self.mime == FOLDER

    @property
    def google(self) -> bool:
        """It has no bytes of its own."""
        return self.mime.startswith(_GOOGLE)

    @property
    def size(self) -> int:
        return self.blob.size if self.blob else 0


@dataclass(slots=True)
class SharedDrive:
    """A shared drive; ``members``: e-mail → organizer, fileOrganizer, writer or reader."""

    id: str
    name: str
    members: dict[str, str]
    created: float


@dataclass(slots=True)
class Changed:
    """One entry of the log of changes."""

    seq: int
    id: str
    at: float
    removed: bool
    owner: str
    drive: str


class Items:
    """Everything stored, with an index by parent."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.by_id: dict[str, Item] = {}
        self.children: dict[str, dict[str, Item]] = {}
        self.gone: dict[str, Item] = {}
        self.drives: dict[str, SharedDrive] = {}
        self.log: list[Changed] = []
        self.ids: dict[str, tuple[str, str]] = {}  # generated and not yet used: id → account, "files" or "shortcuts"
        self.usage: dict[str, int] = {}  # bytes of an account's own files, the trash's too
        self._clock = itertools.count(1)
        self._last = 0.0

    def now(self) -> float:
        """The time, never the same twice: so an order by time is an order."""
        self._last = max(time.time(), self._last + 1e-6)
        return self._last

    # -- looking

    def within(self, parent: str) -> Iterator[Item]:
        """The direct children of a folder, also those in the trash."""
        return iter(self.children.get(parent, {}).values())

    def below(self, item: Item) -> Iterator[Item]:
        """Everything below an item."""
        for child in list(self.within(item.id)):
            yield child
            yield from self.below(child)

    def in_trash(self, item: Item) -> bool:
        """It was trashed, or a folder above it was."""
        seen = 0
        while True:
            if item.trashed:
                return True
            above = self.by_id.get(item.parents[0]) if item.parents else None
            if above is None or seen > 200:
                return False
            item, seen = above, seen + 1

    def used_by_trash(self, owner: str) -> int:
        """Bytes that an account's own files take in the trash."""
        mine = (item for item in self.by_id.values() if item.owner == owner and not item.drive)
        return sum(item.size for item in mine if item.blob and self.in_trash(item))

    def _account_for(self, item: Item, size: int) -> None:
        if not item.drive:
            self.usage[item.owner] = self.usage.get(item.owner, 0) + size

    def as_of(self, moment: float) -> list[Item]:
        """Everything as it was at ``moment``: what came later is missing, what was deleted later is there."""
        found = []
        for item in [*self.by_id.values(), *self.gone.values()]:
            if item.changed > moment:
                found += [old for old in reversed(item.past) if old.changed <= moment][:1]
            elif item.id in self.by_id:
                found.append(item)
        return found

    # -- changing

    def add(self, item: Item) -> Item:
        """A new item; its id is taken from now on."""
        item.changed = self.now()
        item.created = item.created or item.changed
        item.modified = item.modified or item.changed
        if item.blob and not item.revision:
            item.revision = "0B" + secrets.token_urlsafe(30)
        self.by_id[item.id] = item
        self._account_for(item, item.size)
        self.ids.pop(item.id, None)
        for parent in item.parents:
            self.children.setdefault(parent, {})[item.id] = item
        self._note(item)
        return item

    def touch(self, item: Item, *, content: Blob | None = None, modified: float | None = None) -> None:
        """Note the state before a change that the caller is about to make; new content is put in place here."""
        before = copy.copy(item)
        before.past = []
        before.properties, before.parents = dict(item.properties), list(item.parents)
        item.past = [*item.past[-_PAST:], before]
        item.changed = self.now()
        item.version += 1
        if modified is not None:
            item.modified = modified
        if content is not None:
            self._account_for(item, content.size - item.size)
            item.blob, item.revision = content, "0B" + secrets.token_urlsafe(30)
        self._note(item)

    def move(self, item: Item, add: list[str], remove: list[str]) -> None:
        """Give and take parents."""
        for parent in remove:
            if parent in item.parents:
                item.parents.remove(parent)
                self.children.get(parent, {}).pop(item.id, None)
        for parent in add:
            if parent not in item.parents:
                item.parents.append(parent)
                self.children.setdefault(parent, {})[item.id] = item
                self._account_for(item, -item.size)
                item.drive = self.by_id[parent].drive
                self._account_for(item, item.size)

    def delete(self, item: Item) -> None:
        """Delete for good, with everything below."""
        for child in [*self.below(item), item]:
            self.by_id.pop(child.id, None)
            self._account_for(child, -child.size)
            for parent in child.parents:
                self.children.get(parent, {}).pop(child.id, None)
            self.children.pop(child.id, None)
            self.touch(child)
            self.log[-1].removed = True
            self.gone[child.id] = child

    def _note(self, item: Item) -> None:
        self.log.append(Changed(next(self._clock), item.id, item.changed, False, item.owner, item.drive))
