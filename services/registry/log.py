"""The slot-chained log: read from the first slot to the first empty one, append by exclusive create of that slot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.drive.store import Store
from services.errors import HybridError, Refused
from services.registry import records
from services.registry.records import DamagedRecord, Record

FOLDER = "docs/registry/log"
HEAD = "docs/registry/HEAD"


class Draft(msgspec.Struct, frozen=True):
    """What a writer wants to append; the log adds the ids, the place in the chain and the time."""

    uid: str
    who: str
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """The readable beginning of the log. ``tail`` is the id of the first empty slot, "" when ``damage`` says why the
    chain can't be read to its end (one sentence that names the file)."""

    records: tuple[Record, ...] = ()
    tail: str = ""
    prev: str = ""
    damage: str = ""


class _Head(msgspec.Struct, frozen=True):
    seq: int
    id: str


@dataclass
class Log:
    """A log in ``store``. ``clock`` gives the time shown in records."""

    store: Store
    clock: Callable[[], float] = field(default=time.time)

    async def read(self) -> Chain:
        """The chain as it stands. A damaged or missing record ends it and sets ``damage``; never raises for content."""
        found: list[Record] = []
        slot, prev, damage = await self.store.first_id(FOLDER), "", ""

        def follow(id: str, data: bytes) -> str | None:
            nonlocal slot, prev, damage
            try:
                record = records.decode(data, id=id)
                if record.prev != prev or record.seq != len(found):
                    raise DamagedRecord("it does not follow the record before it")
            except DamagedRecord as error:
                damage = f"The registry's record {self._file(id)} is damaged: {error}."
                return None
            found.append(record)
            slot, prev = record.next, records.digest(data)
            return slot

        await self.store.walk(FOLDER, slot, follow)
        damage = damage or await self._missing(found, slot)
        return Chain(tuple(found), "" if damage else slot, prev, damage)

    async def append(self, decide: Callable[[Chain], Draft | Record]) -> Record:
        """Append the record that ``decide`` drafts from the chain as it stands, and return it as written.

        When another writer takes the slot first, the chain is read again and ``decide`` is asked again; it may raise
        to give up, or return an existing Record that makes the change unnecessary. Raises HybridError when the chain
        is damaged: nothing may be written behind a record that can't be read.
        """
        while True:
            chain = await self.read()
            if chain.damage:
                raise damaged(chain)
            newer = next((r for r in chain.records if r.v > records.FORMAT), None)
            if newer is not None:
                raise Refused(
                    f"The registry's record {newer.id} was written by a newer hybrid-tui (format {newer.v}).",
                    hint="Update hybrid-tui before writing here; reading goes on.",
                )
            if not chain.records:
                opened = {"registry": await self.store.new_id()}
                await self._put(chain, Draft(await self.store.new_id(), "hybrid-tui", "opened", opened))
                continue
            draft = decide(chain)
            if isinstance(draft, Record):
                return draft
            same = next((r for r in chain.records if r.uid == draft.uid), None)
            if same is not None:  # our own earlier attempt got through and only its answer was lost
                return same
            written = await self._put(chain, draft)
            if written is not None:
                return written

    async def _put(self, chain: Chain, draft: Draft) -> Record | None:
        record = Record(
            v=records.FORMAT, id=chain.tail, next=await self.store.new_id(), prev=chain.prev, seq=len(chain.records),
            uid=draft.uid, who=draft.who, at=self.clock(), kind=draft.kind, payload=draft.payload,
        )  # fmt: skip
        if not await self.store.put_new(FOLDER, record.id, records.encode(record)):
            return None
        try:
            await self.store.write(HEAD, msgspec.json.encode(_Head(record.seq, record.id)) + b"\n")
        except HybridError:  # only a hint: the record is committed whether or not HEAD could follow
            return record
        return record

    async def _missing(self, found: list[Record], slot: str) -> str:
        """HEAD never says where to write; that it knows a later record than the chain shows means one was lost."""
        data = await self.store.read(HEAD)
        try:
            head = msgspec.json.decode(data or b"", type=_Head)
        except msgspec.DecodeError:
            return ""
        if head.seq < len(found):
            return ""
        if await self.store.read_slot(FOLDER, slot) is not None:  # appended since the walk: not lost
            return ""
        return (
            f"The registry's record {self._file(slot)} is missing: "
            f"{len(found)} can be read and at least {head.seq + 1} were written."
        )

    def _file(self, slot: str) -> str:
        return self.store.local(f"{FOLDER}/{slot}.json")


def damaged(chain: Chain) -> HybridError:
    """The refusal to write behind ``chain``'s damage."""
    return HybridError(
        chain.damage + " Nothing was written.",
        hint="Bring that file back from a backup (or Drive's trash); the records before it stay readable meanwhile.",
    )
