"""The log and its fold: a state machine against a plain model, and damage of every sort."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.drive.folder import FolderStore
from services.errors import HybridError, Refused
from services.registry import records, view
from services.registry.fold import State, fold
from services.registry.log import FOLDER, Draft
from services.registry.records import Added, Moved
from services.registry.registry import Registry

MODELS = st.sampled_from(["banking", "cards"])
ALIASES = st.sampled_from(["deployed", "candidate"])


def added(model: str, version: int) -> Added:
    """A payload without bytes behind it: the log does not look at them."""
    return Added(model, version, "files", "0" * 64, 1, 1, "", "", {"accuracy": 0.5}, "", f"m/{model}-v{version}", "s")


def registry_in(folder: Path) -> Registry:
    """A registry whose records' times don't depend on the clock."""
    registry = Registry(FolderStore(folder / "root", folder))
    registry.log.clock = lambda: 1_700_000_000.0
    return registry


class LogMachine(RuleBasedStateMachine):
    """Honest writers with beliefs that may be out of date, a foreign writer that ignores the rules, and a model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = registry_in(Path(self.folder.name))
        self.versions: dict[str, int] = {}
        self.stacks: dict[tuple[str, str], list[int]] = {}
        self.views: list[bytes] = []
        self.old: State = fold(())

    def teardown(self) -> None:
        self.folder.cleanup()

    def append(self, kind: str, payload: Added | Moved) -> bool:
        try:
            asyncio.run(self.registry.append(kind, lambda _: payload))
        except Refused:
            return False
        return True

    @rule(model=MODELS)
    def add(self, model: str) -> None:
        async def run() -> None:
            await self.registry.append("added", lambda s: added(model, len(s.models.get(model, [])) + 1))

        asyncio.run(run())
        self.versions[model] = self.versions.get(model, 0) + 1

    @rule(model=MODELS, version=st.integers(0, 6))
    def add_with_a_number_of_its_own(self, model: str, version: int) -> None:
        right = version == self.versions.get(model, 0) + 1
        assert self.append("added", added(model, version)) == right
        if right:
            self.versions[model] = version

    @rule(model=MODELS, alias=ALIASES, version=st.integers(0, 5), expected=st.integers(0, 5))
    def promote(self, model: str, alias: str, version: int, expected: int) -> None:
        stack = self.stacks.get((model, alias), [])
        now = stack[-1] if stack else 0
        legal = 1 <= version <= self.versions.get(model, 0) and expected == now and version != now
        assert self.append("moved", Moved(model, alias, version, expected, False, "")) == legal
        if legal:
            self.stacks[model, alias] = [*stack, version]

    @rule(model=MODELS, alias=ALIASES, version=st.integers(1, 5))
    def roll_back(self, model: str, alias: str, version: int) -> None:
        stack = self.stacks.get((model, alias), [])
        legal = len(stack) > 1 and stack[-2] == version
        expected = stack[-1] if stack else 0
        assert self.append("moved", Moved(model, alias, version, expected, True, "")) == legal
        if legal:
            stack.pop()

    @precondition(lambda self: self.versions)
    @rule(
        kind=st.sampled_from(["added", "moved", "opened", "shuffled"]),
        payload=st.dictionaries(st.sampled_from(["model", "version", "alias"]), st.integers() | st.text(max_size=3)),
        reuse=st.booleans(),
    )
    def foreign_record_is_visible_and_without_effect(self, kind: str, payload: dict[str, Any], reuse: bool) -> None:
        async def run() -> None:
            chain = await self.registry.log.read()
            uid = chain.records[0].uid if reuse else f"foreign{len(chain.records)}"
            await self.registry.log._put(chain, Draft(uid, "foreign", kind, payload))

        asyncio.run(run())
        assert asyncio.run(self.registry.state()).judged[-1].why

    @invariant()
    def state_is_the_models(self) -> None:
        state, chain = asyncio.run(self.registry.read())
        assert not chain.damage
        assert {m: len(v) for m, v in state.models.items()} == self.versions
        for members in state.models.values():
            assert [m.added.version for m in members] == list(range(1, len(members) + 1))
        assert {k: s for k, s in state.stacks.items() if s} == {k: s for k, s in self.stacks.items() if s}
        slots = [r.id for r in chain.records]
        assert len(set(slots)) == len(slots)
        assert [r.next for r in chain.records[:-1]] == slots[1:]

    @invariant()
    def a_prefix_always_gives_the_same_bytes(self) -> None:
        chain = asyncio.run(self.registry.log.read())
        for n in range(len(self.views), len(chain.records) + 1):
            self.views.append(view.registry_view(fold(chain.records[:n])))
        for n in (0, len(self.views) // 2, len(self.views) - 1):
            assert view.registry_view(fold(chain.records[:n])) == self.views[n]


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


async def _filled(folder: Path, n: int = 4) -> Registry:
    registry = registry_in(folder)
    for _ in range(n):
        await registry.append("added", lambda s: added("banking", len(s.models.get("banking", [])) + 1))
    return registry


def _slots(registry: Registry, chain_ids: list[str]) -> list[Path]:
    return [Path(registry.store.local(f"{FOLDER}/{i}.json")) for i in chain_ids]


def _tamper(data: bytes) -> bytes:
    return data.replace(b"banking", b"bankinG")


def _reseal(data: bytes) -> bytes:
    """A record rewritten with a right checksum of its own: only the chain shows it."""
    record = msgspec.structs.replace(
        msgspec.json.decode(json.dumps(json.loads(data)["record"]), type=records.Record), at=1.0
    )
    return records.encode(record)


DAMAGE = {
    "empty": lambda _: b"",
    "torn": lambda d: d[: len(d) // 2],
    "not UTF-8": lambda d: d[:40] + b"\xff\xfe" + d[42:],
    "a changed letter": _tamper,
    "other JSON": lambda _: b'{"a": 1}',
    "foreign text": lambda _: b"# merge conflict\n",
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_named_and_everything_before_it_stays(tmp_path: Path, kind: str) -> None:
    registry = await _filled(tmp_path)
    before = await registry.log.read()
    path = _slots(registry, [r.id for r in before.records])[3]
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    kept = {p: p.read_bytes() for p in path.parent.iterdir()}

    state, chain = await registry.read()
    assert path.name in chain.damage
    assert len(state.models["banking"]) == 2
    with pytest.raises(HybridError, match=path.name) as caught:
        await registry.append("added", lambda s: added("banking", 3))
    assert caught.value.hint
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == kept


async def test_a_record_rewritten_with_its_own_checksum_breaks_the_chain(tmp_path: Path) -> None:
    registry = await _filled(tmp_path)
    chain = await registry.log.read()
    path = _slots(registry, [r.id for r in chain.records])[2]
    path.write_bytes(_reseal(path.read_bytes()))
    assert "does not follow" in (await registry.log.read()).damage


async def test_a_lost_record_is_not_taken_for_the_end(tmp_path: Path) -> None:
    registry = await _filled(tmp_path)
    chain = await registry.log.read()
    path = _slots(registry, [r.id for r in chain.records])[2]
    held = path.read_bytes()
    path.unlink()
    assert path.name in (await registry.log.read()).damage
    with pytest.raises(HybridError, match="missing"):
        await registry.append("added", lambda s: added("banking", 2))
    assert not path.exists()
    path.write_bytes(held)  # brought back from a backup
    assert not (await registry.log.read()).damage
    await registry.append("added", lambda s: added("banking", 5))


@pytest.mark.parametrize("head", [None, b"", b"{", b'{"seq": 0, "id": "genesis"}'])
async def test_head_is_only_a_hint(tmp_path: Path, head: bytes | None) -> None:
    registry = await _filled(tmp_path)
    hint = "docs/registry/HEAD"
    if head is None:
        assert await registry.store.rename(hint, "gone")
    else:
        await registry.store.write(hint, head)
    assert len((await registry.log.read()).records) == 5
    await registry.append("added", lambda s: added("banking", 5))


async def test_the_loser_of_a_slot_reads_again_and_decides_again(tmp_path: Path) -> None:
    registry, other = await _filled(tmp_path, 1), registry_in(tmp_path)
    asked: list[int] = []

    async def overtaking_put(folder: str, id: str, data: bytes) -> bool:
        registry.store.put_new = put  # type: ignore[method-assign]
        await other.append("added", lambda s: added("banking", 2))
        return await put(folder, id, data)

    def decide(state: State) -> Added:
        asked.append(len(state.models["banking"]))
        return added("banking", asked[-1] + 1)

    put = registry.store.put_new
    registry.store.put_new = overtaking_put  # type: ignore[method-assign]
    record = await registry.append("added", decide)
    assert asked == [1, 2]
    assert record.payload["version"] == 3


async def test_a_lost_answer_does_not_write_twice(tmp_path: Path) -> None:
    registry = await _filled(tmp_path, 1)
    put = registry.store.put_new

    async def forgetful(folder: str, id: str, data: bytes) -> bool:
        await put(folder, id, data)
        return False  # as a store does that commits, loses the reply, and answers "taken" to the retry

    registry.store.put_new = forgetful  # type: ignore[method-assign]
    await registry.append("added", lambda s: added("banking", len(s.models["banking"]) + 1))
    assert len((await registry.state()).models["banking"]) == 2


async def test_a_registry_of_a_newer_format_can_be_read_but_not_written(tmp_path: Path) -> None:
    registry = await _filled(tmp_path, 1)
    chain = await registry.log.read()
    newer = records.Record(99, chain.tail, "n", chain.prev, 2, "u", "w", 0.0, "merged", {"model": "banking"})
    assert await registry.store.put_new(FOLDER, chain.tail, records.encode(newer))
    state = await registry.state()
    assert len(state.models["banking"]) == 1
    assert "does not know" in state.judged[-1].why
    with pytest.raises(Refused, match="newer hybrid-tui"):
        await registry.append("added", lambda s: added("banking", 2))


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/../../b", "a\nb"])
async def test_a_foreign_version_outside_the_store_has_no_effect(tmp_path: Path, path: str) -> None:
    registry = await _filled(tmp_path, 1)
    chain = await registry.log.read()
    hostile = msgspec.to_builtins(msgspec.structs.replace(added("banking", 2), path=path))
    foreign = records.Record(1, chain.tail, "n", chain.prev, 2, "u", "w", 0.0, "added", hostile)
    assert await registry.store.put_new(FOLDER, chain.tail, records.encode(foreign))
    state = await registry.state()
    assert len(state.models["banking"]) == 1
    assert "not a path inside the store" in state.judged[-1].why
