"""The fold: records in their order → the registry's state. Pure; the same prefix always gives the same state.

A record that breaks a rule is not obeyed but stays visible, with the reason, in ``State.judged``. The writers ask the
same rules (``why_not``) before they append.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services import formats
from services.drive.store import parts
from services.errors import BadInput
from services.registry import names
from services.registry.records import Added, Moved, Record

DEPLOYED = "deployed"


@dataclass
class Member:
    """A version as folded. ``deployed_at`` is when it was last deployed, None if never."""

    added: Added
    record: Record
    deployed_at: float | None = None


@dataclass(frozen=True)
class Move:
    """An accepted move of an alias: now it points to ``version``."""

    version: int
    record: Record


@dataclass(frozen=True)
class Judged:
    """A record with the verdict; ``why`` is "" when it was accepted. ``before`` is where a moved alias pointed."""

    record: Record
    why: str
    before: int = 0


@dataclass
class State:
    """Everything the registry knows. ``stacks`` holds, by (model, alias), the versions a rollback can go back through,
    the last one being where the alias points; ``last`` the latest accepted move of each alias."""

    registry: str = ""
    models: dict[str, list[Member]] = field(default_factory=dict)
    stacks: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    last: dict[tuple[str, str], Move] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)

    def member(self, model: str, version: int) -> Member | None:
        """The version, or None. Numbers are dense from 1, so this is an index."""
        members = self.models.get(model, [])
        return members[version - 1] if 0 < version <= len(members) else None

    def target(self, model: str, alias: str) -> int:
        """Where the alias points; 0 when nowhere."""
        if alias == names.LATEST:
            return len(self.models.get(model, []))
        stack = self.stacks.get((model, alias))
        return stack[-1] if stack else 0

    def aliases(self, model: str) -> dict[str, int]:
        """All aliases of a model with their versions, by name; ``latest`` first."""
        own = {alias: stack[-1] for (m, alias), stack in sorted(self.stacks.items()) if m == model}
        return {names.LATEST: len(self.models[model]), **own}

    def aliases_of(self, model: str, version: int) -> tuple[str, ...]:
        """The aliases that point to one version."""
        return tuple(alias for alias, target in self.aliases(model).items() if target == version)

    def status(self, model: str, version: int) -> str:
        """ "deployed", "candidate", "retired" (was deployed, is no more) or "registered"."""
        aliases = self.aliases_of(model, version)
        if DEPLOYED in aliases:
            return DEPLOYED
        if "candidate" in aliases:
            return "candidate"
        member = self.member(model, version)
        return "retired" if member is not None and member.deployed_at is not None else "registered"


def fold(records: Iterable[Record]) -> State:
    """The state after ``records``, which start at the log's first."""
    state = State()
    seen: set[str] = set()
    for record in records:
        payload = parse(record.kind, record.payload)
        why = "an earlier record has the same uid" if record.uid in seen else why_not(state, payload)
        before = state.target(payload.model, payload.alias) if isinstance(payload, Moved) else 0
        state.judged.append(Judged(record, why, before))
        if not why:
            seen.add(record.uid)
            _obey(state, record, payload)
    return state


def parse(kind: str, payload: dict[str, Any]) -> Added | Moved | str:
    """The typed payload, or a sentence saying why there is none. "opened" gives the registry's id after "opened:"."""
    types: dict[str, type[Added] | type[Moved]] = {"added": Added, "moved": Moved}
    if kind == "opened":
        return f"opened:{payload.get('registry', '')}"
    if kind not in types:
        return f"this hybrid-tui does not know records of the kind {kind!r}"
    try:
        return msgspec.convert(payload, types[kind])
    except msgspec.ValidationError as error:
        return f"its content is not that of the kind {kind!r} ({error})"


def why_not(state: State, payload: Added | Moved | str) -> str:
    """Why the change may not be made to ``state``, in words; "" when it may."""
    if isinstance(payload, str):
        if not payload.startswith("opened:"):
            return payload
        return "the registry was opened before" if state.judged else ""
    try:
        names.check_model(payload.model)
    except ValueError as error:
        return str(error)
    if isinstance(payload, Added):
        try:
            parts(payload.path), parts(payload.staged)
        except BadInput as error:
            return str(error).rstrip(".")
        expected = len(state.models.get(payload.model, [])) + 1
        return "" if payload.version == expected else f"the next version is {expected}, not {payload.version}"
    return _why_not_moved(state, payload)


def _why_not_moved(state: State, move: Moved) -> str:
    try:
        names.check_alias(move.alias)
    except ValueError as error:
        return str(error)
    if state.member(move.model, move.version) is None:
        return f"there is no {move.model}@{move.version}"
    stack = state.stacks.get((move.model, move.alias), [])
    if (stack[-1] if stack else 0) != move.expected:
        return moved_meanwhile(state, move.model, move.alias, move.expected)
    if move.rollback and (len(stack) < 2 or stack[-2] != move.version):
        return f"{move.model}@{move.alias} did not point to {move.version} before"
    if move.version == move.expected:
        return f"{move.model}@{move.alias} points to {move.version} already"
    return ""


def moved_meanwhile(state: State, model: str, alias: str, expected: int) -> str:
    """The sentence for a writer whose belief about an alias is out of date: who moved it, when and where to."""
    believed = f"it was expected to point to {expected or 'nothing'}"
    last = state.last.get((model, alias))
    if last is None:
        return f"{model}@{alias} points nowhere yet; {believed}"
    when = formats.moment(last.record.at)
    return f"{model}@{alias} was moved to {last.version} by {last.record.who} at {when}; {believed}"


def _obey(state: State, record: Record, payload: Added | Moved | str) -> None:
    if isinstance(payload, str):
        state.registry = payload.removeprefix("opened:")
    elif isinstance(payload, Added):
        state.models.setdefault(payload.model, []).append(Member(payload, record))
    else:
        key = (payload.model, payload.alias)
        stack = state.stacks.setdefault(key, [])
        if payload.rollback:
            stack.pop()
        else:
            stack.append(payload.version)
        state.last[key] = Move(payload.version, record)
        member = state.member(payload.model, payload.version)
        if payload.alias == DEPLOYED and member is not None:
            member.deployed_at = record.at
