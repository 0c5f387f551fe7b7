"""One store's registry: its state, its versions as others see them, where their files lie, who moves aliases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from services.drive.open import open_store
from services.drive.store import INCOMING, Store
from services.errors import BadInput, HybridError, Refused, nearest
from services.registry import manifest, names, view
from services.registry.fold import Member, State, fold, why_not
from services.registry.log import Chain, Draft, Log, damaged
from services.registry.records import Added, Moved, Record
from services.registry.types import Version
from services.workspace import Workspace

FOLDERS = (
    "models/base-models",
    "models/finetuned",
    "models/deployed",
    "datasets",
    "notebooks",
    "results/training_logs",
    "results/benchmarks",
    "results/inference_results",
    "docs/registry/log",
)


@dataclass
class Registry:
    """The registry kept in ``store``. Reading creates nothing."""

    store: Store
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.log = Log(self.store)

    async def read(self) -> tuple[State, Chain]:
        """The state now, and the chain it was folded from (whose ``damage`` is a sentence or "")."""
        chain = await self.log.read()
        return fold(chain.records), chain

    async def state(self) -> State:
        """The state now."""
        return (await self.read())[0]

    async def writable(self) -> State:
        """The state, for an action that will write. Raises HybridError when the log is damaged."""
        state, chain = await self.read()
        if chain.damage:
            raise damaged(chain)
        return state

    async def append(self, kind: str, decide: Callable[[State], Added | Moved | Record], uid: str = "") -> Record:
        """Append what ``decide`` makes of the state as it stands; see ``Log.append``. Raises Refused when the fold
        would reject it."""
        uid, who = uid or uuid.uuid4().hex, names.who()

        def draft(chain: Chain) -> Draft | Record:
            state = fold(chain.records)
            payload = decide(state)
            if isinstance(payload, Record):
                return payload
            why = why_not(state, payload)
            if why:
                raise Refused(f"{why[0].upper()}{why[1:]}." if why.startswith("there") else f"{why}.")
            return Draft(uid, who, kind, msgspec.to_builtins(payload))

        return await self.log.append(draft)

    async def settle(self) -> tuple[str, ...]:
        """After a write: bring committed folders to their final names and rebuild the views. Returns warnings.

        The record is committed by now, so a failure here is a warning, and the next write does it again.
        """
        try:
            state = await self.state()
            staged = {f"{INCOMING}/{entry.name}" for entry in await self.store.list(INCOMING) if entry.folder}
            for members in state.models.values() if staged else ():
                for member in members:
                    if member.added.staged in staged:
                        await self.store.rename(member.added.staged, member.added.path)
            return await view.refresh(self.log, state, self.state)
        except HybridError as error:
            return (f"Written, but the view for people could not be refreshed: {error}",)

    async def places(self, added: Sequence[Added]) -> list[str]:
        """Where each version's folder lies in the store: at its final path when the manifest there is its own, else
        where it was staged (a writer died between the record and the move, or a foreign folder has the name)."""
        final = await self.store.read_many([f"{a.path}/{manifest.NAME}" for a in added])
        found = [a.path for a in added]
        astray = [i for i, data in enumerate(final) if data is None or manifest.digest(data) != added[i].digest]
        staged = await self.store.read_many([f"{added[i].staged}/{manifest.NAME}" for i in astray])
        for i, data in zip(astray, staged, strict=True):
            if data is not None and manifest.digest(data) == added[i].digest:
                found[i] = added[i].staged
        return found

    async def version(self, state: State, model: str, number: int, *, warnings: tuple[str, ...] = ()) -> Version:
        """A version as actions return it. It must exist in ``state``."""
        [found] = await self.versions(state, [(model, number)])
        return msgspec.structs.replace(found, warnings=warnings)

    async def versions(self, state: State, wanted: Sequence[tuple[str, int]]) -> list[Version]:
        """Versions as actions return them, by (model, number). They must exist in ``state``."""
        members = [state.models[model][number - 1] for model, number in wanted]
        places = await self.places([m.added for m in members])
        return [self._version(state, m, place) for m, place in zip(members, places, strict=True)]

    def _version(self, state: State, member: Member, place: str) -> Version:
        added = member.added
        model, number = added.model, added.version
        return Version(
            model=model,
            version=number,
            id=f"{model}@{number}",
            type=added.type,
            digest=added.digest,
            size_bytes=added.size_bytes,
            base_model=added.base_model,
            training_date=added.training_date,
            metrics=added.metrics,
            status=state.status(model, number),
            aliases=state.aliases_of(model, number),
            path=self.store.local(place),
            added_at=member.record.at,
            deployed_at=member.deployed_at,
            note=added.note,
            files=added.files,
            record=member.record.id,
            by=member.record.who,
        )


def open_registry(workspace: Workspace) -> Registry:
    """The registry of the workspace's store."""
    return Registry(open_store(workspace))


def find_model(state: State, model: str) -> str:
    """``model`` if it exists. Raises BadInput naming the nearest one."""
    if model in state.models:
        return model
    known = sorted(state.models)
    hint = (
        f"Models: {', '.join(known)}."
        if known
        else "There are none yet: hybrid-tui --run registry.add model=NAME path=DIR"
    )
    raise BadInput(f"There is no model {model!r} in the registry{nearest(model, known) or '.'}", hint=hint)


def find_version(state: State, model: str, wanted: str) -> int:
    """The number that ``wanted`` ("2", "v2" or an alias) means now. Raises BadInput with what there is."""
    find_model(state, model)
    count = len(state.models[model])
    number = names.number(wanted)
    if number is not None:
        if state.member(model, number) is not None:
            return number
        have = "1" if count == 1 else f"1 to {count}"
        raise BadInput(f"There is no {model}@{number}.", hint=f"Versions of {model}: {have}.")
    target = state.target(model, wanted)
    if target:
        return target
    known = state.aliases(model)
    raise BadInput(
        f"{model} has no alias {wanted!r}{nearest(wanted, list(known)) or '.'}",
        hint="Aliases: " + ", ".join(f"{a} → {v}" for a, v in known.items()) + ".",
    )


def split_reference(model: str, version: str | int = "") -> tuple[str, str]:
    """("banking", "2") from ``model`` "banking@2", or from the two given apart. Raises BadInput when both differ."""
    name, at, own = model.partition("@")
    given = str(version)
    if at and given and own != given:
        raise BadInput(f"{model!r} and version={given} name two versions.", hint="Give the version once.")
    try:
        names.check_model(name)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    return name, given or own
