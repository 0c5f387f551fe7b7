"""What the server remembers stays consistent, whatever is done to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.drive_bed.blobs import Blob, Blobs
from tests.drive_bed.items import FOLDER, Item, Items, new_id

SIZES = st.integers(0, 1000)


class Keeping(RuleBasedStateMachine):
    """A tree of plain dicts beside the server's own."""

    folders = Bundle("folders")
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.items = Items(Blobs.__new__(Blobs))  # no bytes are stored here
        self.model: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[float, dict[str, dict[str, Any]]]] = []

    @initialize(target=folders)
    def root(self) -> str:
        return self._add(Item("root", "My Drive", FOLDER, [], owner="ann", root=True))

    def _add(self, item: Item) -> str:
        self.items.add(item)
        self.model[item.id] = {
            "parent": item.parents[0] if item.parents else "",
            "name": item.name,
            "trashed": False,
            "size": item.size,
        }
        return item.id

    def _alive(self, *ids: str) -> bool:
        return all(id in self.model for id in ids)

    def _above(self, id: str) -> list[str]:
        chain = []
        while id:
            chain.append(id)
            id = self.model[id]["parent"]
        return chain

    @rule(target=folders, parent=folders)
    def add_folder(self, parent: str) -> str:
        if not self._alive(parent):
            return parent
        return self._add(Item(new_id(), "folder", FOLDER, [parent], owner="ann"))

    @rule(target=files, parent=folders, size=SIZES)
    def add_file(self, parent: str, size: int) -> str:
        where = parent if self._alive(parent) else "root"
        return self._add(Item(new_id(), "file", "a/b", [where], owner="ann", blob=Blob(Path("no"), size)))

    @rule(file=files, size=SIZES)
    def replace(self, file: str, size: int) -> None:
        if self._alive(file):
            self.items.touch(self.items.by_id[file], content=Blob(Path("no"), size))
            self.model[file]["size"] = size

    @rule(file=st.one_of(files, folders), name=st.text(max_size=3), trashed=st.booleans())
    def change(self, file: str, name: str, trashed: bool) -> None:
        if self._alive(file) and file != "root":
            item = self.items.by_id[file]
            self.items.touch(item)
            item.name, item.trashed = name, trashed
            self.model[file] |= {"name": name, "trashed": trashed}

    @rule(file=st.one_of(files, folders), to=folders)
    def move(self, file: str, to: str) -> None:
        if self._alive(file, to) and file != "root" and file not in self._above(to):
            item = self.items.by_id[file]
            self.items.touch(item)
            self.items.move(item, [to], [self.model[file]["parent"]] if self.model[file]["parent"] != to else [])
            self.model[file]["parent"] = to

    @rule(file=st.one_of(consumes(files), folders))
    def delete(self, file: str) -> None:
        if self._alive(file) and file != "root":
            below = [id for id in self.model if file in self._above(id)]
            self.items.delete(self.items.by_id[file])
            for id in below:
                del self.model[id]

    @rule()
    def remember(self) -> None:
        self.seen.append((self.items.now(), copy.deepcopy(self.model)))

    @invariant()
    def the_same_things_in_the_same_places(self) -> None:
        items = self.items
        assert set(items.by_id) == set(self.model)
        for id, model in self.model.items():
            item = items.by_id[id]
            assert (item.parents or [""]) == [model["parent"]]
            assert {child.id for child in items.within(id)} == {k for k, v in self.model.items() if v["parent"] == id}
            assert items.in_trash(item) == any(self.model[one]["trashed"] for one in self._above(id))
        assert items.usage.get("ann", 0) == sum(model["size"] for model in self.model.values())

    @invariant()
    def the_log_ends_with_how_things_are(self) -> None:
        last = {change.id: change.removed for change in self.items.log}
        assert {id for id, removed in last.items() if not removed} == set(self.model)
        assert [change.seq for change in self.items.log] == list(range(1, len(self.items.log) + 1))

    @invariant()
    def the_past_is_kept_for_a_while(self) -> None:
        for moment, model in self.seen[-3:]:
            if sum(change.at > moment for change in self.items.log) > 8:
                continue  # no more states than these are kept
            then = {item.id: (item.name, item.parents or [""]) for item in self.items.as_of(moment)}
            assert then == {id: (one["name"], [one["parent"]]) for id, one in model.items()}


Keeping.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestKeeping = Keeping.TestCase
